//! Virtio devices (VIRTIO 1.2): what is common to them. Each device has a folder.

pub mod block;
mod chain;
mod device;
pub mod net;
mod queue;
mod segments;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use chain::{Chain, ChainError, Segment};
pub use device::{ActivateError, DeviceError, Fault, RestoreError, Session, Source, VirtioDevice};
pub use queue::VirtQueue;
