//! The MMIO transport (VIRTIO 1.2 §4.2), version 2: registers in front of a virtio device.
//!
//! ```text
//! vCPU:  read/write -> MmioWindow --interrupt status, notify--> no lock
//!                          '------everything else-------------> Mutex<MmioTransport> -> status, queues, configuration space
//! VMM:   queue event (ioeventfd) -> MmioTransport::notified -> device
//!        a device's own source   -> MmioTransport::ready    -> device
//!        change event            -> MmioTransport::sources: which descriptors to wait on has changed
//! device -> Session::signal -> MmioInterrupt -> interrupt event (irqfd)
//! ```
//!
//! The guest writes registers in any order, width and at any time. What is not legal in the device's state is ignored, so that the
//! device only ever sees queues that were checked and features that were offered.

#[cfg(any(test, feature = "testing"))]
pub mod driver;
mod guest;
mod interrupt;
mod metrics;
mod register;
mod state;
mod status;
mod transport;
mod window;

#[cfg(test)]
mod tests;

pub use interrupt::MmioInterrupt;
pub use metrics::TransportMetrics;
pub use register::NOTIFY_OFFSET;
pub use state::{MmioState, QueueRecord};
pub use transport::{MmioTransport, NewTransportError};
pub use window::MmioWindow;

/// Bytes of address space that a device takes: the registers (§4.2.2) and its configuration space, rounded up to a page.
pub const WINDOW_BYTES: u64 = 0x1000;
