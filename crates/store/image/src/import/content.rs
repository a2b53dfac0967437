//! The bytes of a regular file: shared where the file system can, copied with holes kept otherwise.

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::SeekFrom;
use rustix::io::{Errno, Result};

/// Bytes moved at once where the kernel can't do it alone.
const CHUNK_BYTES: usize = 256 * 1024;
/// Most bytes in one `copy_file_range`, so that a signal doesn't have to wait for long.
const RANGE_BYTES: u64 = 64 * 1024 * 1024;

/// Copies the content of `source`, `size` bytes long, into the new file `target`. A file that shrinks meanwhile ends in a hole.
pub(super) fn copy(source: &OwnedFd, target: &OwnedFd, size: u64) -> Result<()> {
    // At once, and without taking space (ioctl_ficlone(2)). Any failure means: not on these file systems.
    if size == 0 || rustix::fs::ioctl_ficlone(target, source).is_ok() {
        return Ok(());
    }
    rustix::fs::ftruncate(target, size)?;
    let mut position = 0;
    while let Some((start, end)) = next_data(source, position, size)? {
        copy_range(source, target, start, end)?;
        position = end;
    }
    Ok(())
}

/// The next stretch of data at or after `position` (lseek(2), `SEEK_DATA`).
fn next_data(file: impl AsFd, position: u64, size: u64) -> Result<Option<(u64, u64)>> {
    if position >= size {
        return Ok(None);
    }
    let start = match rustix::fs::seek(&file, SeekFrom::Data(position)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some((position, size))),
        Err(error) => return Err(error),
    };
    let end = rustix::fs::seek(&file, SeekFrom::Hole(start))?.min(size);
    Ok((start < end).then_some((start, end)))
}

fn copy_range(source: &OwnedFd, target: &OwnedFd, start: u64, end: u64) -> Result<()> {
    let (mut from, mut to) = (start, start);
    while from < end {
        let length = usize::try_from((end - from).min(RANGE_BYTES)).unwrap_or(CHUNK_BYTES);
        match rustix::fs::copy_file_range(source, Some(&mut from), target, Some(&mut to), length) {
            Ok(0) => return Ok(()),
            Ok(_) | Err(Errno::INTR) => {}
            // Between file systems that can't, or special ones (copy_file_range(2), ERRORS).
            Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS | Errno::PERM) => {
                return copy_by_hand(source, target, from, end);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn copy_by_hand(source: &OwnedFd, target: &OwnedFd, mut position: u64, end: u64) -> Result<()> {
    let mut buffer = vec![0_u8; CHUNK_BYTES];
    while position < end {
        let wanted = usize::try_from(end - position).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
        let part = buffer.get_mut(..wanted).unwrap_or_default();
        let got = rustix::io::retry_on_intr(|| rustix::io::pread(source, &mut *part, position))?;
        if got == 0 {
            return Ok(());
        }
        let mut rest = part.get(..got).unwrap_or_default();
        while !rest.is_empty() {
            let written = rustix::io::retry_on_intr(|| rustix::io::pwrite(target, rest, position))?;
            if written == 0 {
                return Err(Errno::IO);
            }
            rest = rest.get(written..).unwrap_or_default();
            position += written as u64;
        }
    }
    Ok(())
}
