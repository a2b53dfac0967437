//! Giving guest memory back to the host: the one place here that calls `madvise(2)`.
#![expect(unsafe_code, reason = "madvise on the guest's memory")]

use ringwall_arch::GuestRam;
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, madvise};
use vm_memory::{GuestAddress, GuestMemoryBackend as _, GuestMemoryRegion as _};

use super::pages::{Range, whole_pages};

/// Pages of a region on hugetlbfs: 2 MiB, the only size that guest memory is made of.
const HUGE_PAGE_BYTES: u64 = 2 << 20;

/// What came of a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Discarded {
    /// So many bytes were given back (less than the range has if the host's pages are larger).
    Bytes(u64),
    /// It is not memory.
    NotMemory,
    /// The host's kernel would not.
    Failed(Errno),
}

/// Gives a range back: what is in it is lost, and it takes no memory until the guest touches it again. It must lie in one region.
///
/// Private memory then reads as zeros, or as the file that it was mapped from (a snapshot that this machine was restored from): the
/// guest's own content of before, never anything of anybody else's. Shared memory gets a hole in its file.
pub(super) fn discard(memory: &GuestRam, range: Range, host_page_bytes: u64) -> Discarded {
    let Some((region, start)) = memory.to_region_addr(GuestAddress(range.address)) else {
        return Discarded::NotMemory;
    };
    let inside = usize::try_from(range.bytes).ok();
    if inside.is_none_or(|bytes| region.get_slice(start, bytes).is_err()) {
        return Discarded::NotMemory;
    }
    let has = |flag: MapFlags| u32::try_from(region.get_mmap().flags()).is_ok_and(|flags| flags & flag.bits() != 0);
    let (is_shared, is_huge) = (has(MapFlags::SHARED), has(MapFlags::HUGETLB));
    let host_page_bytes = if is_huge || region.is_hugetlbfs() == Some(true) {
        host_page_bytes.max(HUGE_PAGE_BYTES)
    } else {
        host_page_bytes
    };
    // Regions begin at host pages, so that guest-physical alignment is the host's too; checked below by the kernel (EINVAL).
    let Some(whole) = whole_pages(range, host_page_bytes) else {
        return Discarded::Bytes(0);
    };
    let Some((region, start)) = memory.to_region_addr(GuestAddress(whole.address)) else {
        return Discarded::NotMemory;
    };
    let Ok(bytes) = usize::try_from(whole.bytes) else {
        return Discarded::NotMemory;
    };
    let Ok(slice) = region.get_slice(start, bytes) else {
        return Discarded::NotMemory;
    };
    let advice = if is_shared {
        Advice::LinuxRemove
    } else {
        Advice::LinuxDontNeed
    };
    let guard = slice.ptr_guard_mut();
    // SAFETY: `slice` is `bytes` bytes of a mapping that lives as long as `memory` is borrowed. Guest memory is only ever accessed
    // volatile, as memory that changes at any time, so that nothing relies on its content.
    let advised = unsafe { madvise(guard.as_ptr().cast(), bytes, advice) };
    match advised {
        Ok(()) => Discarded::Bytes(whole.bytes),
        Err(error) => Discarded::Failed(error),
    }
}
