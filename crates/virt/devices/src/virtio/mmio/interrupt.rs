//! The transport's interrupt: a status that says why, and a wired line.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::interrupt::{Cause, Interrupt, InterruptLine};

/// Bits of the interrupt status (VIRTIO 1.2 §4.2.2, InterruptStatus).
const USED_BUFFER: u32 = 1;
const CONFIGURATION_CHANGE: u32 = 2;

/// What a device interrupts by. The guest reads and acknowledges the status without the transport's lock.
#[derive(Debug)]
pub struct MmioInterrupt {
    line: InterruptLine,
    status: AtomicU32,
    /// Counts changes of the configuration space, so that a driver notices one in the middle of its reads (§2.5.1).
    generation: AtomicU32,
}

impl MmioInterrupt {
    pub(super) fn new() -> io::Result<Self> {
        Ok(MmioInterrupt {
            line: InterruptLine::new()?,
            status: AtomicU32::new(0),
            generation: AtomicU32::new(0),
        })
    }

    /// The line, for `KVM_IRQFD`.
    #[must_use]
    pub fn line(&self) -> &InterruptLine {
        &self.line
    }

    pub(super) fn status(&self) -> u32 {
        self.status.load(Ordering::SeqCst)
    }

    pub(super) fn acknowledge(&self, bits: u32) {
        self.status.fetch_and(!bits, Ordering::SeqCst);
    }

    pub(super) fn generation(&self) -> u32 {
        self.generation.load(Ordering::SeqCst)
    }

    pub(super) fn restore(&self, status: u32, generation: u32) {
        self.status
            .store(status & (USED_BUFFER | CONFIGURATION_CHANGE), Ordering::SeqCst);
        self.generation.store(generation, Ordering::SeqCst);
    }
}

impl Interrupt for MmioInterrupt {
    fn trigger(&self, cause: Cause) -> io::Result<()> {
        let bit = match cause {
            Cause::Queue(_) => USED_BUFFER,
            Cause::Configuration => {
                self.generation.fetch_add(1, Ordering::SeqCst);
                CONFIGURATION_CHANGE
            }
        };
        // The status first: the guest reads it as soon as the line rises. The line is pulsed even if the bit was set already, since a
        // driver may acknowledge after it has looked at its rings, and would then never look again.
        self.status.fetch_or(bit, Ordering::SeqCst);
        self.line.pulse()
    }
}
