//! Finds the directory an entry goes into: resolved below the root, made if it isn't there, opened up if its mode shuts us out.

use rustix::fd::OwnedFd;
use rustix::fs::Mode;
use rustix::io::Errno;

use crate::archive::Header;
use crate::name::{EntryName, EntryPath, MAX_DEPTH};
use crate::unpack::dress::Look;
use crate::unpack::error::{At as _, Refusal, UnpackError};
use crate::unpack::tree::{self, Inode, Links};
use crate::unpack::{Failure, Unpacker};

/// What its owner needs in order to work in a directory.
const OPEN: u32 = 0o700;
/// Mode of directories that an archive needs but doesn't have.
const IMPLIED_MODE: u32 = 0o755;

/// Where an entry goes.
pub(super) struct Place<'path> {
    pub(super) parent: OwnedFd,
    pub(super) inode: Inode,
    pub(super) name: &'path [u8],
}

impl Unpacker {
    /// Opens the directory that `path` goes into, and makes it if need be.
    pub(super) fn place<'path>(&mut self, path: &'path EntryPath) -> Result<Place<'path>, Failure> {
        let (parent, name) = path.split().ok_or(Refusal::Root)?;
        let parent = match self.resolve(parent) {
            Err(Errno::NOENT) => self.make_parents(parent)?,
            other => self.sort(other, "open the directory of", path.as_bytes())?,
        };
        let inode = self.open_up(&parent, path.as_bytes())?;
        Ok(Place { parent, inode, name })
    }

    /// The same, but `None` if there is no such directory.
    pub(super) fn find_place<'path>(&mut self, path: &'path EntryPath) -> Result<Option<Place<'path>>, Failure> {
        let (parent, name) = path.split().ok_or(Refusal::Root)?;
        let parent = match self.resolve(parent) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            other => self.sort(other, "open the directory of", path.as_bytes())?,
        };
        let inode = self.open_up(&parent, path.as_bytes())?;
        Ok(Some(Place { parent, inode, name }))
    }

    fn resolve(&mut self, path: &[u8]) -> rustix::io::Result<OwnedFd> {
        match self.tree.resolve(path) {
            Err(Errno::ACCESS) => {
                // A directory on the way has a mode that shuts its owner out; only a caller that isn't root comes here.
                for end in prefixes(path) {
                    let directory = self.tree.resolve(end)?;
                    self.widen(&directory)?;
                }
                self.tree.resolve(path)
            }
            other => other,
        }
    }

    /// Turns what `openat2` says about a path into a refusal where the archive is to blame.
    pub(super) fn sort<T>(
        &self,
        result: rustix::io::Result<T>,
        doing: &'static str,
        entry: &[u8],
    ) -> Result<T, Failure> {
        result.map_err(|error| match (error, self.links()) {
            (Errno::LOOP, Links::Refuse) => Refusal::ThroughSymlink.into(),
            (Errno::LOOP, Links::Within) => Refusal::DanglingSymlink.into(),
            (Errno::NOTDIR, _) => Refusal::ParentIsNoDirectory.into(),
            (Errno::XDEV, _) => Refusal::OtherFileSystem.into(),
            (error, _) => Failure::Other(UnpackError::Io {
                doing,
                entry: EntryName::new(entry),
                source: error.into(),
            }),
        })
    }

    fn links(&self) -> Links {
        match self.kind {
            super::ArchiveKind::Plain => Links::Refuse,
            super::ArchiveKind::OciLayer => Links::Within,
        }
    }

    /// Makes the directories of a path that aren't there.
    fn make_parents(&mut self, path: &[u8]) -> Result<OwnedFd, Failure> {
        let mut current = self.tree.resolve(b"").at("open", path)?;
        let mut start = 0;
        for end in prefixes(path) {
            let name = end.get(start..).unwrap_or_default();
            start = end.len().saturating_add(1);
            current = match self.resolve(end) {
                Err(Errno::NOENT) => {
                    // Not in the archive, and yet one more inode.
                    self.count_entry(name.len())?;
                    let inode = self.open_up(&current, end)?;
                    match rustix::fs::mkdirat(&current, tree::os(name), Mode::RWXU) {
                        Ok(()) => {}
                        // The name is there, and yet leads nowhere.
                        Err(Errno::EXIST) => return Err(Refusal::DanglingSymlink.into()),
                        Err(error) => Err(error).at("make", end)?,
                    }
                    self.note_made(inode, name);
                    let made = tree::name_dir(&current, name).at("open", end)?;
                    let look = Look {
                        mode: Some(IMPLIED_MODE),
                        owner: None,
                        modified: None,
                    };
                    self.dress_later(&made, look, end)?;
                    made
                }
                other => self.sort(other, "open", end)?,
            };
        }
        Ok(current)
    }

    /// Makes sure that we can work in a directory, and returns its inode.
    pub(super) fn open_up(&mut self, directory: &OwnedFd, entry: &[u8]) -> Result<Inode, UnpackError> {
        self.widen(directory).at("open the directory of", entry)
    }

    fn widen(&mut self, directory: &OwnedFd) -> rustix::io::Result<Inode> {
        let found = rustix::fs::fstat(directory)?;
        let inode = Inode::from(&found);
        let mode = found.st_mode & 0o7777;
        if mode & OPEN != OPEN {
            let path = self.tree.path_below(directory)?;
            tree::set_mode(directory, mode | OPEN)?;
            let look = Look {
                mode: Some(mode),
                owner: None,
                modified: None,
            };
            let known = self.directories.get(&path).is_some_and(|(known, _)| *known == inode);
            if !known {
                self.directories.insert(path, (inode, look));
            }
        }
        Ok(inode)
    }

    /// Notes the look that a directory gets at the end.
    pub(super) fn dress_later(&mut self, directory: &OwnedFd, look: Look, entry: &[u8]) -> Result<(), Failure> {
        let inode = Inode::from(&rustix::fs::fstat(directory).at("stat", entry)?);
        // Links can make the real path longer than the one in the archive.
        let path = match self.tree.path_below(directory) {
            Err(Errno::NAMETOOLONG) => return Err(Refusal::TooDeep.into()),
            other => other.at("find", entry)?,
        };
        if prefixes(&path).count() > MAX_DEPTH {
            return Err(Refusal::TooDeep.into());
        }
        // Kept until the end, and by way of links longer than the path in the archive.
        self.name_bytes = self.name_bytes.saturating_add(path.len() as u64);
        self.directories.insert(path, (inode, look));
        Ok(())
    }

    pub(super) fn note_made(&mut self, directory: Inode, name: &[u8]) {
        if self.kind == super::ArchiveKind::OciLayer {
            self.made.insert(directory, name);
        }
    }

    /// Finds the regular file a hard link points at.
    pub(super) fn find_target(&mut self, header: &Header) -> Result<(OwnedFd, Inode, Vec<u8>), Failure> {
        let shown = || EntryName::new(&header.link);
        if header.link.is_empty() {
            return Err(Refusal::EmptyLink.into());
        }
        let target = EntryPath::parse(&header.link).map_err(|_| Refusal::HardlinkOutside { target: shown() })?;
        let Some((_, name)) = target.split() else {
            return Err(Refusal::HardlinkNoFile { target: shown() }.into());
        };
        let found = match self.find_place(&target) {
            Ok(found) => found,
            Err(Failure::Refused(_)) => None,
            Err(other) => return Err(other),
        };
        let place = found.ok_or_else(|| Refusal::HardlinkMissing { target: shown() })?;
        let stat = tree::stat(&place.parent, name).at("stat the target of", &header.path)?;
        let stat = stat.ok_or_else(|| Refusal::HardlinkMissing { target: shown() })?;
        if tree::file_type(&stat) != rustix::fs::FileType::RegularFile {
            return Err(Refusal::HardlinkNoFile { target: shown() }.into());
        }
        Ok((place.parent, place.inode, name.to_vec()))
    }
}

/// `a`, `a/b`, `a/b/c` of `a/b/c`.
fn prefixes(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let slashes = path
        .iter()
        .enumerate()
        .filter(|&(_, &byte)| byte == b'/')
        .map(|(index, _)| index);
    let ends = slashes.chain(std::iter::once(path.len()));
    ends.filter_map(|end| path.get(..end))
        .filter(|prefix| !prefix.is_empty())
}
