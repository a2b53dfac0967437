//! A copy of a directory that the operator names. Its contents may change, and may be somebody else's, while it is copied: every entry is
//! opened in its open directory and never followed, and what was opened is looked at before it is read.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_OMIT, Uid};
use rustix::io::Errno;
use thiserror::Error;

use crate::import::content;
use crate::name::{EntryName, MAX_DEPTH};
use crate::unpack::Owners;
use crate::unpack::tree::{self, Inode, Links, Tree};

/// Permissions that are copied: all but setuid and setgid.
const KEPT_MODE: u32 = 0o1777;

/// A directory can't be copied. What was copied before stays; the caller throws it away.
#[derive(Debug, Error)]
pub enum CopyTreeError {
    /// A system call failed.
    #[error("can't {doing} {entry}")]
    Io {
        /// What was attempted, as a verb.
        doing: &'static str,
        /// The entry, below the source.
        entry: EntryName,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The copy would contain itself.
    #[error("{entry} is the directory to copy into")]
    IntoItself {
        /// The entry.
        entry: EntryName,
    },
    /// Deeper than any tree in use.
    #[error("{entry} is deeper than {MAX_DEPTH} directories")]
    TooDeep {
        /// The entry.
        entry: EntryName,
    },
}

/// What was left out of a copy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Skipped {
    /// Device nodes.
    pub devices: u64,
    /// Sockets.
    pub sockets: u64,
    /// Named pipes.
    pub fifos: u64,
    /// Directories that other file systems are mounted on; they are empty in the copy.
    pub mounts: u64,
    /// Set-id bits.
    pub set_id: u64,
}

/// What was copied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Copied {
    /// Entries, hard links counted each time.
    pub entries: u64,
    /// Bytes of content, hard links counted once.
    pub bytes: u64,
    /// What was left out.
    pub skipped: Skipped,
}

trait At<T> {
    fn at(self, doing: &'static str, entry: &[u8]) -> Result<T, CopyTreeError>;
}

impl<T> At<T> for rustix::io::Result<T> {
    fn at(self, doing: &'static str, entry: &[u8]) -> Result<T, CopyTreeError> {
        self.map_err(|error| CopyTreeError::Io {
            doing,
            entry: EntryName::new(entry),
            source: error.into(),
        })
    }
}

/// Copies the tree below `source` into the existing, empty directory `into`: files (as reflinks where possible), directories, symbolic
/// and hard links, with their modes but set-id bits, and times. Extended attributes aren't copied.
///
/// # Errors
/// [`CopyTreeError`]; among others if there is something of the same name already.
pub fn from_dir(source: &Path, into: &Path, owners: Owners) -> Result<Copied, CopyTreeError> {
    let from = Tree::open(source, Links::Refuse).at("open", source.as_os_str().as_encoded_bytes())?;
    let target = Tree::open(into, Links::Refuse).at("open", into.as_os_str().as_encoded_bytes())?;
    let (from, to) = (from.reopen(b"").at("open", b".")?, target.reopen(b"").at("open", b".")?);
    let forbidden = Inode::from(&rustix::fs::fstat(&to).at("stat", b".")?);
    let mut copier = Copier {
        target,
        owners,
        forbidden,
        links: HashMap::new(),
        report: Copied::default(),
    };
    copier.copy_directory(&from, &to, b"", 0)?;
    Ok(copier.report)
}

struct Copier {
    target: Tree,
    owners: Owners,
    /// The directory that is copied into.
    forbidden: Inode,
    /// Where in the copy the first link to a file with several is.
    links: HashMap<Inode, Vec<u8>>,
    report: Copied,
}

impl Copier {
    /// Copies what is in a directory, and then its look.
    fn copy_directory(&mut self, from: &OwnedFd, to: &OwnedFd, path: &[u8], depth: usize) -> Result<(), CopyTreeError> {
        let found = rustix::fs::fstat(from).at("stat", path)?;
        if Inode::from(&found) == self.forbidden {
            return Err(CopyTreeError::IntoItself {
                entry: EntryName::new(path),
            });
        }
        if depth > MAX_DEPTH {
            return Err(CopyTreeError::TooDeep {
                entry: EntryName::new(path),
            });
        }
        for name in tree::list(from).at("list", path)? {
            let child = if path.is_empty() {
                name.clone()
            } else {
                [path, b"/", &name].concat()
            };
            self.copy_entry(from.as_fd(), to.as_fd(), &name, &child, depth)?;
        }
        if let Some((uid, gid)) = self.owner(&found) {
            rustix::fs::chownat(to, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH).at("set the owner of", path)?;
        }
        let mode = self.mode(&found);
        // The root stays open to its owner, so that the caller can remove it.
        tree::set_mode(to, if path.is_empty() { mode | 0o700 } else { mode }).at("set the mode of", path)?;
        tree::set_times(to, &times(&found)).at("set the time of", path)
    }

