//! virtio-block: a disk for the guest, out of a file or block device of the host (VIRTIO 1.2 §5.2).
//!
//! ```text
//! queue -> request (parse, check) -> rate limiter -> engine (sync | threads | io_uring) -> status byte -> used ring -> interrupt
//! ```

mod buffers;
mod config;
mod device;
mod disk;
mod engine;
mod flight;
mod metrics;
mod operation;
mod request;
mod state;
#[cfg(test)]
mod tests;

pub use device::{Block, BlockOptions, MakeBlockError, ReplaceDiskError};
pub use disk::{CacheType, OpenDiskError};
pub use engine::{Engine, EngineChoice};
pub use metrics::BlockMetrics;
