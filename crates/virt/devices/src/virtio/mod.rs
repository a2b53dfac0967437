//! Virtio devices (VIRTIO 1.2): what is common to them. Each device has a folder.

pub mod balloon;
pub mod block;
mod chain;
mod device;
pub mod mmio;
pub mod net;
mod queue;
#[cfg(test)]
mod queue_tests;
#[cfg(test)]
mod race_tests;
pub mod rng;
mod segments;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod vsock;

pub use chain::{Chain, ChainError, Segment};
pub use device::{ActivateError, DeviceError, Fault, RestoreError, Session, Source, VirtioDevice};
pub use queue::VirtQueue;
