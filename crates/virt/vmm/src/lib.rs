//! A virtual machine: memory, vCPUs, device wiring, pause, snapshot and restore.

mod append;
pub mod attach;
pub mod board;
pub mod event_loop;
pub mod files;
pub mod machine;
pub mod memory;
pub mod open;
pub mod plan;
pub mod shell;
pub mod snapshot;
pub mod vcpu;
