//! What is done with the file for one request, with everything checked already. May wait for the disk.

use std::fs::File;
use std::io;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::buffers::GuestBuffers;

/// Zeros are written in pieces of this size where the file system has no call for it.
const ZERO_PIECE: usize = 64 * 1024;

/// Bytes of the disk, all of them within it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    /// From the disk's beginning, in bytes.
    pub(super) offset: u64,
    /// Its length.
    pub(super) bytes: u64,
}

/// An operation of the disk.
#[derive(Debug)]
pub(super) enum Operation {
    /// From the file into the guest.
    Read { buffers: GuestBuffers, offset: u64 },
    /// From the guest into the file.
    Write { buffers: GuestBuffers, offset: u64 },
    /// Everything that is written gets to the disk.
    Flush,
    /// The contents are not needed any more.
    Discard(Range),
    /// The contents become zeros; with `unmap` the space may be given back.
    Zero { range: Range, unmap: bool },
}

impl Operation {
    /// Does it, and returns when it is done.
    ///
    /// # Errors
    /// What the system says; [`io::ErrorKind::Unsupported`] if the file can't do it.
    pub(super) fn run(&mut self, file: &File) -> io::Result<()> {
        match self {
            Operation::Read { buffers, offset } => buffers.read_from(file, *offset),
            Operation::Write { buffers, offset } => buffers.write_to(file, *offset),
            Operation::Flush => file.sync_data(),
            Operation::Discard(_) => self.allocate(file),
            Operation::Zero { range, .. } => {
                let range = *range;
                match self.allocate(file) {
                    Err(error) if error.kind() == io::ErrorKind::Unsupported => write_zeros(file, range),
                    other => other,
                }
            }
        }
    }

    /// The range and mode for `fallocate(2)`, for the operations that are one.
    pub(super) fn allocation(&self) -> Option<(Range, FallocateFlags)> {
        match self {
            Operation::Discard(range) | Operation::Zero { range, unmap: true } => {
                Some((*range, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE))
            }
            Operation::Zero { range, unmap: false } => {
                Some((*range, FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE))
            }
            Operation::Read { .. } | Operation::Write { .. } | Operation::Flush => None,
        }
    }

    fn allocate(&self, file: &File) -> io::Result<()> {
        let Some((range, mode)) = self.allocation() else {
            return Ok(());
        };
        loop {
            match rustix::fs::fallocate(file, mode, range.offset, range.bytes) {
                Err(Errno::INTR) => {}
                other => return other.map_err(io::Error::from),
            }
        }
    }
}

/// Writes zeros. The caller bounds the range.
fn write_zeros(file: &File, range: Range) -> io::Result<()> {
    use std::os::unix::fs::FileExt as _;
    // Aligned to a page, for files without a cache (open(2), O_DIRECT).
    #[repr(align(4096))]
    struct Zeros([u8; ZERO_PIECE]);
    static ZEROS: Zeros = Zeros([0; ZERO_PIECE]);
    let mut done = 0_u64;
    while done < range.bytes {
        let left = usize::try_from(range.bytes.saturating_sub(done)).unwrap_or(usize::MAX);
        let piece = ZEROS.0.get(..left.min(ZERO_PIECE)).unwrap_or(&[]);
        file.write_all_at(piece, range.offset.saturating_add(done))?;
        done = done.saturating_add(u64::try_from(piece.len()).unwrap_or(u64::MAX));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    #[test]
    fn zeros_are_written_where_there_is_no_call_for_it() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[7; 200_000], 0).unwrap();
        let range = Range {
            offset: 1_000,
            bytes: 150_000,
        };
        write_zeros(&file, range).unwrap();
        let mut contents = vec![0; 200_000];
        file.read_exact_at(&mut contents, 0).unwrap();
        assert!(contents[..1_000].iter().all(|byte| *byte == 7));
        assert!(contents[1_000..151_000].iter().all(|byte| *byte == 0));
        assert!(contents[151_000..].iter().all(|byte| *byte == 7));
    }
}
