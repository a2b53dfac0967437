//! The tree being filled, reached only through its root's descriptor.
//!
//! ```text
//! Links::Refuse   openat2 RESOLVE_BENEATH | NO_SYMLINKS | NO_MAGICLINKS | NO_XDEV    plain archives
//! Links::Within   openat2 RESOLVE_IN_ROOT | NO_MAGICLINKS | NO_XDEV                  layers: `lib -> /usr/lib`, then `lib/x`
//! ```
//! In both the kernel keeps every step below the root (openat2(2), Linux 5.6). Only directories are resolved by path; an entry itself
//! is always a name in an open directory, and never followed.

use std::ffi::OsStr;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, Timestamps};
use rustix::io::{Errno, Result};

/// Names a directory without opening it for reading.
const NAMED: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// `RESOLVE_IN_ROOT` fails like this if anything on the system is renamed at the wrong moment (openat2(2), EAGAIN).
const RETRIES: u32 = 128;

/// Whether symbolic links in the way of an entry are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Links {
    Refuse,
    Within,
}

/// Which directory an open one is, whatever path led to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Inode {
    device: u64,
    number: u64,
}

impl From<&Stat> for Inode {
    fn from(stat: &Stat) -> Self {
        Inode {
            device: stat.st_dev,
            number: stat.st_ino,
        }
    }
}

/// A tree, by its root.
#[derive(Debug)]
pub(crate) struct Tree {
    root: OwnedFd,
    /// The root's own path as the kernel tells it.
    root_path: Vec<u8>,
    links: Links,
}

impl Tree {
    /// Opens the tree below an existing directory. The operator chose the path, so it may be or pass a link.
    pub(crate) fn open(root: &Path, links: Links) -> Result<Self> {
        let root = rustix::fs::openat(CWD, root, NAMED, Mode::empty())?;
        let root_path = path_of(&root)?;
        Ok(Tree { root, root_path, links })
    }

    /// Opens a directory by a path from an archive; links are treated as the tree's kind says.
    pub(crate) fn resolve(&self, path: &[u8]) -> Result<OwnedFd> {
        let how = match self.links {
            Links::Refuse => ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
            Links::Within => ResolveFlags::IN_ROOT,
        };
        self.open_named(path, how)
    }

    /// Opens a directory by the path that [`Tree::path_below`] returned, which has no links.
    pub(crate) fn reopen(&self, path: &[u8]) -> Result<OwnedFd> {
        self.open_named(path, ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)
    }

    fn open_named(&self, path: &[u8], how: ResolveFlags) -> Result<OwnedFd> {
        let path = if path.is_empty() { b"." } else { path };
        open_bounded(self.root.as_fd(), path, NAMED, how)
    }

    /// Returns the path of an open directory of this tree, without links.
    pub(crate) fn path_below(&self, directory: impl AsFd) -> Result<Vec<u8>> {
        let path = path_of(directory)?;
        let below = match self.root_path.as_slice() {
            b"/" => path.strip_prefix(b"/"),
            root if path == root => Some(&b""[..]),
            root => path.strip_prefix(root).and_then(|rest| rest.strip_prefix(b"/")),
        };
        // Somebody moved the root while we work in it.
        Ok(below.ok_or(Errno::STALE)?.to_vec())
    }
}

fn open_bounded(directory: BorrowedFd<'_>, path: &[u8], flags: OFlags, how: ResolveFlags) -> Result<OwnedFd> {
    let how = how | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    let mut tries = 0;
    loop {
        match rustix::fs::openat2(directory, path, flags, Mode::empty(), how) {
            Err(Errno::AGAIN) if tries < RETRIES => tries += 1,
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

fn path_of(directory: impl AsFd) -> Result<Vec<u8>> {
    let path = rustix::fs::readlinkat(CWD, own_link(directory), Vec::new())?;
    Ok(path.into_bytes())
}

/// The link in /proc that stands for an open descriptor, even one opened with `O_PATH` (proc(5), `/proc/pid/fd`).
fn own_link(file: impl AsFd) -> String {
    format!("/proc/self/fd/{}", file.as_fd().as_raw_fd())
}

/// A name of an archive for a system call.
pub(crate) fn os(name: &[u8]) -> &OsStr {
    OsStr::from_bytes(name)
}

/// `lstat` of an entry; `None` where there is nothing.
pub(crate) fn stat(directory: impl AsFd, name: &[u8]) -> Result<Option<Stat>> {
    match rustix::fs::statat(directory, os(name), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What an entry is.
pub(crate) fn file_type(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// Names a directory that is an entry of an open one.
pub(crate) fn name_dir(directory: impl AsFd, name: &[u8]) -> Result<OwnedFd> {
    open_bounded(
        directory.as_fd(),
        name,
        NAMED | OFlags::NOFOLLOW,
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
    )
}

/// Lists the names in a directory that was named with [`name_dir`].
pub(crate) fn list(directory: impl AsFd) -> Result<Vec<Vec<u8>>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let readable = rustix::fs::openat(directory, ".", flags, Mode::empty())?;
    let mut names = Vec::new();
    for entry in Dir::new(readable)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    Ok(names)
}

/// Opens a named directory for reading, to set its attributes.
pub(crate) fn readable(directory: impl AsFd) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(directory, ".", flags, Mode::empty())
}

/// Sets the mode of a named directory; `fchmod` refuses such a descriptor (open(2), `O_PATH`).
pub(crate) fn set_mode(directory: impl AsFd, mode: u32) -> Result<()> {
    rustix::fs::chmodat(CWD, own_link(directory), Mode::from_raw_mode(mode), AtFlags::empty())
}

/// Sets the times of a named directory.
pub(crate) fn set_times(directory: impl AsFd, times: &Timestamps) -> Result<()> {
    rustix::fs::utimensat(CWD, own_link(directory), times, AtFlags::empty())
}
