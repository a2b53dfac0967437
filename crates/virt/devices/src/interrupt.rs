//! Interrupts behind one trait: wired lines by irqfd now, messages (MSI-X) with PCI later.
//!
//! With messages an order will matter: masking a vector de-assigns its irqfd *before* the routing table is written (the other order
//! panics AMD hosts), and unmasking assigns it *after*. An implementation keeps both orders to itself.

use std::fmt::Debug;
use std::io;

/// Why a virtio device interrupts (VIRTIO 1.2 §4.2.2, InterruptStatus).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// A queue has used buffers.
    Queue(u16),
    /// The configuration space, or the device's status, has changed.
    Configuration,
}

/// A way to interrupt the guest.
pub trait Interrupt: Debug + Send + Sync {
    /// Interrupts. Never waits.
    ///
    /// # Errors
    /// What writing to the event descriptor says.
    fn trigger(&self, cause: Cause) -> io::Result<()>;
}
