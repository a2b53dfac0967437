//! Copies between a chain's segments, wherever they are split, and the device's own buffer.

use ringwall_arch::GuestRam;
use vm_memory::{Bytes as _, GuestMemoryError};

use super::super::chain::Segment;

/// Copies the bytes from `skip` on into all of `into`, and returns how many there were.
pub(super) fn read(
    memory: &GuestRam,
    segments: &[Segment],
    skip: usize,
    mut into: &mut [u8],
) -> Result<usize, GuestMemoryError> {
    let (mut skip, mut copied) = (skip, 0_usize);
    for segment in segments {
        let bytes = usize::try_from(segment.bytes).unwrap_or(usize::MAX);
        let passed = skip.min(bytes);
        skip = skip.saturating_sub(passed);
        let left = bytes.saturating_sub(passed).min(into.len());
        let Some((piece, rest)) = into.split_at_mut_checked(left) else {
            break;
        };
        if piece.is_empty() {
            into = rest;
            continue;
        }
        let offset = u64::try_from(passed).unwrap_or(u64::MAX);
        let Some(address) = segment.address.0.checked_add(offset) else {
            break;
        };
        memory.read_slice(piece, vm_memory::GuestAddress(address))?;
        copied = copied.saturating_add(left);
        into = rest;
    }
    Ok(copied)
}

/// Copies `bytes` to the beginning of the segments, and returns how many had room.
pub(super) fn write(memory: &GuestRam, segments: &[Segment], mut bytes: &[u8]) -> Result<usize, GuestMemoryError> {
    let mut copied = 0_usize;
    for segment in segments {
        let room = usize::try_from(segment.bytes).unwrap_or(usize::MAX).min(bytes.len());
        let Some((piece, rest)) = bytes.split_at_checked(room) else {
            break;
        };
        if piece.is_empty() {
            break;
        }
        memory.write_slice(piece, segment.address)?;
        copied = copied.saturating_add(room);
        bytes = rest;
    }
    Ok(copied)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::testing::ram;
    use vm_memory::GuestAddress;

    fn segment(address: u64, bytes: u32) -> Segment {
        Segment {
            address: GuestAddress(address),
            bytes,
        }
    }

    #[test]
    fn every_split_reads_and_writes_the_same() {
        let text: Vec<u8> = (0..100).collect();
        for first in 1..99 {
            let memory = ram(0x1000);
            let segments = [segment(0x100, first), segment(0x800, 100 - first)];
            assert_eq!(write(&memory, &segments, &text).unwrap(), 100);
            for skip in [0, 1, 44, 99, 100, 200] {
                let mut back = vec![0; 100];
                let count = read(&memory, &segments, skip, &mut back).unwrap();
                assert_eq!(count, 100_usize.saturating_sub(skip));
                assert_eq!(back[..count], text[skip.min(100)..]);
            }
        }
    }

    #[test]
    fn a_short_chain_takes_what_fits() {
        let memory = ram(0x1000);
        let segments = [segment(0, 3), segment(8, 4)];
        assert_eq!(write(&memory, &segments, b"0123456789").unwrap(), 7);
        let mut back = [0; 10];
        assert_eq!(read(&memory, &segments, 0, &mut back).unwrap(), 7);
        assert_eq!(&back, b"0123456\0\0\0");
        assert_eq!(write(&memory, &segments, b"").unwrap(), 0);
        assert_eq!(write(&memory, &[], b"x").unwrap(), 0);
    }
}
