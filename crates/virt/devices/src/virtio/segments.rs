//! Bytes in and out of a list of checked memory ranges, as if they were one piece: a driver may split a request wherever it likes
//! (VIRTIO 1.2 §2.7.4.2).

use ringwall_arch::GuestRam;
use vm_memory::{Address as _, Bytes as _, GuestMemoryError};

use super::chain::Segment;

/// Copies bytes out of guest memory, from the beginning of the ranges, and returns how many there were.
///
/// # Errors
/// A range is not in memory, which can't be for ranges of a [`super::Chain`].
pub(super) fn copy_out(memory: &GuestRam, segments: &[Segment], into: &mut [u8]) -> Result<usize, GuestMemoryError> {
    let mut done = 0_usize;
    for segment in segments {
        let Some(rest) = into.get_mut(done..).filter(|rest| !rest.is_empty()) else {
            break;
        };
        let count = rest.len().min(length(segment));
        if let Some(part) = rest.get_mut(..count) {
            memory.read_slice(part, segment.address)?;
        }
        done = done.saturating_add(count);
    }
    Ok(done)
}

/// Copies bytes into guest memory, to the beginning of the ranges, and returns how many found room.
///
/// # Errors
/// A range is not in memory, which can't be for ranges of a [`super::Chain`].
pub(super) fn copy_in(memory: &GuestRam, segments: &[Segment], from: &[u8]) -> Result<usize, GuestMemoryError> {
    let mut done = 0_usize;
    for segment in segments {
        let Some(rest) = from.get(done..).filter(|rest| !rest.is_empty()) else {
            break;
        };
        let count = rest.len().min(length(segment));
        if let Some(part) = rest.get(..count) {
            memory.write_slice(part, segment.address)?;
        }
        done = done.saturating_add(count);
    }
    Ok(done)
}

/// The ranges without their first `skip` bytes.
pub(super) fn after(segments: &[Segment], skip: u64) -> Vec<Segment> {
    let mut rest = skip;
    let mut out = Vec::with_capacity(segments.len());
    for segment in segments {
        let bytes = u64::from(segment.bytes);
        if rest >= bytes {
            rest = rest.saturating_sub(bytes);
            continue;
        }
        let left = u32::try_from(bytes.saturating_sub(rest)).unwrap_or(0);
        out.push(Segment {
            // Within a range that is in memory, so it does not wrap.
            address: segment.address.unchecked_add(rest),
            bytes: left,
        });
        rest = 0;
    }
    out
}

fn length(segment: &Segment) -> usize {
    usize::try_from(segment.bytes).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use vm_memory::GuestAddress;

    use super::*;
    use crate::virtio::testing::ram;

    fn segments(parts: &[(u64, u32)]) -> Vec<Segment> {
        let segment = |(address, bytes): &(u64, u32)| Segment {
            address: GuestAddress(*address),
            bytes: *bytes,
        };
        parts.iter().map(segment).collect()
    }

    #[test]
    fn ranges_are_one_piece() {
        let memory = ram(0x1000);
        let parts = segments(&[(0x100, 3), (0x800, 1), (0x200, 4)]);
        assert_eq!(copy_in(&memory, &parts, b"abcdefghijk").unwrap(), 8);
        let mut out = [0; 6];
        assert_eq!(copy_out(&memory, &parts, &mut out).unwrap(), 6);
        assert_eq!(&out, b"abcdef");
        let mut out = [0; 12];
        assert_eq!(copy_out(&memory, &parts, &mut out).unwrap(), 8);
        assert_eq!(&out, b"abcdefgh\0\0\0\0");
        assert_eq!(after(&parts, 0), parts);
        assert_eq!(after(&parts, 2), segments(&[(0x102, 1), (0x800, 1), (0x200, 4)]));
        assert_eq!(after(&parts, 4), segments(&[(0x200, 4)]));
        assert_eq!(after(&parts, 8), []);
        assert_eq!(after(&parts, u64::MAX), []);
    }
}
