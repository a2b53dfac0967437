//! The type of guest memory.

use vm_memory::bitmap::AtomicBitmap;
use vm_memory::mmap::{MmapRegionBuilder, MmapRegionError};
use vm_memory::{GuestAddress, GuestMemoryMmap, GuestRegionCollectionError, GuestRegionMmap};

/// Guest memory: mapped regions, each with a bitmap of the pages that the VMM itself wrote if writes are tracked (KVM's own log
/// knows only of the guest's).
///
/// Volatile access only: the guest writes it while we read. Whatever is read must be copied once and decided on as copied.
pub type GuestRam = GuestMemoryMmap<Option<AtomicBitmap>>;

/// Why guest memory can't be mapped.
#[derive(Debug, thiserror::Error)]
pub enum MapMemoryError {
    /// A region does not fit into this host's addresses.
    #[error("a region of {bytes} bytes at {address:#x} is too large")]
    TooLarge {
        /// The guest-physical address.
        address: u64,
        /// How many bytes.
        bytes: u64,
    },
    /// The kernel has no such mapping to give.
    #[error("can't map {bytes} bytes")]
    Map {
        /// How many bytes.
        bytes: u64,
        /// What mapping says.
        #[source]
        source: MmapRegionError,
    },
    /// The regions are not in order, or overlap.
    #[error("the regions are not in order")]
    Order(#[source] GuestRegionCollectionError),
}

/// Maps private anonymous memory for these regions, `(start, bytes)` in order, without a bitmap: zero and untouched.
///
/// # Errors
/// See [`MapMemoryError`].
pub fn anonymous_ram(regions: &[(GuestAddress, u64)]) -> Result<GuestRam, MapMemoryError> {
    let mapped = regions.iter().map(|(start, bytes)| {
        let (start, bytes) = (*start, *bytes);
        let too_large = || MapMemoryError::TooLarge {
            address: start.0,
            bytes,
        };
        let mapping = MmapRegionBuilder::new_with_bitmap(usize::try_from(bytes).map_err(|_| too_large())?, None)
            .with_mmap_prot(PROT_READ | PROT_WRITE)
            .with_mmap_flags(MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE)
            .build()
            .map_err(|source| MapMemoryError::Map { bytes, source })?;
        GuestRegionMmap::new(mapping, start).ok_or_else(too_large)
    });
    GuestRam::from_regions(mapped.collect::<Result<_, _>>()?).map_err(MapMemoryError::Order)
}

// mmap(2): the same numbers on both architectures (include/uapi/asm-generic/mman.h, mman-common.h).
const PROT_READ: i32 = 1;
const PROT_WRITE: i32 = 2;
const MAP_PRIVATE: i32 = 2;
const MAP_ANONYMOUS: i32 = 0x20;
const MAP_NORESERVE: i32 = 0x4000;
