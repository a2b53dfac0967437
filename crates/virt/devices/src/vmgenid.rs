//! A generation id (Microsoft, "Virtual Machine Generation ID"): 16 random bytes in guest memory that change when the machine is restored or
//! cloned, and an interrupt that says so. The guest's kernel then reseeds its random numbers, so that clones do not share them.

use std::io;

use ringwall_arch::GuestRam;
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};
use thiserror::Error;
use vm_memory::{Bytes as _, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use crate::interrupt::InterruptLine;

/// Bytes of an id.
pub const ID_BYTES: usize = 16;

/// Why there is no new generation.
#[derive(Debug, Error)]
pub enum GenerationError {
    /// The event of the interrupt.
    #[error("cannot make or signal an event")]
    Event(#[source] io::Error),
    /// The host's random numbers.
    #[error("the host gives no random bytes")]
    Random(#[source] Errno),
    /// Where it should be is no memory.
    #[error("the generation id's place {address:#x} is not memory")]
    Place {
        /// Where.
        address: u64,
    },
}

/// The generation id of a machine.
#[derive(Debug)]
pub struct GenerationId {
    address: GuestAddress,
    line: InterruptLine,
}

impl GenerationId {
    /// Puts a first id at a place in guest memory that firmware tables tell the guest of; the guest is not interrupted.
    ///
    /// # Errors
    /// See [`GenerationError`].
    pub fn new(memory: &GuestRam, address: GuestAddress) -> Result<Self, GenerationError> {
        let id = GenerationId {
            address,
            line: InterruptLine::new().map_err(GenerationError::Event)?,
        };
        id.write(memory)?;
        Ok(id)
    }

    /// The event of the interrupt line, for `KVM_IRQFD`.
    #[must_use]
    pub fn interrupt_event(&self) -> &EventFd {
        self.line.event()
    }

    /// Begins a new generation and tells the guest. Call after a restore, before the vCPUs run: it must not see half of an id.
    ///
    /// # Errors
    /// See [`GenerationError`]. The guest must then not run: it would repeat the random numbers of its siblings.
    pub fn renew(&self, memory: &GuestRam) -> Result<(), GenerationError> {
        self.write(memory)?;
        self.line.pulse().map_err(GenerationError::Event)
    }

    fn write(&self, memory: &GuestRam) -> Result<(), GenerationError> {
        let mut id = [0_u8; ID_BYTES];
        // Whole for so few bytes (getrandom(2): up to 256 are never cut short, once the generator is ready).
        getrandom(&mut id, GetRandomFlags::empty()).map_err(GenerationError::Random)?;
        memory
            .write_slice(&id, self.address)
            .map_err(|_| GenerationError::Place {
                address: self.address.0,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::testing::ram;

    fn id(memory: &GuestRam) -> [u8; ID_BYTES] {
        memory.read_obj(GuestAddress(0x1000)).unwrap()
    }

    #[test]
    fn each_generation_has_its_own_id() {
        let memory = ram(0x2000);
        let generation = GenerationId::new(&memory, GuestAddress(0x1000)).unwrap();
        let first = id(&memory);
        assert_ne!(first, [0; ID_BYTES]);
        assert!(generation.interrupt_event().read().is_err());
        generation.renew(&memory).unwrap();
        assert_ne!(id(&memory), first);
        assert_eq!(generation.interrupt_event().read().unwrap(), 1);
    }

    #[test]
    fn a_place_outside_of_memory_is_refused() {
        let memory = ram(0x2000);
        for address in [0x2000, 0x1ff1, u64::MAX] {
            let refused = GenerationId::new(&memory, GuestAddress(address)).unwrap_err();
            assert!(matches!(refused, GenerationError::Place { .. }), "{refused}");
        }
    }
}
