//! What `stat` says about an entry, the same on every architecture, and the shift of its owner.

use rustix::fs::{AtFlags, FileType, Stat, Timespec, Timestamps};
use serde::{Deserialize, Serialize};

/// The type of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A socket: means nothing once its program has ended.
    Socket,
    /// A device node: never applied.
    Device,
}

/// A time stamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Stamp {
    pub(crate) seconds: i64,
    pub(crate) nanos: i64,
}

impl Stamp {
    /// Nanoseconds since the epoch.
    pub(crate) fn total_ns(self) -> i128 {
        i128::from(self.seconds) * 1_000_000_000 + i128::from(self.nanos)
    }

    pub(crate) fn timespec(self) -> Timespec {
        Timespec {
            tv_sec: self.seconds,
            tv_nsec: self.nanos,
        }
    }
}

/// What `stat` said.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attr {
    pub(crate) kind: FileKind,
    /// Permission bits with setuid, setgid and sticky.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// In bytes.
    pub(crate) size: u64,
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) has_other_links: bool,
    /// In 512-byte units, whatever the file system's block size (stat(2)).
    pub(crate) blocks: u64,
    pub(crate) accessed: Stamp,
    pub(crate) modified: Stamp,
    pub(crate) changed: Stamp,
    /// A character device 0:0: overlayfs's mark of a deleted entry (Documentation/filesystems/overlayfs.rst, "whiteouts").
    pub(crate) is_whiteout: bool,
}

impl From<Stat> for Attr {
    fn from(stat: Stat) -> Self {
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => FileKind::File,
            FileType::Directory => FileKind::Directory,
            FileType::Symlink => FileKind::Symlink,
            FileType::Fifo => FileKind::Fifo,
            FileType::Socket => FileKind::Socket,
            FileType::CharacterDevice | FileType::BlockDevice | FileType::Unknown => FileKind::Device,
        };
        Attr {
            kind,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            device: stat.st_dev,
            inode: stat.st_ino,
            has_other_links: stat.st_nlink > 1,
            blocks: u64::try_from(stat.st_blocks).unwrap_or(0),
            accessed: stamp(stat.st_atime, i64::try_from(stat.st_atime_nsec)),
            modified: stamp(stat.st_mtime, i64::try_from(stat.st_mtime_nsec)),
            changed: stamp(stat.st_ctime, i64::try_from(stat.st_ctime_nsec)),
            is_whiteout: FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0,
        }
    }
}

fn stamp<E>(seconds: i64, nanos: Result<i64, E>) -> Stamp {
    Stamp {
        seconds,
        nanos: nanos.unwrap_or(0),
    }
}

impl Attr {
    /// Access and modification time for `utimensat`.
    pub(crate) fn times(&self) -> Timestamps {
        Timestamps {
            last_access: self.accessed.timespec(),
            last_modification: self.modified.timespec(),
        }
    }

    /// The mode that may be committed: a regular file never gets setuid or setgid from a sandbox.
    pub(crate) fn safe_mode(&self) -> u32 {
        if self.kind == FileKind::File {
            self.mode & !0o6000
        } else {
            self.mode
        }
    }
}

/// `fstatat` without following.
pub(crate) fn stat_at(directory: impl rustix::fd::AsFd, name: impl rustix::path::Arg) -> rustix::io::Result<Attr> {
    rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).map(Attr::from)
}

/// How the owners of captured files become owners in the target: `outside_start + n` is `inside_start + n`, for n below `count`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdShift {
    /// First id as committed.
    pub inside_start: u32,
    /// First id as found in the upper.
    pub outside_start: u32,
    /// How many ids.
    pub count: u32,
}

impl IdShift {
    /// Returns the id to commit for the one in the upper; ids outside the range stay.
    #[must_use]
    pub fn to_target(self, id: u32) -> u32 {
        shift(id, self.outside_start, self.inside_start, self.count)
    }

    /// Returns the id in the upper for the one in the target.
    #[must_use]
    pub fn to_upper(self, id: u32) -> u32 {
        shift(id, self.inside_start, self.outside_start, self.count)
    }

    /// Whether both ranges fit below the id that means "nobody in particular" (`-1`, chown(2)).
    pub(crate) fn is_valid(self) -> bool {
        let fits = |start: u32| start.checked_add(self.count).is_some();
        self.count > 0 && fits(self.inside_start) && fits(self.outside_start)
    }
}

fn shift(id: u32, from: u32, to: u32, count: u32) -> u32 {
    match id.checked_sub(from) {
        Some(offset) if offset < count => to.saturating_add(offset),
        _ => id,
    }
}

/// Owner and group, shifted if there is a shift.
pub(crate) fn owner(attr: &Attr, shift: Option<IdShift>) -> (u32, u32) {
    shift.map_or((attr.uid, attr.gid), |shift| {
        (shift.to_target(attr.uid), shift.to_target(attr.gid))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_move_only_within_their_range() {
        let shift = IdShift {
            inside_start: 1000,
            outside_start: 100_000,
            count: 10,
        };
        assert_eq!(
            [100_000, 100_009, 100_010, 5].map(|id| shift.to_target(id)),
            [1000, 1009, 100_010, 5]
        );
        assert_eq!(
            [1000, 1009, 1010].map(|id| shift.to_upper(id)),
            [100_000, 100_009, 1010]
        );
        assert!(shift.is_valid());
        assert!(
            !IdShift {
                inside_start: u32::MAX,
                outside_start: 0,
                count: 2
            }
            .is_valid()
        );
    }
}
