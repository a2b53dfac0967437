//! The guest's buffers of one transfer, as the kernel wants them: host addresses that stay mapped as long as the value lives.
//!
//! The kernel copies between file and guest memory itself; this process never looks at the bytes. The guest may write them at the same
//! time, which is its own affair.
#![expect(
    unsafe_code,
    reason = "preadv(2) and pwritev(2) on guest memory, which must not be a `&[u8]`: the guest writes it"
)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;

use ringwall_arch::GuestRam;
use vm_memory::bitmap::Bitmap as _;
use vm_memory::{GuestMemory as _, Permissions};

use crate::virtio::Segment;

/// Most parts that one call takes (`UIO_MAXIOV`, Linux `include/uapi/linux/uio.h`).
const MAX_VECTORS: usize = 1024;

/// Guest memory of one transfer, of which a part may be done already.
#[derive(Debug)]
pub(super) struct GuestBuffers {
    /// Keeps the mappings alive that `vectors` points into.
    memory: Arc<GuestRam>,
    segments: Vec<Segment>,
    vectors: Vec<libc::iovec>,
    /// The first of `vectors` that is not done.
    first: usize,
}

// SAFETY: the addresses in `vectors` point into mappings that `memory`, which is `Send`, keeps alive, and are only handed to the
// kernel; no thread has anything of its own there.
unsafe impl Send for GuestBuffers {}

impl GuestBuffers {
    /// Finds the host's addresses. None if the ranges are not in memory, or too many.
    pub(super) fn new(memory: &Arc<GuestRam>, segments: Vec<Segment>) -> Option<Self> {
        let mut vectors = Vec::with_capacity(segments.len());
        for segment in &segments {
            let bytes = usize::try_from(segment.bytes).ok()?;
            // The permission is that of memory without an IOMMU: all of it.
            for slice in memory.get_slices(segment.address, bytes, Permissions::ReadWrite).ok()? {
                let slice = slice.ok()?;
                vectors.push(libc::iovec {
                    iov_base: slice.ptr_guard_mut().as_ptr().cast(),
                    iov_len: slice.len(),
                });
            }
        }
        (vectors.len() <= MAX_VECTORS).then(|| GuestBuffers {
            memory: Arc::clone(memory),
            segments,
            vectors,
            first: 0,
        })
    }

    /// What is not done yet, for a call of the kernel. The addresses stay valid while this value lives, even if it is moved, until
    /// [`GuestBuffers::advance`].
    pub(super) fn rest(&self) -> &[libc::iovec] {
        self.vectors.get(self.first..).unwrap_or(&[])
    }

    /// Bytes that are not done yet.
    pub(super) fn rest_bytes(&self) -> u64 {
        let bytes = |vector: &libc::iovec| u64::try_from(vector.iov_len).unwrap_or(0);
        self.rest().iter().map(bytes).sum()
    }

    /// Counts bytes as done.
    pub(super) fn advance(&mut self, bytes: usize) {
        let mut left = bytes;
        while let Some(vector) = self.vectors.get_mut(self.first) {
            if left < vector.iov_len {
                vector.iov_base = vector.iov_base.wrapping_byte_add(left);
                vector.iov_len = vector.iov_len.saturating_sub(left);
                return;
            }
            left = left.saturating_sub(vector.iov_len);
            self.first = self.first.saturating_add(1);
        }
    }

    /// Records that the guest's pages have been written, for a snapshot's difference.
    pub(super) fn mark_dirty(&self) {
        for segment in &self.segments {
            let bytes = usize::try_from(segment.bytes).unwrap_or(usize::MAX);
            let Ok(slices) = self.memory.get_slices(segment.address, bytes, Permissions::Write) else {
                continue;
            };
            for slice in slices.flatten() {
                slice.bitmap().mark_dirty(0, slice.len());
            }
        }
    }

    /// Fills the buffers from a file.
    ///
    /// # Errors
    /// What the system says; the file's end is one.
    pub(super) fn read_from(&mut self, file: &File, offset: u64) -> io::Result<()> {
        self.transfer(offset, |vectors, count, offset| {
            // SAFETY: `vectors` points to `count` vectors of `self`, whose addresses are guest memory that `self.memory` keeps mapped
            // and writable; the descriptor is borrowed. Nothing in this process has a reference into guest memory.
            unsafe { libc::preadv(file.as_raw_fd(), vectors, count, offset) }
        })
    }

    /// Writes the buffers to a file.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn write_to(&mut self, file: &File, offset: u64) -> io::Result<()> {
        self.transfer(offset, |vectors, count, offset| {
            // SAFETY: as for `read_from`; the kernel only reads.
            unsafe { libc::pwritev(file.as_raw_fd(), vectors, count, offset) }
        })
    }

    fn transfer(
        &mut self,
        offset: u64,
        call: impl Fn(*const libc::iovec, libc::c_int, libc::off_t) -> isize,
    ) -> io::Result<()> {
        let mut at = offset;
        while !self.rest().is_empty() {
            let rest = self.rest();
            let count = libc::c_int::try_from(rest.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
            let place = libc::off_t::try_from(at).map_err(|_| io::ErrorKind::InvalidInput)?;
            match usize::try_from(call(rest.as_ptr(), count, place)) {
                // The file has become shorter.
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(bytes) => {
                    self.advance(bytes);
                    at = at.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
                }
                Err(_) => {
                    let error = io::Error::last_os_error();
                    if error.kind() != io::ErrorKind::Interrupted {
                        return Err(error);
                    }
                }
            }
        }
        Ok(())
    }
}
