//! A directory tree reached only through its root's descriptor: no symlink is followed and nothing outside is reached.
//!
//! Paths are resolved by `openat2` with `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV`
//! (openat2(2), Linux 5.6): one call, whatever the depth, and a mount in the way is an error (`EXDEV`), not a detour.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{CWD, Dir, Mode, OFlags, ResolveFlags};
use rustix::io::{Errno, Result};

use crate::attr::{Attr, stat_at};
use crate::path::RelPath;

/// Flags to read a directory.
pub(crate) const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC)
    .union(OFlags::NONBLOCK);
/// Flags to name an entry without opening it.
const NAME_ONLY: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// How every path below a root is resolved.
const BENEATH: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

/// A tree, by its root.
#[derive(Debug)]
pub(crate) struct Tree {
    root: OwnedFd,
}

impl Tree {
    /// Takes the tree below an open directory.
    pub(crate) fn new(root: OwnedFd) -> Self {
        Tree { root }
    }

    pub(crate) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    fn open(&self, path: &RelPath, flags: OFlags) -> Result<OwnedFd> {
        rustix::fs::openat2(&self.root, path.as_path(), flags, Mode::empty(), BENEATH)
    }

    /// Opens a directory for reading.
    pub(crate) fn open_dir(&self, path: &RelPath) -> Result<OwnedFd> {
        self.open(path, DIRECTORY)
    }

    /// Opens a regular file for reading. Whoever calls has seen that it is one; `NONBLOCK` keeps a pipe from blocking us.
    pub(crate) fn open_file(&self, path: &RelPath) -> Result<OwnedFd> {
        let file = self.open(
            path,
            OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY,
        )?;
        let attr = Attr::from(rustix::fs::fstat(&file)?);
        if attr.kind == crate::attr::FileKind::File {
            Ok(file)
        } else {
            Err(Errno::INVAL)
        }
    }

    /// Opens the directory that holds an entry, and returns the entry's name.
    pub(crate) fn open_parent<'path>(&self, path: &'path RelPath) -> Result<(OwnedFd, &'path OsStr)> {
        match path.split() {
            Some((parent, name)) => Ok((self.open(&parent, NAME_ONLY | OFlags::DIRECTORY)?, name)),
            None => Ok((self.open(path, NAME_ONLY | OFlags::DIRECTORY)?, OsStr::new("."))),
        }
    }

    /// `lstat`; `None` where there is nothing, or where a parent is no directory any more.
    pub(crate) fn stat(&self, path: &RelPath) -> Result<Option<Attr>> {
        let (parent, name) = match self.open_parent(path) {
            Ok(found) => found,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            Err(error) => return Err(error),
        };
        stat_entry(&parent, name)
    }

    /// Sets the mode of an entry that is no symlink.
    pub(crate) fn chmod(&self, path: &RelPath, mode: u32) -> Result<()> {
        chmod_named(&self.open(path, NAME_ONLY)?, mode)
    }
}

/// `lstat` in an open directory; `None` where there is nothing.
pub(crate) fn stat_entry(directory: impl AsFd, name: impl rustix::path::Arg) -> Result<Option<Attr>> {
    match stat_at(directory, name) {
        Ok(attr) => Ok(Some(attr)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Sets the mode of what an `O_PATH` descriptor names. `fchmod` refuses such a descriptor and `fchmodat` would follow a symlink
/// (chmod(2)), so it goes through the descriptor's own link in /proc, which can't be exchanged under us.
pub(crate) fn chmod_named(entry: &OwnedFd, mode: u32) -> Result<()> {
    use std::os::fd::AsRawFd as _;
    let link = format!("/proc/self/fd/{}", entry.as_raw_fd());
    rustix::fs::chmodat(CWD, link, Mode::from_raw_mode(mode), rustix::fs::AtFlags::empty())
}

/// Sets the mode of an entry of a directory, not following.
pub(crate) fn chmod_at(directory: impl AsFd, name: &OsStr, mode: u32) -> Result<()> {
    chmod_named(&rustix::fs::openat(directory, name, NAME_ONLY, Mode::empty())?, mode)
}

/// Lists a directory's names, but at most `limit` of them, without `.` and `..`.
pub(crate) fn names(directory: impl AsFd, limit: usize) -> Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        if names.len() >= limit {
            break;
        }
        names.push(name.to_vec());
    }
    Ok(names)
}

/// A name from `readdir` for a system call.
pub(crate) fn os(name: &[u8]) -> &OsStr {
    OsStr::from_bytes(name)
}
