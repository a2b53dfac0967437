//! A virtual machine: memory, vCPUs, device wiring, pause, snapshot and restore.

pub mod memory;
pub mod snapshot;
