//! A split virtqueue (VIRTIO 1.2 §2.7), on top of `virtio-queue`: chains come out checked, and what the guest can break is a [`Fault`].
//!
//! ```text
//!            next_used              next_avail           the driver's index
//! ----------------|----- in flight ------|---- waiting --------|-------->   (all modulo 2^16)
//!                 '---------- never more than the queue's size --'
//! ```
//!
//! The last line is the whole check against a driver that makes chains available without waiting for their return: it bounds what a
//! device that works asynchronously can be made to keep.

use std::sync::atomic::{Ordering, fence};

use ringwall_arch::GuestRam;
use virtio_queue::{Queue, QueueT as _};
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryBackend as _};

use super::chain::{Chain, ChainError, DESCRIPTOR_BYTES};
use super::device::Fault;

/// Offset of the ring in the available ring: after flags and index (§2.7.6).
const AVAILABLE_RING_OFFSET: u64 = 4;
/// Bytes of the available ring beside its elements: flags, index, used_event (§2.7.6).
const AVAILABLE_META_BYTES: usize = 6;
/// Bytes of an element of the available ring (§2.7.6).
const AVAILABLE_ELEMENT_BYTES: usize = 2;
/// Bytes of the used ring beside its elements: flags, index, avail_event (§2.7.8).
const USED_META_BYTES: usize = 6;
/// Bytes of an element of the used ring (§2.7.8).
const USED_ELEMENT_BYTES: usize = 8;
/// `VIRTQ_AVAIL_F_NO_INTERRUPT` (§2.7.6): the driver polls.
const NO_INTERRUPT: u16 = 1;
/// Offset of the elements in the used ring: after flags and index (§2.7.8).
const USED_ELEMENTS: u64 = 4;

/// One queue of an active device.
#[derive(Debug)]
pub struct VirtQueue {
    queue: Queue,
    number: u16,
    /// Something was used since the driver was asked whether it wants an interrupt.
    used_since_asked: bool,
}

/// Checks that a queue's rings lie in memory, each within one region, and are aligned (§2.7).
///
/// # Errors
/// [`ChainError::BadRings`].
pub(super) fn check_rings(queue: &Queue, memory: &GuestRam) -> Result<(), ChainError> {
    let size = usize::from(queue.size());
    let rings = [
        (queue.desc_table(), DESCRIPTOR_BYTES * size, 16),
        (
            queue.avail_ring(),
            AVAILABLE_META_BYTES + AVAILABLE_ELEMENT_BYTES * size,
            2,
        ),
        (queue.used_ring(), USED_META_BYTES + USED_ELEMENT_BYTES * size, 4),
    ];
    for (address, bytes, alignment) in rings {
        if !address.is_multiple_of(alignment) || memory.get_slice(GuestAddress(address), bytes).is_err() {
            return Err(ChainError::BadRings);
        }
    }
    Ok(())
}

impl VirtQueue {
    /// Takes a queue as the driver has configured it.
    #[must_use]
    pub fn new(queue: Queue, number: u16) -> Self {
        VirtQueue {
            queue,
            number,
            used_since_asked: false,
        }
    }

    /// Stops the queue: it gives no chains any more.
    pub(super) fn stop(&mut self) {
        self.queue.set_ready(false);
    }

    /// Its places.
    #[must_use]
    pub fn size(&self) -> u16 {
        self.queue.size()
    }

    /// How many chains have been taken and not been given back.
    #[must_use]
    pub fn in_flight(&self) -> u16 {
        self.queue.next_avail().wrapping_sub(self.queue.next_used())
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

    fn available_index(&self, memory: &GuestRam) -> Result<u16, Fault> {
        match self.queue.avail_idx(memory, Ordering::Acquire) {
            Ok(index) => Ok(index.0),
            Err(_) => Err(self.fault(ChainError::BadRings)),
        }
    }

    fn fault(&self, source: ChainError) -> Fault {
        Fault::Chain {
            queue: self.number,
            source,
        }
    }

    /// Takes the next available chain, if there is one. It counts as taken even if it is malformed.
    ///
    /// When there is none, the driver has been asked to notify of the next (§2.7.10): with the event index it would otherwise never
    /// do so again, so that no device may forget it.
    ///
    /// # Errors
    /// A malformed ring or chain.
    pub fn pop(&mut self, memory: &GuestRam) -> Result<Option<Chain>, Fault> {
        if !self.queue.ready() {
            return Ok(None);
        }
        let size = self.queue.size();
        let seen = self.queue.next_avail();
        let mut available = self.available_index(memory)?;
        if available == seen {
            // The flag of the ring without event index is the device's to set and to clear.
            if !self.queue.event_idx_enabled() || !self.enable_notification(memory)? {
                return Ok(None);
            }
            // One came while the driver was being asked, perhaps without a notification.
            available = self.available_index(memory)?;
            if available == seen {
                // It was taken back, which only a hostile driver does.
                return Ok(None);
            }
        }
        let (waiting, in_flight) = (available.wrapping_sub(seen), self.in_flight());
        if size == 0 || u32::from(waiting) + u32::from(in_flight) > u32::from(size) {
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

    /// Puts back the chain that was popped last, to be popped again; several, if it is called again. Only chains that nothing was used
    /// after: others would come twice, or be lost.
    pub fn undo_pop(&mut self) {
        if self.in_flight() > 0 {
            let before = self.queue.next_avail().wrapping_sub(1);
            self.queue.set_next_avail(before);
        }
    }

    /// Gives a chain back to the driver, of which the device wrote `written` bytes.
    ///
    /// # Errors
    /// A malformed ring.
    pub fn add_used(&mut self, memory: &GuestRam, head: u16, written: u32) -> Result<(), Fault> {
        self.queue
            .add_used(memory, head, written)
            .map_err(|_| self.fault(ChainError::BadRings))?;
        self.used_since_asked = true;
        Ok(())
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
        if !std::mem::take(&mut self.used_since_asked) || !self.queue.ready() {
            return Ok(false);
        }
        if self.queue.event_idx_enabled() {
            return self
                .queue
                .needs_notification(memory)
                .map_err(|_| self.fault(ChainError::BadRings));
        }
        // The crate does not look at this flag. The index must be seen by the driver before the flag is read, or an interrupt is lost
        // to a driver that clears the flag and looks at the index in between (§2.7.7.2).
        fence(Ordering::SeqCst);
        let flags: u16 = memory
            .load(GuestAddress(self.queue.avail_ring()), Ordering::Relaxed)
            .map_err(|_| self.fault(ChainError::BadRings))?;
        Ok(u16::from_le(flags) & NO_INTERRUPT == 0)
    }
}
