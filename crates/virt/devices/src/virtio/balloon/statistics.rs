//! What the guest says of its memory (VIRTIO 1.2 §5.5.6.3).

use serde::{Deserialize, Serialize};

/// Bytes of one statistic: a tag of 16 bits and a value of 64, packed.
const ENTRY_BYTES: usize = 10;
/// Most statistics of one buffer. Linux 6.12 has 16 (include/uapi/linux/virtio_balloon.h).
pub(super) const MAX_BYTES: usize = 64 * ENTRY_BYTES;

/// The guest's memory, as it said last. What it did not say is `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BalloonStatistics {
    /// Bytes swapped in.
    pub swap_in: Option<u64>,
    /// Bytes swapped out.
    pub swap_out: Option<u64>,
    /// Page faults that needed I/O.
    pub major_faults: Option<u64>,
    /// Page faults that did not.
    pub minor_faults: Option<u64>,
    /// Unused bytes.
    pub free_memory: Option<u64>,
    /// All bytes.
    pub total_memory: Option<u64>,
    /// Bytes available without swapping.
    pub available_memory: Option<u64>,
    /// Bytes of caches that can be dropped.
    pub disk_caches: Option<u64>,
    /// Huge pages allocated.
    pub hugetlb_allocations: Option<u64>,
    /// Huge pages that could not be.
    pub hugetlb_failures: Option<u64>,
    /// Processes killed for want of memory.
    pub oom_kill: Option<u64>,
    /// Allocations that had to wait.
    pub alloc_stall: Option<u64>,
    /// Pages scanned in the background.
    pub async_scan: Option<u64>,
    /// Pages scanned by allocations.
    pub direct_scan: Option<u64>,
    /// Pages reclaimed in the background.
    pub async_reclaim: Option<u64>,
    /// Pages reclaimed by allocations.
    pub direct_reclaim: Option<u64>,
}

impl BalloonStatistics {
    /// Takes what a buffer says; tags that are not known are passed over, and of two with the same tag the later counts.
    pub(super) fn update(&mut self, buffer: &[u8]) {
        let (entries, _) = buffer.as_chunks::<ENTRY_BYTES>();
        for [t0, t1, value @ ..] in entries {
            let place = match u16::from_le_bytes([*t0, *t1]) {
                0 => &mut self.swap_in,
                1 => &mut self.swap_out,
                2 => &mut self.major_faults,
                3 => &mut self.minor_faults,
                4 => &mut self.free_memory,
                5 => &mut self.total_memory,
                6 => &mut self.available_memory,
                7 => &mut self.disk_caches,
                8 => &mut self.hugetlb_allocations,
                9 => &mut self.hugetlb_failures,
                10 => &mut self.oom_kill,
                11 => &mut self.alloc_stall,
                12 => &mut self.async_scan,
                13 => &mut self.direct_scan,
                14 => &mut self.async_reclaim,
                15 => &mut self.direct_reclaim,
                _ => continue,
            };
            *place = Some(u64::from_le_bytes(*value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_read_by_its_tags() {
        let entry = |tag: u16, value: u64| [tag.to_le_bytes().as_slice(), &value.to_le_bytes()].concat();
        let buffer = [
            entry(4, 100),
            entry(5, 200),
            entry(999, 1),
            entry(15, 7),
            entry(4, 101),
            vec![0; 9],
        ]
        .concat();
        let mut statistics = BalloonStatistics::default();
        statistics.update(&buffer);
        let expected = BalloonStatistics {
            free_memory: Some(101),
            total_memory: Some(200),
            direct_reclaim: Some(7),
            ..BalloonStatistics::default()
        };
        assert_eq!(statistics, expected);
    }
}
