//! Guest memory on the host: anonymous pages at first, and after a restore a private mapping of the snapshot's file, so that clones share
//! what none of them has written; or anonymous pages that a page fault handler fills (`snapshot/uffd.rs`).
//!
//! The addresses never change during the life of a process: KVM's slots are made once, and a restore maps the file over them. That is
//! what lets a VM be prepared before it is known what it will run.
#![expect(
    unsafe_code,
    reason = "a file is mapped over memory that KVM and devices hold addresses of"
)]

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;

use ringwall_arch::GuestRam;
use rustix::mm::{MapFlags, ProtFlags};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use vm_memory::bitmap::AtomicBitmap;
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{GuestAddress, GuestMemoryBackend as _, GuestMemoryRegion as _, GuestRegionMmap};

/// What the dirty bitmap and the snapshot's file count in, in bytes. Smaller than some hosts' pages (aarch64 has 16 and 64 KiB), never larger.
pub const PAGE_BYTES: usize = 4096;
/// The size of huge pages that memory is made of, in bytes.
pub const HUGE_PAGE_BYTES: u64 = 2 << 20;

/// Memory that can't be had.
#[derive(Debug, Error)]
pub enum MemoryError {
    /// The kernel does not give it.
    #[error("can't map {bytes} bytes of guest memory")]
    Map {
        /// How much was asked for.
        bytes: u64,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// There are not enough huge pages.
    #[error(
        "there are not enough free pages of 2 MiB for {bytes} bytes of guest memory: set more aside (/proc/sys/vm/nr_hugepages), or leave \
         out huge_pages"
    )]
    HugePages {
        /// How much was asked for.
        bytes: u64,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The regions make no memory; a defect of ours.
    #[error("the regions of guest memory overlap or are out of order")]
    Regions,
    /// A snapshot's memory file can't be read.
    #[error("can't read the memory file")]
    Read(#[source] io::Error),
    /// A snapshot's memory file is of another VM, or was cut off.
    #[error("the memory file has {file} bytes, the VM {memory}")]
    Length {
        /// The file's length.
        file: u64,
        /// The memory's size.
        memory: u64,
    },
}

/// How guest memory is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemoryOptions {
    /// Keep a bitmap of the pages that devices write, for snapshots of differences.
    pub track_dirty: bool,
    /// 2 MiB pages (hugetlbfs); they must have been set aside on the host.
    pub huge_pages: bool,
}

/// Makes guest memory of the given regions, all of it zero and none of it taken from the host yet.
///
/// # Errors
/// See [`MemoryError`].
pub fn create(regions: &[(GuestAddress, u64)], options: MemoryOptions) -> Result<GuestRam, MemoryError> {
    let made: Result<Vec<_>, _> = regions
        .iter()
        .map(|&(base, bytes)| create_region(base, bytes, options))
        .collect();
    GuestRam::from_regions(made?).map_err(|_| MemoryError::Regions)
}

fn create_region(
    base: GuestAddress,
    bytes: u64,
    options: MemoryOptions,
) -> Result<GuestRegionMmap<Option<AtomicBitmap>>, MemoryError> {
    let map_error = |source| match options.huge_pages {
        false => MemoryError::Map { bytes, source },
        true => MemoryError::HugePages { bytes, source },
    };
    let size = usize::try_from(bytes).map_err(|_| map_error(io::ErrorKind::OutOfMemory.into()))?;
    let page = const { std::num::NonZero::new(PAGE_BYTES).expect("it is not zero") };
    let bitmap = options.track_dirty.then(|| AtomicBitmap::new(size, page));
    // libc's MAP_ANONYMOUS has no name in rustix, which has a function of its own for it.
    let mut flags = anonymous_flags(options);
    // Set aside now: a huge page that is not there when it is touched would end the process (SIGBUS).
    flags.set(MapFlags::NORESERVE, !options.huge_pages);
    let flags = i32::try_from(flags.bits()).unwrap_or_default() | libc_map_anonymous();
    let prot = i32::try_from((ProtFlags::READ | ProtFlags::WRITE).bits()).unwrap_or_default();
    let mapping = MmapRegionBuilder::new_with_bitmap(size, bitmap)
        .with_mmap_prot(prot)
        .with_mmap_flags(flags)
        .build()
        .map_err(|error| map_error(io::Error::other(error)))?;
    GuestRegionMmap::new(mapping, base).ok_or(MemoryError::Regions)
}

fn anonymous_flags(options: MemoryOptions) -> MapFlags {
    if options.huge_pages {
        // Reserved: without a reservation a page that is not to be had when the guest touches it ends the process (SIGBUS).
        MapFlags::PRIVATE | MapFlags::HUGETLB | MapFlags::HUGE_2MB
    } else {
        MapFlags::PRIVATE | MapFlags::NORESERVE
    }
}

