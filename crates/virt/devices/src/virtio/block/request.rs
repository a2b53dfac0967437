//! A request (VIRTIO 1.2 §5.2.6), read once out of a chain and checked against the disk. Nothing after this looks at what the guest wrote.
//!
//! ```text
//! readable: type (4) reserved (4) sector (8) | data to write, or the range
//! writable: data to read                     | status (the very last byte)
//! ```

use ringwall_arch::GuestRam;
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
    VIRTIO_BLK_T_WRITE_ZEROES,
};
use vm_memory::{Address as _, GuestAddress};

use super::config::{MAX_DISCARD_SECTORS, MAX_WRITE_ZEROES_SECTORS};
use super::disk::{ID_BYTES, SECTOR_BYTES};
use super::operation::Range;
use crate::virtio::segments::{after, copy_out};
use crate::virtio::{Chain, Segment};

/// Bytes of `struct virtio_blk_req` before the data (§5.2.6).
const HEADER_BYTES: usize = 16;
/// Bytes of `struct virtio_blk_discard_write_zeroes` (§5.2.6).
const RANGE_BYTES: usize = 16;
/// Its flag that allows to give space back.
const FLAG_UNMAP: u32 = 1;
/// Largest transfer: far above what drivers ask for, low enough for a reset not to wait long.
pub(super) const MAX_TRANSFER_BYTES: u64 = 64 << 20;

/// How a request ended (§5.2.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    /// `VIRTIO_BLK_S_OK`.
    Ok,
    /// `VIRTIO_BLK_S_IOERR`.
    IoError,
    /// `VIRTIO_BLK_S_UNSUPP`.
    Unsupported,
}

impl Status {
    /// The byte for the guest.
    pub(super) fn byte(self) -> u8 {
        match self {
            Status::Ok => 0,
            Status::IoError => 1,
            Status::Unsupported => 2,
        }
    }
}

/// What is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    /// Bytes from here on into the segments.
    Read { offset: u64, into: Vec<Segment> },
    /// The segments to the bytes from here on.
    Write { offset: u64, from: Vec<Segment> },
    /// What was written gets to the disk.
    Flush,
    /// The disk's identifier into the segments.
    Identify { into: Vec<Segment> },
    /// The contents are not needed.
    Discard(Range),
    /// The contents become zeros.
    Zero { range: Range, unmap: bool },
    /// Nothing to do, and that well done.
    Nothing,
    /// It can't be done; the guest is told.
    Refuse(Status),
}

/// A checked request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request {
    /// The chain.
    pub(super) head: u16,
    /// Where the status goes.
    pub(super) status: GuestAddress,
    /// How many writable bytes come before the status.
    pub(super) data_bytes: u64,
    /// What is wanted.
    pub(super) action: Action,
}

/// What requests are checked against.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// The disk's length.
    pub(super) disk_bytes: u64,
    /// Nothing may be written.
    pub(super) is_read_only: bool,
    /// Flushes are possible.
    pub(super) can_flush: bool,
    /// Discards were agreed on.
    pub(super) can_discard: bool,
    /// Writes of zeros were agreed on.
    pub(super) can_zero: bool,
}

impl Request {
    /// How many bytes it moves.
    pub(super) fn transfer_bytes(&self) -> u64 {
        let count = |segments: &[Segment]| segments.iter().map(|segment| u64::from(segment.bytes)).sum();
        match &self.action {
            Action::Read { into, .. } => count(into),
            Action::Write { from, .. } => count(from),
            _ => 0,
        }
    }
}

/// Reads a request. None if there is no byte for its status, so that nothing could be answered.
pub(super) fn parse(memory: &GuestRam, chain: Chain, limits: &Limits) -> Option<Request> {
    let Chain {
        head,
        readable,
        mut writable,
    } = chain;
    let last = writable.last_mut()?;
    let before = last.bytes.checked_sub(1)?;
    let status = last.address.checked_add(u64::from(before))?;
    last.bytes = before;
    if before == 0 {
        writable.pop();
    }
    let data_bytes = bytes_of(&writable);
    let action = decide(memory, &readable, writable, limits);
    Some(Request {
        head,
        status,
        data_bytes,
        action,
    })
}

