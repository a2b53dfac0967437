//! Seccomp allow-lists for both architectures, as data, and the BPF programs made of them.
//!
//! A [`Profile`] and [`Options`] go in; [`compile()`] returns the program that the caller installs with seccomp(2).
//! [`decide()`] gives the same answer for one call, for a supervisor and for tests; [`name_of`] names it in a report.
//! What isn't known is `ENOSYS`, what is known and denied is mostly `EPERM`, another architecture's call kills.
//!
//! This crate makes no system call and holds no unsafe code: installing is the caller's.

#![forbid(unsafe_code)]

mod arch;
mod assembler;
mod compile;
mod decide;
mod profile;
mod rules;
mod tables;
#[cfg(test)]
mod tests;
mod verdict;

pub use arch::Arch;
pub use compile::{CompileError, MAX_INSTRUCTIONS, compile};
pub use decide::decide;
pub use profile::{Denied, Network, Options, Profile};
pub use tables::{name_of, number_of};
pub use verdict::Verdict;