    fn copy_entry(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
        depth: usize,
    ) -> Result<(), CopyTreeError> {
        let Some(found) = tree::stat(from, name).at("stat", path)? else {
            return Ok(()); // gone meanwhile
        };
        let skipped = &mut self.report.skipped;
        match tree::file_type(&found) {
            FileType::Directory => {
                rustix::fs::mkdirat(to, tree::os(name), Mode::RWXU).at("make", path)?;
                match tree::name_dir(from, name) {
                    Err(Errno::XDEV) => skipped.mounts += 1,
                    opened => {
                        let made = tree::name_dir(to, name).at("open", path)?;
                        self.copy_directory(&opened.at("open", path)?, &made, path, depth + 1)?;
                    }
                }
            }
            FileType::RegularFile => self.copy_file(from, to, name, path)?,
            FileType::Symlink => self.copy_symlink(from, to, name, path, &found)?,
            FileType::Socket => {
                skipped.sockets += 1;
                return Ok(());
            }
            FileType::Fifo => {
                skipped.fifos += 1;
                return Ok(());
            }
            FileType::CharacterDevice | FileType::BlockDevice | FileType::Unknown => {
                skipped.devices += 1;
                return Ok(());
            }
        }
        self.report.entries += 1;
        Ok(())
    }

    fn copy_file(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
    ) -> Result<(), CopyTreeError> {
        // `NONBLOCK`: should it have become a pipe meanwhile, opening must not wait for a writer.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let source = rustix::fs::openat(from, tree::os(name), flags, Mode::empty()).at("open", path)?;
        let found = rustix::fs::fstat(&source).at("stat", path)?;
        if tree::file_type(&found) != FileType::RegularFile {
            return Err(Errno::STALE).at("copy", path);
        }
        let inode = Inode::from(&found);
        if let Some(first) = self.links.get(&inode) {
            let (parent, first) = match first.iter().rposition(|&byte| byte == b'/') {
                Some(slash) => (
                    first.get(..slash).unwrap_or_default(),
                    first.get(slash + 1..).unwrap_or_default(),
                ),
                None => (&b""[..], first.as_slice()),
            };
            let parent = self
                .target
                .reopen(parent)
                .at("open the directory of the first link to", path)?;
            let linked = rustix::fs::linkat(&parent, tree::os(first), to, tree::os(name), AtFlags::empty());
            return linked.at("link", path);
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let target = rustix::fs::openat(to, tree::os(name), flags, Mode::from_raw_mode(0o600)).at("make", path)?;
        let size = u64::try_from(found.st_size).unwrap_or(0);
        content::copy(&source, &target, size).at("copy", path)?;
        if let Some((uid, gid)) = self.owner(&found) {
            rustix::fs::fchown(&target, Some(uid), Some(gid)).at("set the owner of", path)?;
        }
        rustix::fs::fchmod(&target, Mode::from_raw_mode(self.mode(&found))).at("set the mode of", path)?;
        rustix::fs::futimens(&target, &times(&found)).at("set the time of", path)?;
        if found.st_nlink > 1 {
            self.links.insert(inode, path.to_vec());
        }
        self.report.bytes = self.report.bytes.saturating_add(size);
        Ok(())
    }

    fn copy_symlink(
        &self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
        found: &Stat,
    ) -> Result<(), CopyTreeError> {
        let name = tree::os(name);
        let text = rustix::fs::readlinkat(from, name, Vec::new()).at("read", path)?;
        rustix::fs::symlinkat(&text, to, name).at("make", path)?;
        if let Some((uid, gid)) = self.owner(found) {
            rustix::fs::chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
                .at("set the owner of", path)?;
        }
        rustix::fs::utimensat(to, name, &times(found), AtFlags::SYMLINK_NOFOLLOW).at("set the time of", path)
    }

    fn owner(&self, found: &Stat) -> Option<(Uid, Gid)> {
        match self.owners {
            Owners::Caller => None,
            Owners::Keep => Some((Uid::from_raw(found.st_uid), Gid::from_raw(found.st_gid))),
        }
    }

    fn mode(&mut self, found: &Stat) -> u32 {
        if found.st_mode & 0o6000 != 0 {
            self.report.skipped.set_id += 1;
        }
        found.st_mode & KEPT_MODE
    }
}

fn times(found: &Stat) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: found.st_mtime,
            tv_nsec: i64::try_from(found.st_mtime_nsec).unwrap_or(0),
        },
    }
}
