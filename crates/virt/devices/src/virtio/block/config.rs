//! The configuration space (`struct virtio_blk_config`, VIRTIO 1.2 §5.2.4), as a pure function.

/// Bytes of the structure, up to and with the limits of secure erase.
pub(super) const CONFIG_BYTES: usize = 72;

/// Sectors that one discard may name: 1 GiB. Bounds how long the host's file system is busy with it.
pub(super) const MAX_DISCARD_SECTORS: u32 = 1 << 21;
/// Sectors that one write of zeros may name: 16 MiB. They may have to be written one by one.
pub(super) const MAX_WRITE_ZEROES_SECTORS: u32 = 1 << 15;
/// Ranges in one discard or write of zeros: each request is one call of the host.
pub(super) const MAX_RANGES: u32 = 1;

/// What the guest is told.
#[derive(Debug, Clone, Copy)]
pub(super) struct ConfigFacts {
    /// In units of 512 bytes.
    pub(super) sectors: u64,
    /// Segments of data in one request.
    pub(super) seg_max: u32,
    /// Bytes of a block.
    pub(super) block_bytes: u32,
    /// A write-back cache is behind the disk, so that flushes matter.
    pub(super) has_cache: bool,
}

/// The structure's bytes. What a feature is not on offer for is there too; the driver does not look.
pub(super) fn config_space(facts: ConfigFacts) -> [u8; CONFIG_BYTES] {
    let mut space = [0; CONFIG_BYTES];
    let mut put = |offset: usize, bytes: &[u8]| {
        for (place, byte) in space.iter_mut().skip(offset).zip(bytes) {
            *place = *byte;
        }
    };
    put(0, &facts.sectors.to_le_bytes());
    put(12, &facts.seg_max.to_le_bytes());
    put(20, &facts.block_bytes.to_le_bytes());
    put(32, &[u8::from(facts.has_cache)]);
    put(34, &1_u16.to_le_bytes()); // num_queues
    put(36, &MAX_DISCARD_SECTORS.to_le_bytes());
    put(40, &MAX_RANGES.to_le_bytes());
    put(44, &(facts.block_bytes / 512).to_le_bytes()); // discard_sector_alignment
    put(48, &MAX_WRITE_ZEROES_SECTORS.to_le_bytes());
    put(52, &MAX_RANGES.to_le_bytes());
    put(56, &[1]); // write_zeroes_may_unmap
    space
}

/// Answers a read of the structure at any offset and of any length; what is outside is zero.
pub(super) fn read(space: &[u8], offset: u64, data: &mut [u8]) {
    let from = usize::try_from(offset).ok().and_then(|offset| space.get(offset..));
    let mut bytes = from.unwrap_or(&[]).iter();
    for place in data {
        *place = bytes.next().copied().unwrap_or(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_where_the_standard_says() {
        let space = config_space(ConfigFacts {
            sectors: 0x1122_3344_5566,
            seg_max: 254,
            block_bytes: 4096,
            has_cache: true,
        });
        let expected: [(usize, &[u8]); 11] = [
            (0, &[0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 0, 0]),
            (8, &[0; 4]),
            (12, &[254, 0, 0, 0]),
            (16, &[0; 4]),
            (20, &[0, 16, 0, 0]),
            (32, &[1, 0, 1, 0]),
            (36, &[0, 0, 0x20, 0, 1, 0, 0, 0]),
            (44, &[8, 0, 0, 0]),
            (48, &[0, 0x80, 0, 0, 1, 0, 0, 0]),
            (56, &[1, 0, 0, 0]),
            (60, &[0; 12]),
        ];
        for (offset, bytes) in expected {
            assert_eq!(&space[offset..offset + bytes.len()], bytes, "at {offset}");
        }
    }

    #[test]
    fn reads_outside_are_zero() {
        for (offset, expected) in [(0, [1, 2, 3, 4]), (2, [3, 4, 5, 0]), (5, [0; 4]), (u64::MAX, [0; 4])] {
            let mut data = [9; 4];
            read(&[1, 2, 3, 4, 5], offset, &mut data);
            assert_eq!(data, expected, "at {offset}");
        }
    }
}
