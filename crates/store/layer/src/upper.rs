//! The upper of a capture, opened for reading: what the sandbox wrote, in overlayfs's form. Hostile from end to end.

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Access, AtFlags, Mode};
use rustix::io::Errno;

use crate::attr::{Attr, FileKind};
use crate::capture::UPPER;
use crate::error::{At, PathIoError, ScanError};
use crate::path::{MAX_PATH_BYTES, RelPath};
use crate::tree::{DIRECTORY, Tree, os};
use crate::unlock::Unlock;
use crate::xattr::{self, Attributes};

/// Most entries looked at in one go; each costs some 100 bytes of memory.
pub(crate) const MAX_ENTRIES: u64 = 10_000_000;

/// The upper, and the modes changed in order to read it.
#[derive(Debug)]
pub(crate) struct Upper<'state> {
    state: &'state OwnedFd,
    tree: Tree,
    /// The root's mode as captured.
    root_mode: u32,
    unlock: Unlock,
    entries: u64,
}

impl<'state> Upper<'state> {
    /// Opens the upper of a state directory and puts back the modes that a crashed reader left changed.
    pub(crate) fn open(state: &'state OwnedFd) -> Result<Self, PathIoError> {
        let mut unlock = Unlock::default();
        Self::open_root_up(state, &mut unlock)?;
        let root = rustix::fs::openat(state, UPPER, DIRECTORY, Mode::empty()).at_file("open", UPPER)?;
        let tree = Tree::new(root);
        Unlock::recover(state, &tree)?;
        // If the program closed the root, that also closed it again.
        let mut unlock = Unlock::default();
        let mode = Self::open_root_up(state, &mut unlock)?;
        Ok(Upper {
            state,
            tree,
            root_mode: mode,
            unlock,
            entries: 0,
        })
    }

    /// Makes the root accessible, noting its mode first, and returns that.
    fn open_root_up(state: &OwnedFd, unlock: &mut Unlock) -> Result<u32, PathIoError> {
        let mode = crate::attr::stat_at(state, UPPER).at_file("stat", UPPER)?.mode;
        let access = rustix::fs::accessat(state, UPPER, Access::READ_OK | Access::EXEC_OK, AtFlags::EACCESS);
        if mode & 0o500 != 0o500 && access == Err(Errno::ACCESS) {
            unlock.note(state, &RelPath::root(), mode)?;
            crate::tree::chmod_at(state, UPPER.as_ref(), mode | 0o500).at_file("make readable", UPPER)?;
        }
        Ok(mode)
    }

    /// Puts every mode back. Must be called however the reading ended; if it isn't, the next [`Upper::open`] does it.
    pub(crate) fn close(mut self) -> Result<(), PathIoError> {
        self.unlock.restore(self.state, &self.tree)
    }

    pub(crate) fn root_attr(&self) -> Result<Attr, PathIoError> {
        let attr = Attr::from(rustix::fs::fstat(self.tree.root()).at("stat", &RelPath::root())?);
        Ok(Attr {
            mode: self.root_mode,
            ..attr
        })
    }

    /// Opens a directory, whose attributes were just read, so that it can be listed and its entries looked up.
    pub(crate) fn open_dir(&mut self, path: &RelPath, attr: &Attr) -> Result<OwnedFd, PathIoError> {
        self.make_accessible(path, attr, 0o500, Access::READ_OK | Access::EXEC_OK)?;
        self.tree.open_dir(path).at("open", path)
    }

    /// Opens a regular file, whose attributes were just read.
    pub(crate) fn open_file(&mut self, path: &RelPath, attr: &Attr) -> Result<OwnedFd, PathIoError> {
        self.make_accessible(path, attr, 0o400, Access::READ_OK)?;
        self.tree.open_file(path).at("open", path)
    }

    fn make_accessible(&mut self, path: &RelPath, attr: &Attr, bits: u32, access: Access) -> Result<(), PathIoError> {
        if attr.mode & bits == bits || path.is_root() {
            return Ok(());
        }
        let (parent, name) = self.tree.open_parent(path).at("open the directory of", path)?;
        match rustix::fs::accessat(&parent, name, access, AtFlags::EACCESS) {
            Err(Errno::ACCESS) => self.unlock.widen(self.state, &self.tree, path, attr.mode, bits),
            _ => Ok(()), // any other trouble shows when it is opened
        }
    }

    /// Lists an open directory and stats each entry.
    pub(crate) fn list(
        &mut self,
        path: &RelPath,
        directory: impl AsFd,
    ) -> Result<Vec<(RelPath, Vec<u8>, Attr)>, ScanError> {
        let room = usize::try_from(MAX_ENTRIES.saturating_sub(self.entries)).unwrap_or(usize::MAX);
        let names = crate::tree::names(&directory, room.saturating_add(1)).at("list", path)?;
        self.entries = self
            .entries
            .saturating_add(u64::try_from(names.len()).unwrap_or(u64::MAX));
        if self.entries > MAX_ENTRIES {
            return Err(ScanError::TooManyEntries { limit: MAX_ENTRIES });
        }
        let mut list = Vec::with_capacity(names.len());
        for name in names {
            let entry = path.join(&name);
            if entry.as_bytes().len() > MAX_PATH_BYTES {
                let start = crate::path::escape(entry.as_bytes().get(..80).unwrap_or_default());
                return Err(ScanError::PathTooLong {
                    limit: MAX_PATH_BYTES,
                    start,
                });
            }
            let attr = crate::attr::stat_at(&directory, os(&name)).at("stat", &entry)?;
            list.push((entry, name, attr));
        }
        Ok(list)
    }

    /// Reads the attributes of an open entry, refusing overlay features that can't be resolved.
    pub(crate) fn attributes(path: &RelPath, entry: impl AsFd) -> Result<Attributes, ScanError> {
        let found = xattr::read(entry).at("read the attributes of", path)?;
        match found.marks.unresolvable {
            Some(attribute) => Err(ScanError::Unresolvable {
                path: path.clone(),
                attribute,
            }),
            None => Ok(found),
        }
    }

    /// Whether the entry marks a deletion: a device 0:0, or an empty file with an attribute in a directory that allows those.
    pub(crate) fn is_whiteout(&mut self, path: &RelPath, attr: &Attr, files_allowed: bool) -> Result<bool, ScanError> {
        if attr.is_whiteout {
            return Ok(true);
        }
        if !files_allowed || attr.kind != FileKind::File || attr.size > 0 {
            return Ok(false);
        }
        let file = self.open_file(path, attr)?;
        Ok(Self::attributes(path, file)?.marks.is_whiteout)
    }

    /// Stats an entry that a scan has found.
    pub(crate) fn attr(&self, path: &RelPath) -> Result<Attr, PathIoError> {
        self.tree
            .stat(path)
            .and_then(|found| found.ok_or(Errno::NOENT))
            .at("stat", path)
    }

    /// Reads where a symlink points.
    pub(crate) fn read_link(&self, path: &RelPath) -> Result<Vec<u8>, PathIoError> {
        read_link(&self.tree, path)
    }
}

/// Reads where a symlink of a tree points.
pub(crate) fn read_link(tree: &Tree, path: &RelPath) -> Result<Vec<u8>, PathIoError> {
    let (parent, name) = tree.open_parent(path).at("open the directory of", path)?;
    Ok(rustix::fs::readlinkat(&parent, name, Vec::new())
        .at("read the link", path)?
        .into_bytes())
}
