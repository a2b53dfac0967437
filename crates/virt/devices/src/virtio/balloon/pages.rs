//! Lists of page numbers, made into ranges of memory. Pure.

/// Bytes of a balloon page, whatever the guest's pages are (VIRTIO 1.2 §5.5.6).
pub(super) const PAGE_BYTES: u64 = 4096;
/// Most page numbers of one request. Linux sends 256 (`VIRTIO_BALLOON_ARRAY_PFNS_MAX`).
pub(super) const MAX_PAGES: usize = 1024;
/// Bytes of a page number.
pub(super) const NUMBER_BYTES: usize = 4;

/// A range of guest-physical addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) address: u64,
    pub(super) bytes: u64,
}

/// Reads page numbers (little endian, 32 bits) into ranges: in order, without overlap, neighbours joined. Numbers may come in any order
/// and more than once.
pub(super) fn ranges(list: &[u8]) -> Vec<Range> {
    let (numbers, _) = list.as_chunks::<NUMBER_BYTES>();
    let mut numbers: Vec<u32> = numbers.iter().map(|raw| u32::from_le_bytes(*raw)).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let mut ranges: Vec<Range> = Vec::new();
    for number in numbers {
        // A 32-bit number of 4 KiB pages is below 2^44.
        let address = u64::from(number).saturating_mul(PAGE_BYTES);
        match ranges.last_mut() {
            Some(last) if last.address.saturating_add(last.bytes) == address => {
                last.bytes = last.bytes.saturating_add(PAGE_BYTES);
            }
            _ => ranges.push(Range {
                address,
                bytes: PAGE_BYTES,
            }),
        }
    }
    ranges
}

/// The part of a range that consists of whole pages of the host, which may be larger than the balloon's (64 KiB on some aarch64).
/// `alignment` is a power of two.
pub(super) fn whole_pages(range: Range, alignment: u64) -> Option<Range> {
    let mask = alignment.checked_sub(1)?;
    let address = range.address.checked_add(mask)? & !mask;
    let end = range.address.checked_add(range.bytes)? & !mask;
    let bytes = end.checked_sub(address).filter(|bytes| *bytes > 0)?;
    Some(Range { address, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn list(numbers: &[u32]) -> Vec<u8> {
        numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
    }

    #[test]
    fn neighbours_are_joined() {
        let got = ranges(&list(&[7, 3, 4, 5, 3, u32::MAX]));
        let expected = [(3, 3), (7, 1), (u32::MAX, 1)].map(|(first, pages)| Range {
            address: u64::from(first) * PAGE_BYTES,
            bytes: pages * PAGE_BYTES,
        });
        assert_eq!(got, expected);
        assert_eq!(ranges(&[]), []);
        assert_eq!(ranges(&[1, 2, 3]), []);
    }

    #[test]
    fn only_whole_host_pages_are_left() {
        let range = |address, bytes| Range { address, bytes };
        for (given, alignment, expected) in [
            (range(0x1000, 0x1000), 0x1000, Some(range(0x1000, 0x1000))),
            (range(0x1000, 0x1000), 0x10000, None),
            (range(0xf000, 0x12000), 0x10000, Some(range(0x10000, 0x10000))),
            (range(0x10000, 0xffff), 0x10000, None),
            (range(1, 0x2000), 0x1000, Some(range(0x1000, 0x1000))),
            (range(u64::MAX, 1), 0x1000, None),
            (range(u64::MAX - 5, 100), 0x1000, None),
            (range(0, 0), 0x1000, None),
        ] {
            assert_eq!(whole_pages(given, alignment), expected, "{given:?}");
        }
    }

    proptest! {
        #[test]
        fn ranges_hold_exactly_the_pages(numbers in prop::collection::vec(prop_oneof![0_u32..40, any::<u32>()], 0..100)) {
            let got = ranges(&list(&numbers));
            let pages: BTreeSet<u64> = numbers.iter().map(|number| u64::from(*number)).collect();
            let covered: Vec<u64> = got
                .iter()
                .flat_map(|range| range.address / PAGE_BYTES..(range.address + range.bytes) / PAGE_BYTES)
                .collect();
            prop_assert_eq!(covered, pages.into_iter().collect::<Vec<_>>());
            for pair in got.windows(2) {
                prop_assert!(pair[0].address + pair[0].bytes < pair[1].address);
            }
        }
    }
}
