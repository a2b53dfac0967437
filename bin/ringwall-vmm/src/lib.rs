//! The parts of `ringwall-vmm`: its command line and its HTTP server. `main.rs` joins them with the virtual machine.
#![cfg_attr(not(test), warn(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

pub mod api;
pub mod args;
mod changes;
pub mod confine;
mod console;
mod given;
mod host;
pub mod jail;
mod logging;
mod metrics;
mod outlet;
mod processor;
pub mod run;
