//! Interrupts behind one trait: wired lines by irqfd now, messages (MSI-X) with PCI later.
//!
//! With messages an order will matter: masking a vector de-assigns its irqfd *before* the routing table is written (the other order
//! panics AMD hosts), and unmasking assigns it *after*. An implementation keeps both orders to itself.

use std::fmt::Debug;
use std::io;

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

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

/// A wired line by irqfd: writing the descriptor is a pulse, which is an edge at the interrupt controller.
///
/// The VMM hands the descriptor to `KVM_IRQFD`. Order does not matter: KVM looks at the counter when it takes the descriptor, so a
/// pulse from before is not lost. It may interrupt a moment later, from a worker of the kernel's.
#[derive(Debug)]
pub struct InterruptLine {
    event: EventFd,
}

impl InterruptLine {
    /// Makes a line that nobody listens to yet.
    ///
    /// # Errors
    /// What `eventfd2(2)` says.
    pub fn new() -> io::Result<Self> {
        Ok(InterruptLine { event: event()? })
    }

    /// The descriptor for `KVM_IRQFD`.
    #[must_use]
    pub fn event(&self) -> &EventFd {
        &self.event
    }

    /// Interrupts. Never waits.
    ///
    /// # Errors
    /// The counter is full: nobody has listened for 2^64 - 2 pulses.
    pub fn pulse(&self) -> io::Result<()> {
        self.event.write(1)
    }
}

impl vm_superio::Trigger for InterruptLine {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.pulse()
    }
}

/// An event descriptor as the devices need it: never waits, closed on exec.
///
/// # Errors
/// What `eventfd2(2)` says.
pub(crate) fn event() -> io::Result<EventFd> {
    EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)
}
