//! A split virtqueue (VIRTIO 1.2 §2.7), on top of `virtio-queue`: chains come out checked, and what the guest can break is a [`Fault`].

use std::sync::atomic::Ordering;

use ringwall_arch::GuestRam;
use virtio_queue::{Queue, QueueT as _};
use vm_memory::{Bytes as _, GuestAddress};

use super::chain::{Chain, ChainError};
use super::device::Fault;

/// Offset of the ring in the available ring: after flags and index (§2.7.6).
const AVAILABLE_RING_OFFSET: u64 = 4;
/// Offset of the elements in the used ring: after flags and index (§2.7.8).
const USED_ELEMENTS: u64 = 4;

/// One queue of an active device.
#[derive(Debug)]
pub struct VirtQueue {
    queue: Queue,
    number: u16,
}

impl VirtQueue {
    /// Takes a queue as the driver has configured it.
    #[must_use]
    pub fn new(queue: Queue, number: u16) -> Self {
        VirtQueue { queue, number }
    }

    /// The ring's state, to be saved.
    #[must_use]
    pub fn state(&self) -> virtio_queue::QueueState {
        self.queue.state()
    }

    /// Whether the driver has made it ready.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.queue.ready()
    }

    fn fault(&self, source: ChainError) -> Fault {
        Fault::Chain {
            queue: self.number,
            source,
        }
    }

    /// Takes the next available chain, if there is one. It counts as taken even if it is malformed.
    ///
    /// # Errors
    /// A malformed ring or chain.
    pub fn pop(&mut self, memory: &GuestRam) -> Result<Option<Chain>, Fault> {
        if !self.queue.ready() {
            return Ok(None);
        }
        let size = self.queue.size();
        let seen = self.queue.next_avail();
        let available = self
            .queue
            .avail_idx(memory, Ordering::Acquire)
            .map_err(|_| self.fault(ChainError::BadRings))?
            .0;
        let waiting = available.wrapping_sub(seen);
        if waiting == 0 {
            return Ok(None);
        }
        if size == 0 || waiting > size {
            return Err(self.fault(ChainError::TooManyAvailable { available, seen }));
        }
        let place = self
            .queue
            .avail_ring()
            .checked_add(AVAILABLE_RING_OFFSET + 2 * u64::from(seen % size));
        let head: Result<u16, _> = place
            .ok_or(ChainError::BadRings)
            .and_then(|place| memory.read_obj(GuestAddress(place)).map_err(|_| ChainError::BadRings));
        let head = u16::from_le(head.map_err(|error| self.fault(error))?);
        self.queue.set_next_avail(seen.wrapping_add(1));
        Chain::walk(memory, self.queue.desc_table(), size, head)
            .map(Some)
            .map_err(|error| self.fault(error))
    }

    /// Puts back the chain that was popped last, to be popped again.
    pub fn undo_pop(&mut self) {
        let before = self.queue.next_avail().wrapping_sub(1);
        self.queue.set_next_avail(before);
    }

    /// Gives a chain back to the driver, of which the device wrote `written` bytes.
    ///
    /// # Errors
    /// A malformed ring.
    pub fn add_used(&mut self, memory: &GuestRam, head: u16, written: u32) -> Result<(), Fault> {
        self.queue
            .add_used(memory, head, written)
            .map_err(|_| self.fault(ChainError::BadRings))
    }

    /// Asks for notifications and returns whether chains came in the meantime; then the caller must look again.
    ///
    /// # Errors
    /// A malformed ring.
    pub fn enable_notification(&mut self, memory: &GuestRam) -> Result<bool, Fault> {
        self.queue
            .enable_notification(memory)
            .map_err(|_| self.fault(ChainError::BadRings))
    }

    /// Gives several chains back so that the driver sees all of them or none: one frame of a network may fill several (VIRTIO 1.2
    /// §5.1.6.4). Interrupt the guest afterwards, whether it asked or not: only the last one is counted for the event index.
    ///
    /// # Errors
    /// A malformed ring.
    pub fn add_used_together(&mut self, memory: &GuestRam, chains: &[(u16, u32)]) -> Result<(), Fault> {
        let Some(((last, last_written), before)) = chains.split_last() else {
            return Ok(());
        };
        let size = self.queue.size();
        let mut next = self.queue.next_used();
        for (head, written) in before {
            let slot = next.checked_rem(size).map(u64::from).unwrap_or(0);
            let place = self.queue.used_ring().checked_add(USED_ELEMENTS + 8 * slot);
            // `struct virtq_used_elem`: two numbers of 32 bits.
            let element = u64::from(*head) | u64::from(*written) << 32;
            place
                .and_then(|place| memory.write_obj(element.to_le(), GuestAddress(place)).ok())
                .ok_or_else(|| self.fault(ChainError::BadRings))?;
            next = next.wrapping_add(1);
        }
        // The index is written once, with the last element.
        self.queue.set_next_used(next);
        self.add_used(memory, *last, *last_written)
    }

    /// Asks the driver not to notify until [`VirtQueue::enable_notification`].
    ///
    /// # Errors
    /// A malformed ring.
    pub fn disable_notification(&mut self, memory: &GuestRam) -> Result<(), Fault> {
        self.queue
            .disable_notification(memory)
            .map_err(|_| self.fault(ChainError::BadRings))
    }

    /// Returns whether the driver wants an interrupt for what was used since it was asked last.
    ///
    /// # Errors
    /// A malformed ring.
    pub fn needs_interrupt(&mut self, memory: &GuestRam) -> Result<bool, Fault> {
        self.queue
            .needs_notification(memory)
            .map_err(|_| self.fault(ChainError::BadRings))
    }
}
