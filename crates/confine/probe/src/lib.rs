//! What this machine offers a sandbox, and what it lacks: the content of `ringwall doctor`.
//!
//! Facts are read (`facts`), what can't be read is tried for real in a short-lived child (`trial`), each is judged by pure
//! functions (`namespaces`, `landlock`, …) into a [`Requirement`], and those make a [`Doctor`]. Never part of a run's start
//! (it costs milliseconds), never changes anything that outlives it, never guesses where it can try.

mod control_groups;
mod doctor;
mod facts;
mod kernel_calls;
mod kvm;
mod landlock;
mod namespaces;
mod render;
mod requirement;
mod seccomp;
mod state_dir;
mod trial;

pub use doctor::{Availability, Doctor, Host, TierReport, probe};
pub use requirement::{Need, Requirement, Status};
