//! What an archive may cost. Every limit is checked before the cost is paid, or, for a stream, within one buffer of it.

const GIB: u64 = 1024 * 1024 * 1024;

/// The most an archive, or all layers of an image together, may make us do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most entries, of any kind, directories included that aren't in the archive but lie on the way.
    pub entries: u64,
    /// Most bytes of content, unpacked, in total.
    pub bytes: u64,
    /// Most bytes of content in one file.
    pub file_bytes: u64,
    /// How many times longer than its compressed form a stream may be.
    pub ratio: u64,
    /// Unpacked bytes below which the ratio isn't looked at: short runs of zeros are in every image.
    pub ratio_floor: u64,
}

impl Default for Limits {
    /// Far above what images on public registries need (the largest, for machine learning, unpack to some 20 GiB).
    fn default() -> Self {
        Limits {
            entries: 2_000_000,
            bytes: 64 * GIB,
            file_bytes: 16 * GIB,
            ratio: 200,
            ratio_floor: 64 * 1024 * 1024,
        }
    }
}

impl Limits {
    /// Returns what is left for the next layer once `entries` and `bytes` are spent.
    #[must_use]
    pub fn after(self, entries: u64, bytes: u64) -> Self {
        Limits {
            entries: self.entries.saturating_sub(entries),
            bytes: self.bytes.saturating_sub(bytes),
            ..self
        }
    }
}
