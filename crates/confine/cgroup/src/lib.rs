//! Control groups: limits on memory, CPU and processes that hold for all processes of a sandbox together.
//!
//! [`Host::read`] finds what is mounted and where this process is, [`Plan::for_limits`] chooses a place for each limit or says
//! why there is none, [`Group::create`] makes it. Called only when a limit was asked for, or for a sandbox that is to be paused: a run
//! without pays nothing.
//! Never moves a process out of the groups that hold it unless this user was given the group it goes to, never changes a
//! group it did not make (but for switching a controller on for its own children), never kills by a pid that may be reused.
#![forbid(unsafe_code)]

mod control_file;
mod controller;
mod freeze;
mod group;
mod host;
mod kill;
mod plan;
mod why_not;

pub use controller::{Controller, Mechanism};
pub use freeze::{FreezeGroupError, Freezer};
pub use group::{AddProcessError, CreateGroupError, Events, Group, RemoveGroupError, ReopenGroupError, Usage};
pub use host::{Host, ReadHostError};
pub use kill::KillAllError;
pub use plan::{LimitsUnavailable, Plan, Request};
pub use why_not::WhyNot;
