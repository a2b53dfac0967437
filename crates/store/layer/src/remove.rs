//! Removes a hostile tree, however deep, however its modes are set, with three descriptors and no recursion.
//!
//! Instead of climbing down, every directory found is first moved up to the top, where it is emptied in turn. So nothing is ever
//! deeper than two levels below the descriptor held, and a removal that was interrupted goes on from whatever is there.

use std::ffi::OsStr;
use std::io;
use std::path::Path;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, Mode, RenameFlags};
use rustix::io::Errno;

use crate::attr::{Attr, FileKind};
use crate::error::{At, PathIoError};
use crate::path::RelPath;
use crate::steps::{Interrupted, Steps};
use crate::tree::{DIRECTORY, chmod_at, names, os, stat_entry};

/// Names read at once: bounds the memory that a directory of millions takes.
const BATCH: usize = 4096;

/// A tree can't be removed, or a test ended the removal.
#[derive(Debug)]
pub(crate) enum RemoveFailure {
    Interrupted,
    Io(PathIoError),
}

impl From<Interrupted> for RemoveFailure {
    fn from(_: Interrupted) -> Self {
        RemoveFailure::Interrupted
    }
}

impl From<PathIoError> for RemoveFailure {
    fn from(error: PathIoError) -> Self {
        RemoveFailure::Io(error)
    }
}

struct Removal<'steps> {
    steps: &'steps mut Steps,
    freed_bytes: u64,
    next_name: u64,
}

/// Removes a tree that an untrusted program has filled: of any depth and any modes, without following a link. Nothing there is fine.
///
/// # Errors
/// What the file system says.
pub fn remove_hostile_tree(path: &Path) -> io::Result<()> {
    let unnamed = || {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            "the path names nothing that can be removed",
        )
    };
    let name = path.file_name().and_then(OsStr::to_str).ok_or_else(unnamed)?;
    let parent = rustix::fs::open(path.parent().ok_or_else(unnamed)?, DIRECTORY, Mode::empty())?;
    match remove_tree(parent.as_fd(), name, &mut Steps::new(None)) {
        Ok(_) => Ok(()),
        Err(RemoveFailure::Io(error)) => Err(error.source),
        Err(RemoveFailure::Interrupted) => Err(io::ErrorKind::Interrupted.into()),
    }
}

/// Removes `name` in `parent` and all below it; returns the bytes freed. Nothing there is fine.
pub(crate) fn remove_tree(parent: BorrowedFd<'_>, name: &str, steps: &mut Steps) -> Result<u64, RemoveFailure> {
    let mut removal = Removal {
        steps,
        freed_bytes: 0,
        next_name: 0,
    };
    let label = RelPath::root().join(name.as_bytes());
    let Some(attr) = stat_entry(parent, name).at("stat", &label)? else {
        return Ok(0);
    };
    if attr.kind != FileKind::Directory {
        removal.unlink(parent, name.as_bytes(), &attr, &label)?;
        return Ok(removal.freed_bytes);
    }
    let top = removal.open(parent, name.as_bytes(), &attr, &label)?;
    loop {
        let batch = names(&top, BATCH).at("list", &label)?;
        if batch.is_empty() {
            break;
        }
        for entry in batch {
            removal.entry(&top, &entry, &label)?;
        }
    }
    removal.remove_directory(parent, name.as_bytes(), &attr, &label)?;
    Ok(removal.freed_bytes)
}

impl Removal<'_> {
    /// Removes one entry of the top, after moving its directories up beside it.
    fn entry(&mut self, top: &OwnedFd, name: &[u8], label: &RelPath) -> Result<(), RemoveFailure> {
        let path = label.join(name);
        let Some(attr) = stat_entry(top, os(name)).at("stat", &path)? else {
            return Ok(());
        };
        if attr.kind != FileKind::Directory {
            return self.unlink(top.as_fd(), name, &attr, &path);
        }
        let directory = self.open(top.as_fd(), name, &attr, &path)?;
        loop {
            let batch = names(&directory, BATCH).at("list", &path)?;
            if batch.is_empty() {
                break;
            }
            for child in batch {
                let Some(attr) = stat_entry(&directory, os(&child)).at("stat", &path)? else {
                    continue;
                };
                if attr.kind == FileKind::Directory {
                    self.move_up(&directory, &child, &attr, top, &path)?;
                } else {
                    self.unlink(directory.as_fd(), &child, &attr, &path)?;
                }
            }
        }
        self.remove_directory(top.as_fd(), name, &attr, &path)
    }

    fn move_up(
        &mut self,
        from: &OwnedFd,
        name: &[u8],
        attr: &Attr,
        top: &OwnedFd,
        path: &RelPath,
    ) -> Result<(), RemoveFailure> {
        self.steps.tick()?;
        if attr.mode & 0o700 != 0o700 {
            // Another parent means another "..", which takes the right to write the directory itself (rename(2), EACCES).
            let _shown_by_the_rename = chmod_at(from, os(name), 0o700);
        }
        loop {
            let fresh = format!("{:x}", self.next_name);
            self.next_name += 1;
            match rustix::fs::renameat_with(from, os(name), top, fresh.as_str(), RenameFlags::NOREPLACE) {
                Ok(()) => return Ok(()),
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error).at("move", path).map_err(RemoveFailure::from),
            }
        }
    }

    /// Opens a directory so that its entries can be removed.
    fn open(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        attr: &Attr,
        path: &RelPath,
    ) -> Result<OwnedFd, RemoveFailure> {
        if attr.mode & 0o700 != 0o700 {
            self.steps.tick()?;
            let _shown_by_the_opening = chmod_at(parent, os(name), 0o700);
        }
        Ok(rustix::fs::openat(parent, os(name), DIRECTORY, Mode::empty()).at("open", path)?)
    }

    fn unlink(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        attr: &Attr,
        path: &RelPath,
    ) -> Result<(), RemoveFailure> {
        self.steps.tick()?;
        rustix::fs::unlinkat(parent, os(name), AtFlags::empty()).at("remove", path)?;
        if !attr.has_other_links {
            self.count(attr);
        }
        Ok(())
    }

    fn remove_directory(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        attr: &Attr,
        path: &RelPath,
    ) -> Result<(), RemoveFailure> {
        self.steps.tick()?;
        rustix::fs::unlinkat(parent, os(name), AtFlags::REMOVEDIR).at("remove", path)?;
        self.count(attr);
        Ok(())
    }

    fn count(&mut self, attr: &Attr) {
        self.freed_bytes = self.freed_bytes.saturating_add(attr.blocks.saturating_mul(512));
    }
}