fn decide(memory: &GuestRam, readable: &[Segment], writable: Vec<Segment>, limits: &Limits) -> Action {
    let refuse = Action::Refuse(Status::IoError);
    let mut header = [0; HEADER_BYTES];
    if !matches!(copy_out(memory, readable, &mut header), Ok(HEADER_BYTES)) {
        return refuse;
    }
    let (kind, _reserved, sector) = three(header);
    let data = after(readable, HEADER_BYTES as u64);
    match kind {
        VIRTIO_BLK_T_IN if data.is_empty() => match place(sector, bytes_of(&writable), limits) {
            Some(_) if writable.is_empty() => Action::Nothing,
            Some(offset) => Action::Read { offset, into: writable },
            None => refuse,
        },
        VIRTIO_BLK_T_OUT if writable.is_empty() && !limits.is_read_only => {
            match place(sector, bytes_of(&data), limits) {
                Some(_) if data.is_empty() => Action::Nothing,
                Some(offset) => Action::Write { offset, from: data },
                None => refuse,
            }
        }
        VIRTIO_BLK_T_FLUSH if limits.can_flush => Action::Flush,
        VIRTIO_BLK_T_GET_ID if bytes_of(&writable) >= ID_BYTES as u64 => Action::Identify { into: writable },
        VIRTIO_BLK_T_DISCARD if limits.can_discard => range(memory, &data, limits, MAX_DISCARD_SECTORS, false),
        VIRTIO_BLK_T_WRITE_ZEROES if limits.can_zero => range(memory, &data, limits, MAX_WRITE_ZEROES_SECTORS, true),
        // In the wrong direction, too short for an identifier, or on a disk that is read-only (§5.2.6.2).
        VIRTIO_BLK_T_IN | VIRTIO_BLK_T_OUT | VIRTIO_BLK_T_GET_ID => refuse,
        VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES if limits.is_read_only => refuse,
        _ => Action::Refuse(Status::Unsupported),
    }
}

/// Where a transfer begins, in bytes, if all of it is whole sectors of the disk.
fn place(sector: u64, bytes: u64, limits: &Limits) -> Option<u64> {
    let offset = sector.checked_mul(SECTOR_BYTES)?;
    let end = offset.checked_add(bytes)?;
    (bytes.is_multiple_of(SECTOR_BYTES) && bytes <= MAX_TRANSFER_BYTES && end <= limits.disk_bytes).then_some(offset)
}

fn range(memory: &GuestRam, data: &[Segment], limits: &Limits, most: u32, is_zero: bool) -> Action {
    let mut raw = [0; RANGE_BYTES];
    let is_whole = bytes_of(data) == RANGE_BYTES as u64 && matches!(copy_out(memory, data, &mut raw), Ok(RANGE_BYTES));
    if !is_whole {
        return Action::Refuse(Status::IoError);
    }
    let [low @ .., _, _, _, _, _, _, _, _] = raw;
    let [_, _, _, _, _, _, _, _, high @ ..] = raw;
    let sector = u64::from_le_bytes(low);
    let [s0, s1, s2, s3, f0, f1, f2, f3] = high;
    let sectors = u32::from_le_bytes([s0, s1, s2, s3]);
    let flags = u32::from_le_bytes([f0, f1, f2, f3]);
    // Unknown flags, and "unmap" in a discard, are for the device to refuse so (§5.2.6.2).
    if flags & !FLAG_UNMAP != 0 || (!is_zero && flags != 0) {
        return Action::Refuse(Status::Unsupported);
    }
    let bytes = u64::from(sectors).saturating_mul(SECTOR_BYTES);
    let offset = sector.checked_mul(SECTOR_BYTES);
    let end = offset.and_then(|offset| offset.checked_add(bytes));
    match (offset, end) {
        (Some(_), Some(end)) if end > limits.disk_bytes || sectors > most => Action::Refuse(Status::IoError),
        (Some(_), Some(_)) if sectors == 0 => Action::Nothing,
        (Some(offset), Some(_)) if is_zero => Action::Zero {
            range: Range { offset, bytes },
            unmap: flags & FLAG_UNMAP != 0,
        },
        (Some(offset), Some(_)) => Action::Discard(Range { offset, bytes }),
        _ => Action::Refuse(Status::IoError),
    }
}

/// The header's fields: two of 32 bits and one of 64.
fn three(raw: [u8; HEADER_BYTES]) -> (u32, u32, u64) {
    let [a0, a1, a2, a3, b0, b1, b2, b3, sector @ ..] = raw;
    (
        u32::from_le_bytes([a0, a1, a2, a3]),
        u32::from_le_bytes([b0, b1, b2, b3]),
        u64::from_le_bytes(sector),
    )
}

fn bytes_of(segments: &[Segment]) -> u64 {
    segments.iter().map(|segment| u64::from(segment.bytes)).sum()
}