/// Makes the memory as [`create`] did: whatever was written since is gone, and no page of it is there.
///
/// # Errors
/// See [`MemoryError`]; the memory may be partly replaced then, and the VM must not run.
pub fn make_anonymous(memory: &GuestRam, options: MemoryOptions) -> Result<(), MemoryError> {
    for region in memory.iter() {
        let size = usize::try_from(region.len()).map_err(|_| MemoryError::Regions)?;
        // SAFETY: the range is exactly one mapping that `create` made and that `region` keeps alive; it stays mapped and writable, and guest
        // memory is only ever accessed volatilely, so that its contents may change under everybody.
        let mapped = unsafe {
            rustix::mm::mmap_anonymous(
                region.as_ptr().cast(),
                size,
                ProtFlags::READ | ProtFlags::WRITE,
                anonymous_flags(options) | MapFlags::FIXED,
            )
        };
        mapped.map_err(|error| MemoryError::Map {
            bytes: region.len(),
            source: error.into(),
        })?;
    }
    Ok(())
}

/// `MAP_ANONYMOUS` of `asm-generic/mman-common.h`, the same on both architectures.
const fn libc_map_anonymous() -> i32 {
    0x20
}

/// Maps a snapshot's memory file over the memory, privately: pages are read when they are touched, and writes stay ours. The file holds
/// the regions one after the other.
///
/// The caller vouches that the file is not made shorter while the VM lives; the kernel would end the process then.
///
/// # Errors
/// See [`MemoryError`]; the memory may be partly replaced then, and the VM must not run.
pub fn map_over(memory: &GuestRam, file: &File) -> Result<(), MemoryError> {
    let wanted = check_length(memory, file)?;
    let map_error = |source: io::Error| MemoryError::Map { bytes: wanted, source };
    let mut offset = 0;
    for region in memory.iter() {
        let size = usize::try_from(region.len()).map_err(|_| MemoryError::Regions)?;
        // SAFETY: the range is exactly one mapping that `create` made and that `region` keeps alive; it stays mapped and writable, and guest
        // memory is only ever accessed volatilely, so that its contents may change under everybody.
        let mapped = unsafe {
            rustix::mm::mmap(
                region.as_ptr().cast(),
                size,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED,
                file.as_fd(),
                offset,
            )
        };
        mapped.map_err(|error| map_error(error.into()))?;
        offset += region.len();
    }
    Ok(())
}

/// Reads a snapshot's memory file into memory of huge pages, as [`create`] made it.
///
/// # Errors
/// See [`MemoryError`].
pub fn read_into(memory: &GuestRam, file: &File) -> Result<(), MemoryError> {
    check_length(memory, file)?;
    crate::snapshot::memory_file::read_into(memory, file).map_err(MemoryError::Read)
}

/// The memory's size in bytes, of which a memory file must have as many.
fn check_length(memory: &GuestRam, file: &File) -> Result<u64, MemoryError> {
    let wanted: u64 = memory.iter().map(vm_memory::GuestMemoryRegion::len).sum();
    let length = file.metadata().map_err(MemoryError::Read)?.len();
    if length != wanted {
        return Err(MemoryError::Length {
            file: length,
            memory: wanted,
        });
    }
    Ok(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Seek as _, Write as _};
    use vm_memory::Bytes as _;

    fn two_regions() -> GuestRam {
        let regions = [(GuestAddress(0), 1 << 20), (GuestAddress(4 << 30), 2 << 20)];
        create(&regions, MemoryOptions::default()).unwrap()
    }

    #[test]
    fn a_file_is_mapped_over_and_writes_stay_private() {
        let memory = two_regions();
        memory.write_obj(7_u64, GuestAddress(4096)).unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.set_len(3 << 20).unwrap();
        file.seek(io::SeekFrom::Start(1 << 20)).unwrap();
        file.write_all(b"second").unwrap();
        map_over(&memory, &file).unwrap();
        assert_eq!(memory.read_obj::<u64>(GuestAddress(4096)).unwrap(), 0);
        let mut seen = [0; 6];
        memory.read_slice(&mut seen, GuestAddress(4 << 30)).unwrap();
        assert_eq!(&seen, b"second");
        memory.write_slice(b"mine!!", GuestAddress(4 << 30)).unwrap();
        file.seek(io::SeekFrom::Start(1 << 20)).unwrap();
        io::Read::read_exact(&mut file, &mut seen).unwrap();
        assert_eq!(&seen, b"second");
    }

    #[test]
    fn memory_that_is_made_anew_is_empty() {
        let memory = two_regions();
        memory.write_obj(7_u64, GuestAddress(4 << 30)).unwrap();
        make_anonymous(&memory, MemoryOptions::default()).unwrap();
        assert_eq!(memory.read_obj::<u64>(GuestAddress(4 << 30)).unwrap(), 0);
    }

    #[test]
    fn a_file_of_another_length_is_refused() {
        let file = tempfile::tempfile().unwrap();
        for length in [0, (3 << 20) - 1, (3 << 20) + 1] {
            file.set_len(length).unwrap();
            let error = map_over(&two_regions(), &file).unwrap_err();
            let wanted = format!("the memory file has {length} bytes, the VM 3145728");
            assert_eq!(error.to_string(), wanted);
        }
    }

    #[test]
    fn more_than_the_address_space_is_an_error() {
        let regions = [(GuestAddress(0), 1 << 62)];
        let error = create(&regions, MemoryOptions::default()).unwrap_err();
        assert_eq!(error.to_string(), "can't map 4611686018427387904 bytes of guest memory");
    }
}
