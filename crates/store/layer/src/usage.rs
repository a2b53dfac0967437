//! How much disk an upper takes, for the watch that enforces a disk limit while the sandbox runs and writes.
//!
//! The tree changes under the walk, so a name that vanishes is no error. A path that grows too long for one call is continued from
//! a descriptor in its middle, so that depth hides nothing.

use std::rc::Rc;

use rustix::fd::{AsFd as _, BorrowedFd, OwnedFd};
use rustix::fs::{Dir, Mode, ResolveFlags};
use rustix::io::Errno;

use crate::attr::{Attr, FileKind, stat_at};
use crate::path::RelPath;
use crate::tree::{DIRECTORY, os};

/// Path length from which on a directory is reached from its own descriptor, in bytes: half of `PATH_MAX`.
const MAX_REACH_BYTES: usize = 2048;

/// What was counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes on disk; a file with several names counts once per name seen.
    pub bytes: u64,
    /// Entries seen.
    pub entries: u64,
    /// Whether everything was seen: no directory was closed to the caller and `max_entries` was enough.
    pub is_complete: bool,
}

/// Counts the bytes on disk below an upper, looking at no more than `max_entries` entries.
///
/// Follows no symlink and crosses no mount. Never fails: what can't be read makes the count incomplete, and the caller decides
/// what that means (a program can close its own directories).
#[must_use]
pub fn usage_bytes(upper: BorrowedFd<'_>, max_entries: u64) -> Usage {
    let mut usage = Usage {
        is_complete: true,
        ..Usage::default()
    };
    let Ok(root) = rustix::fs::openat(upper, ".", DIRECTORY, Mode::empty()) else {
        return Usage {
            is_complete: false,
            ..usage
        };
    };
    let mut pending: Vec<(Rc<OwnedFd>, RelPath)> = vec![(Rc::new(root), RelPath::root())];
    while let Some((base, path)) = pending.pop() {
        let flags =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        let opened = rustix::fs::openat2(base.as_fd(), path.as_path(), DIRECTORY, Mode::empty(), flags);
        let directory = match opened {
            Ok(directory) => directory,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
            Err(_) => {
                usage.is_complete = false;
                continue;
            }
        };
        let directory = Rc::new(directory);
        let (base, path) = if path.as_bytes().len() > MAX_REACH_BYTES {
            (Rc::clone(&directory), RelPath::root())
        } else {
            (base, path)
        };
        let Ok(entries) = Dir::read_from(directory.as_fd()) else {
            usage.is_complete = false;
            continue;
        };
        for entry in entries {
            let Ok(entry) = entry else {
                usage.is_complete = false;
                break;
            };
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            if usage.entries >= max_entries {
                return Usage {
                    is_complete: false,
                    ..usage
                };
            }
            match stat_at(directory.as_fd(), os(name)) {
                Ok(attr) => {
                    usage.count(&attr);
                    if attr.kind == FileKind::Directory {
                        pending.push((Rc::clone(&base), path.join(name)));
                    }
                }
                Err(Errno::NOENT) => {}
                Err(_) => usage.is_complete = false,
            }
        }
    }
    usage
}

impl Usage {
    fn count(&mut self, attr: &Attr) {
        self.entries += 1;
        self.bytes = self.bytes.saturating_add(attr.blocks.saturating_mul(512));
    }
}
