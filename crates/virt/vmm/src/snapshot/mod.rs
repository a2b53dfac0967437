//! Snapshots: a state file that says what it is, and a memory file with holes.

pub mod clocks;
pub mod document;
mod fault_clock;
pub mod handler_watch;
pub mod memory_file;
pub mod state_file;
pub mod store;
pub mod uffd;
