//! A descriptor chain (VIRTIO 1.2 §2.7.5): walked once, checked, and copied out as a list of memory ranges that nobody can change any more.

use ringwall_arch::GuestRam;
use thiserror::Error;
use vm_memory::{Bytes as _, GuestAddress, GuestMemory, GuestMemoryBackend as _, Permissions};

/// Most bytes that one chain may name, both directions together: far above any request, far below what could overflow.
const MAX_CHAIN_BYTES: u64 = 1 << 30;
/// `struct virtq_desc` (§2.7.5): its size, and flags.
pub(super) const DESCRIPTOR_BYTES: usize = 16;
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// A range of guest memory that lies in guest memory as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Where it begins.
    pub address: GuestAddress,
    /// In bytes; not zero.
    pub bytes: u32,
}

/// A request: what the device reads, then what it writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Names the chain in the used ring.
    pub head: u16,
    /// To be read by the device, in order.
    pub readable: Vec<Segment>,
    /// To be written by the device, in order.
    pub writable: Vec<Segment>,
}

/// A malformed ring or chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ChainError {
    /// The rings don't lie in memory, or are not aligned.
    #[error("the rings are not in memory or not aligned")]
    BadRings,
    /// More chains are said to be available than the queue has places that are not in flight.
    #[error("the available index {available} is more than the queue has room for past {seen}")]
    TooManyAvailable {
        /// What the ring says.
        available: u16,
        /// What the device has seen.
        seen: u16,
    },
    /// A descriptor's number is not below the table's size.
    #[error("descriptor {0} is outside of the table")]
    BadIndex(u16),
    /// The chain has more descriptors than the table: a loop.
    #[error("the chain at {0} does not end")]
    Loop(u16),
    /// A descriptor names memory that is not there.
    #[error("descriptor {index}: {bytes} bytes at {address:#x} are not memory")]
    Unmapped {
        /// Which.
        index: u16,
        /// Its address.
        address: u64,
        /// Its length.
        bytes: u32,
    },
    /// A readable descriptor after a writable one (§2.7.4.2).
    #[error("descriptor {0}: readable after writable")]
    Order(u16),
    /// Indirect descriptors, which are not on offer.
    #[error("descriptor {0}: indirect was not negotiated")]
    Indirect(u16),
    /// The chain names more bytes than any request needs.
    #[error("the chain at {0} is too long")]
    TooLong(u16),
}

impl Chain {
    /// Walks the chain at `head` of a descriptor table with `size` places. Each descriptor is copied once and never read again: the
    /// guest may rewrite the table meanwhile.
    ///
    /// # Errors
    /// See [`ChainError`].
    pub(super) fn walk(memory: &GuestRam, table: u64, size: u16, head: u16) -> Result<Self, ChainError> {
        // Found once for the whole walk: the look-up of the region would be most of the cost of a descriptor.
        let table_bytes = usize::from(size) * DESCRIPTOR_BYTES;
        let table = memory
            .get_slice(GuestAddress(table), table_bytes)
            .map_err(|_| ChainError::BadRings)?;
        let mut chain = Chain {
            head,
            readable: Vec::new(),
            writable: Vec::new(),
        };
        let (mut index, mut total) = (head, 0_u64);
        for _ in 0..size {
            if index >= size {
                return Err(ChainError::BadIndex(index));
            }
            let raw: [u8; DESCRIPTOR_BYTES] = table
                .read_obj(usize::from(index) * DESCRIPTOR_BYTES)
                .map_err(|_| ChainError::BadRings)?;
            let [a0, a1, a2, a3, a4, a5, a6, a7, l0, l1, l2, l3, f0, f1, n0, n1] = raw;
            let address = u64::from_le_bytes([a0, a1, a2, a3, a4, a5, a6, a7]);
            let bytes = u32::from_le_bytes([l0, l1, l2, l3]);
            let flags = u16::from_le_bytes([f0, f1]);
            let next = u16::from_le_bytes([n0, n1]);
            if flags & INDIRECT != 0 {
                return Err(ChainError::Indirect(index));
            }
            chain.push(memory, index, address, bytes, flags & WRITE != 0)?;
            total = total.saturating_add(u64::from(bytes));
            if total > MAX_CHAIN_BYTES {
                return Err(ChainError::TooLong(head));
            }
            if flags & NEXT == 0 {
                return Ok(chain);
            }
            index = next;
        }
        Err(ChainError::Loop(head))
    }

    fn push(&mut self, memory: &GuestRam, index: u16, address: u64, bytes: u32, write: bool) -> Result<(), ChainError> {
        if !write && !self.writable.is_empty() {
            return Err(ChainError::Order(index));
        }
        if bytes == 0 {
            return Ok(());
        }
        let length = usize::try_from(bytes).unwrap_or(usize::MAX);
        let access = if write { Permissions::Write } else { Permissions::Read };
        if !GuestMemory::check_range(memory, GuestAddress(address), length, access) {
            return Err(ChainError::Unmapped { index, address, bytes });
        }
        let segment = Segment {
            address: GuestAddress(address),
            bytes,
        };
        if write {
            self.writable.push(segment);
        } else {
            self.readable.push(segment);
        }
        Ok(())
    }

    /// How many bytes the device may read.
    #[must_use]
    pub fn readable_bytes(&self) -> u64 {
        self.readable.iter().map(|segment| u64::from(segment.bytes)).sum()
    }

    /// How many bytes the device may write.
    #[must_use]
    pub fn writable_bytes(&self) -> u64 {
        self.writable.iter().map(|segment| u64::from(segment.bytes)).sum()
    }

    /// Copies what the device may read, at most `most` bytes of it; `None` if it is not memory (any more).
    #[must_use]
    pub fn read_up_to(&self, memory: &GuestRam, most: usize) -> Option<Vec<u8>> {
        let total = usize::try_from(self.readable_bytes()).ok()?.min(most);
        let mut bytes = vec![0; total];
        let mut rest = bytes.as_mut_slice();
        for segment in &self.readable {
            let length = usize::try_from(segment.bytes).ok()?.min(rest.len());
            let (piece, after) = rest.split_at_mut_checked(length)?;
            memory.read_slice(piece, segment.address).ok()?;
            rest = after;
        }
        Some(bytes)
    }
}
