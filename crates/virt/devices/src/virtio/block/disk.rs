//! The file behind a disk: how large it is, what it can do, and its name for the guest. It comes open; nothing here has a path.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::sync::Arc;

use rustix::fs::{OFlags, SeekFrom};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The unit of capacity, whatever the block size is (VIRTIO 1.2 §5.2.4).
pub(super) const SECTOR_BYTES: u64 = 512;
/// Bytes of the identifier (`VIRTIO_BLK_ID_BYTES`, §5.2.6).
pub(super) const ID_BYTES: usize = 20;
/// Alignment that `O_DIRECT` may ask for at most on common disks (open(2), NOTES).
const DIRECT_BLOCK_BYTES: u32 = 4096;

/// What happens to written data, with the names of Firecracker's `cache_type`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum CacheType {
    /// Flushes are not on offer: what is written may be lost if the host goes down.
    #[default]
    Unsafe,
    /// A flush of the guest gets what was written to the disk; a guest without flushes gets it there with each write.
    Writeback,
}

/// Why a file can't be a disk.
#[derive(Debug, Error)]
pub enum OpenDiskError {
    /// Asking the system about the file failed.
    #[error("asking about the disk's file failed")]
    File(#[source] io::Error),
    /// It is a directory, a pipe or something else.
    #[error("the disk is neither a file nor a block device")]
    Kind,
    /// It can't be written, but the disk is not to be read-only.
    #[error("the disk's file is open for reading only, but the disk is not read-only")]
    ReadOnly,
    /// It can't be read.
    #[error("the disk's file is not open for reading")]
    Unreadable,
    /// Its file system has no `O_DIRECT`.
    #[error("the disk's file system can't go without the page cache")]
    Direct(#[source] io::Error),
}

/// A disk's file.
#[derive(Debug)]
pub(super) struct Disk {
    pub(super) file: Arc<File>,
    /// Whole blocks only; what is left at the file's end is not shown.
    pub(super) sectors: u64,
    /// Bytes of the smallest transfer: 512, or more without the page cache.
    pub(super) block_bytes: u32,
    /// Names the disk to the guest.
    pub(super) id: [u8; ID_BYTES],
}

impl Disk {
    /// Takes an open file.
    ///
    /// # Errors
    /// See [`OpenDiskError`].
    pub(super) fn open(file: File, is_read_only: bool, is_direct: bool) -> Result<Self, OpenDiskError> {
        let about = file.metadata().map_err(OpenDiskError::File)?;
        if !about.file_type().is_file() && !about.file_type().is_block_device() {
            return Err(OpenDiskError::Kind);
        }
        let flags = rustix::fs::fcntl_getfl(&file).map_err(|error| OpenDiskError::File(error.into()))?;
        match flags & OFlags::RWMODE {
            OFlags::RDWR => {}
            OFlags::WRONLY => return Err(OpenDiskError::Unreadable),
            _ if is_read_only => {}
            _ => return Err(OpenDiskError::ReadOnly),
        }
        // The flag belongs to the open file, which the VMM has opened for this disk alone.
        let direct = if is_direct { OFlags::DIRECT } else { OFlags::empty() };
        rustix::fs::fcntl_setfl(&file, flags.difference(OFlags::DIRECT) | direct)
            .map_err(|error| OpenDiskError::Direct(error.into()))?;
        // A block device's metadata has no length.
        let bytes = rustix::fs::seek(&file, SeekFrom::End(0)).map_err(|error| OpenDiskError::File(error.into()))?;
        let block_bytes = if is_direct { DIRECT_BLOCK_BYTES } else { 512 };
        let blocks = bytes / u64::from(block_bytes);
        Ok(Disk {
            sectors: blocks.saturating_mul(u64::from(block_bytes) / SECTOR_BYTES),
            block_bytes,
            id: identifier(about.dev(), about.rdev(), about.ino()),
            file: Arc::new(file),
        })
    }

    /// The capacity in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.sectors.saturating_mul(SECTOR_BYTES)
    }
}

/// The device (a block device's own, else the one that a file is on) and the file's number, in hexadecimal, cut off at the field's end.
fn identifier(device: u64, own_device: u64, inode: u64) -> [u8; ID_BYTES] {
    let device = if own_device == 0 { device } else { own_device };
    let mut out = [0; ID_BYTES];
    for (place, byte) in out.iter_mut().zip(format!("{inode:x}-{device:x}").bytes()) {
        *place = byte;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_capacity_is_in_whole_blocks() {
        for (bytes, direct, sectors) in [
            (0, false, 0),
            (511, false, 0),
            (1025, false, 2),
            (8192 + 4095, true, 16),
        ] {
            let file = tempfile::tempfile_in(".").unwrap();
            file.set_len(bytes).unwrap();
            assert_eq!(Disk::open(file, false, direct).unwrap().sectors, sectors);
        }
    }

    #[test]
    fn what_can_not_be_a_disk_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let opened = Disk::open(File::open(directory.path()).unwrap(), true, false);
        assert!(matches!(opened, Err(OpenDiskError::Kind)));
        let path = directory.path().join("disk");
        let write_only = File::create(&path).unwrap();
        assert!(matches!(
            Disk::open(write_only, false, false),
            Err(OpenDiskError::Unreadable)
        ));
        let read_only = File::open(&path).unwrap();
        assert!(matches!(
            Disk::open(read_only, false, false),
            Err(OpenDiskError::ReadOnly)
        ));
        assert!(Disk::open(File::open(&path).unwrap(), true, false).is_ok());
    }

    #[test]
    fn the_identifier_is_cut_off() {
        assert_eq!(&identifier(0xfd00, 0, 0x1234), b"1234-fd00\0\0\0\0\0\0\0\0\0\0\0");
        assert_eq!(&identifier(0xfd00, 0x801, 7), b"7-801\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
        assert_eq!(&identifier(u64::MAX, 0, u64::MAX), b"ffffffffffffffff-fff");
    }
}
