//! The bytes of a regular file: copied with its holes, shared where the file system can, and compared.

use std::os::unix::fs::FileExt as _;

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::SeekFrom;
use rustix::io::{Errno, Result};

/// Bytes moved at once: large enough that the calls don't count, small enough for the stack's neighbour, the heap.
const CHUNK: usize = 256 * 1024;

/// Copies `source` into the empty file `destination`, holes as holes.
pub(crate) fn copy(source: &OwnedFd, destination: &OwnedFd, size: u64) -> Result<()> {
    // Same file system and a kind that can: the copy is instant and takes no space (ioctl_ficlone(2)).
    if size > 0 && rustix::fs::ioctl_ficlone(destination, source).is_ok() {
        return Ok(());
    }
    rustix::fs::ftruncate(destination, size)?;
    let mut position = 0;
    while position < size {
        let (start, end) = match next_data(source, position, size)? {
            Some(range) => range,
            None => break,
        };
        copy_range(source, destination, start, end)?;
        position = end;
    }
    Ok(())
}

/// The next stretch of data at or after `position` (lseek(2), `SEEK_DATA`); none if only a hole follows.
fn next_data(file: impl AsFd, position: u64, size: u64) -> Result<Option<(u64, u64)>> {
    let start = match rustix::fs::seek(&file, SeekFrom::Data(position)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some((position, size))),
        Err(error) => return Err(error),
    };
    let end = rustix::fs::seek(&file, SeekFrom::Hole(start))?;
    // A file that shrinks meanwhile must not make this run backwards.
    Ok((start < size && end > start).then_some((start, end.min(size))))
}

fn copy_range(source: &OwnedFd, destination: &OwnedFd, start: u64, end: u64) -> Result<()> {
    let (mut from, mut to) = (start, start);
    while from < end {
        let length = usize::try_from(end - from).unwrap_or(usize::MAX).min(1 << 30);
        match rustix::fs::copy_file_range(source, Some(&mut from), destination, Some(&mut to), length) {
            Ok(0) => return Err(Errno::IO), // shorter than it said
            Ok(_) => {}
            // Between file systems that don't do it, or a kernel that lacks it (copy_file_range(2), ERRORS).
            Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => {
                return copy_by_hand(source, destination, from, end);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn copy_by_hand(source: &OwnedFd, destination: &OwnedFd, mut position: u64, end: u64) -> Result<()> {
    let mut buffer = vec![0_u8; CHUNK];
    while position < end {
        let wanted = usize::try_from(end - position).unwrap_or(CHUNK).min(CHUNK);
        let piece = buffer.get_mut(..wanted).ok_or(Errno::INVAL)?;
        let got = rustix::io::pread(source, &mut *piece, position)?;
        if got == 0 {
            return Err(Errno::IO);
        }
        let mut written = 0;
        while written < got {
            let rest = piece.get(written..got).ok_or(Errno::INVAL)?;
            let offset = position + u64::try_from(written).unwrap_or(0);
            written += rustix::io::pwrite(destination, rest, offset)?;
        }
        position += u64::try_from(got).unwrap_or(0);
    }
    Ok(())
}

/// Whether two files of the same size hold the same bytes. What is a hole in both is skipped.
pub(crate) fn is_same(ours: &OwnedFd, theirs: &OwnedFd) -> std::io::Result<bool> {
    let size = crate::attr::Attr::from(rustix::fs::fstat(ours)?).size;
    let (left, right) = (
        std::fs::File::from(ours.try_clone()?),
        std::fs::File::from(theirs.try_clone()?),
    );
    let (mut ours_buffer, mut theirs_buffer) = (vec![0_u8; CHUNK], vec![0_u8; CHUNK]);
    let mut position = 0;
    while position < size {
        let first = next_data(ours, position, size)?.map_or(size, |(start, _)| start);
        let second = next_data(theirs, position, size)?.map_or(size, |(start, _)| start);
        position = position.max(first.min(second));
        if position >= size {
            return Ok(true);
        }
        let length = usize::try_from(size - position).unwrap_or(CHUNK).min(CHUNK);
        let (Some(mine), Some(other)) = (ours_buffer.get_mut(..length), theirs_buffer.get_mut(..length)) else {
            return Ok(false);
        };
        left.read_exact_at(mine, position)?;
        match right.read_exact_at(other, position) {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(false),
            other => other?,
        }
        if mine != other {
            return Ok(false);
        }
        position += u64::try_from(length).unwrap_or(0);
    }
    Ok(true)
}
