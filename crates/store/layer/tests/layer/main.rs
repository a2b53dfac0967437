//! Tests of captured writes on real file systems: uppers built by hand, and uppers that overlayfs itself wrote.

#![expect(clippy::unwrap_used, reason = "helpers of tests end the test")]
#![expect(clippy::print_stdout, reason = "a test that can't run says so")]

mod crash;
mod diff;
mod discard;
mod hand_built;
mod overlay;
mod support;
mod unprivileged;
