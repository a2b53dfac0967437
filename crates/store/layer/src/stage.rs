//! The stage: a directory in the target, and so on its file system, where everything new is put together out of sight.
//!
//! ```text
//! TARGET/.ringwall-commit-NAME-START/   mode 0700
//!   new/SLOT    the entry as it will be: a file, a symlink, a pipe or a whole directory
//!   old/SLOT    what an operation moved away (see apply.rs)
//! ```
//! Until the journal is written nothing else of the target is touched, and the stage can be thrown away.

use std::collections::HashMap;

use rustix::fd::{AsFd as _, OwnedFd};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use crate::attr::{Attr, FileKind, IdShift, owner, stat_at};
use crate::change::Note;
use crate::error::{At, PathIoError, ScanError};
use crate::journal::Stripped;
use crate::path::RelPath;
use crate::steps::{Interrupted, Steps};
use crate::tree::{DIRECTORY, Tree, os};
use crate::upper::Upper;
use crate::xattr::{Attributes, Kept};

pub(crate) const NEW: &str = "new";
pub(crate) const OLD: &str = "old";
/// Files synced one by one; with more, one sync of the whole file system is quicker.
pub(crate) const MAX_SINGLE_SYNCS: usize = 128;

/// The stage can't be built.
#[derive(Debug)]
pub(crate) enum StageFailure {
    Interrupted,
    Scan(ScanError),
}

impl From<Interrupted> for StageFailure {
    fn from(_: Interrupted) -> Self {
        StageFailure::Interrupted
    }
}

impl From<ScanError> for StageFailure {
    fn from(error: ScanError) -> Self {
        StageFailure::Scan(error)
    }
}

impl From<PathIoError> for StageFailure {
    fn from(error: PathIoError) -> Self {
        StageFailure::Scan(error.into())
    }
}

/// Makes the empty stage. Inherited access lists and groups are shed, so that entries get exactly what was captured.
pub(crate) fn create(target: &Tree, name: &str) -> rustix::io::Result<OwnedFd> {
    rustix::fs::mkdirat(target.root(), name, Mode::RWXU)?;
    let stage = rustix::fs::openat(target.root(), name, DIRECTORY, Mode::empty())?;
    match rustix::fs::fremovexattr(&stage, "system.posix_acl_default") {
        Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
        Err(error) => return Err(error),
    }
    rustix::fs::fchown(&stage, None, Some(rustix::process::getegid()))?;
    rustix::fs::fchmod(&stage, Mode::RWXU)?;
    rustix::fs::mkdirat(&stage, NEW, Mode::RWXU)?;
    rustix::fs::mkdirat(&stage, OLD, Mode::RWXU)?;
    Ok(stage)
}

/// What staging an entry made.
pub(crate) struct Staged {
    pub(crate) inode: u64,
    /// The mode of a directory that must stay writable for its owner until it is in place.
    pub(crate) final_mode: Option<u32>,
}

/// Copies entries of the upper into the stage.
pub(crate) struct Stager<'stage, 'state> {
    pub(crate) upper: &'stage mut Upper<'state>,
    pub(crate) stage: &'stage Tree,
    pub(crate) shift: Option<IdShift>,
    pub(crate) steps: &'stage mut Steps,
    pub(crate) notes: Vec<Note>,
    pub(crate) stripped: Vec<Stripped>,
    /// Where the first name of each inode with several was staged, by inode.
    pub(crate) links: HashMap<u64, RelPath>,
    pub(crate) made: usize,
}

/// A directory to finish once its entries are there.
struct Finish {
    from: RelPath,
    to: RelPath,
    attr: Attr,
    attributes: Attributes,
}

impl Stager<'_, '_> {
    /// Copies the entry `from`, with all below it, to `new/SLOT`.
    pub(crate) fn copy(&mut self, from: &RelPath, attr: &Attr, slot: u64) -> Result<Staged, StageFailure> {
        let to = RelPath::root().join(NEW.as_bytes()).join(slot.to_string().as_bytes());
        let mut finish = Vec::new();
        if attr.kind == FileKind::Directory {
            self.tree(from, attr, &to, &mut finish)?;
        } else {
            self.leaf(from, attr, &to)?;
        }
        let mut final_mode = None;
        // A directory's time and mode come after its entries, so from the deepest up.
        while let Some(directory) = finish.pop() {
            self.steps.tick()?;
            let is_top = finish.is_empty();
            // To move a directory its owner needs the right to write it (rename(2), EACCES).
            if is_top && directory.attr.mode & 0o700 != 0o700 {
                final_mode = Some(directory.attr.mode);
            }
            self.finish(
                &directory,
                if is_top {
                    directory.attr.mode | 0o700
                } else {
                    directory.attr.mode
                },
            )?;
        }
        let (parent, name) = self.stage.open_parent(&to).at("open the copy of", from)?;
        let inode = stat_at(&parent, name).at("stat the copy of", from)?.inode;
        Ok(Staged { inode, final_mode })
    }

    fn tree(
        &mut self,
        from: &RelPath,
        attr: &Attr,
        to: &RelPath,
        finish: &mut Vec<Finish>,
    ) -> Result<(), StageFailure> {
        let mut pending = vec![(from.clone(), to.clone(), *attr)];
        while let Some((from, to, attr)) = pending.pop() {
            self.steps.tick()?;
            let (parent, name) = self.stage.open_parent(&to).at("open the copy of", &from)?;
            rustix::fs::mkdirat(&parent, name, Mode::RWXU).at("copy", &from)?;
            self.made += 1;
            let directory = self.upper.open_dir(&from, &attr)?;
            let attributes = Upper::attributes(&from, &directory)?;
            let has_file_whiteouts = attributes.marks.has_file_whiteouts;
            for (entry, name, attr) in self.upper.list(&from, &directory)? {
                if self.upper.is_whiteout(&entry, &attr, has_file_whiteouts)? {
                    continue;
                }
                let to = to.join(&name);
                match attr.kind {
                    FileKind::Directory => pending.push((entry, to, attr)),
                    // The survey refused devices and noted sockets.
                    FileKind::Socket | FileKind::Device => {}
                    FileKind::File | FileKind::Symlink | FileKind::Fifo => self.leaf(&entry, &attr, &to)?,
                }
            }
            finish.push(Finish {
                from,
                to,
                attr,
                attributes,
            });
        }
        Ok(())
    }

    fn leaf(&mut self, from: &RelPath, attr: &Attr, to: &RelPath) -> Result<(), StageFailure> {
        self.steps.tick()?;
        let (parent, name) = self.stage.open_parent(to).at("open the copy of", from)?;
        if attr.has_other_links {
            if let Some(first) = self.links.get(&attr.inode) {
                let (first_parent, first_name) = self.stage.open_parent(first).at("open the copy of", from)?;
                rustix::fs::linkat(&first_parent, first_name, &parent, name, AtFlags::empty()).at("link", from)?;
                return Ok(());
            }
            self.links.insert(attr.inode, to.clone());
        }
        self.made += 1;
        match attr.kind {
            FileKind::File => return self.file(from, attr, &parent, name),
            FileKind::Symlink => {
                let link = self.upper.read_link(from)?;
                rustix::fs::symlinkat(os(&link), &parent, name).at("copy", from)?;
            }
            _ => {
                rustix::fs::mknodat(&parent, name, FileType::Fifo, Mode::RUSR, 0).at("copy", from)?;
            }
        }
        let made = stat_at(&parent, name).at("stat the copy of", from)?;
        if let Some((uid, gid)) = self.new_owner(attr, &made) {
            let result = rustix::fs::chownat(&parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW);
            self.judge_chown(result, from)?;
        }
        if attr.kind == FileKind::Fifo {
            crate::tree::chmod_at(&parent, name, attr.mode).at("set the mode of", from)?;
        }
        rustix::fs::utimensat(&parent, name, &attr.times(), AtFlags::SYMLINK_NOFOLLOW).at("set the times of", from)?;
        Ok(())
    }

    fn file(
        &mut self,
        from: &RelPath,
        attr: &Attr,
        parent: &OwnedFd,
        name: &std::ffi::OsStr,
    ) -> Result<(), StageFailure> {
        let source = self.upper.open_file(from, attr)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let copy = rustix::fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR).at("copy", from)?;
        crate::copy::copy(&source, &copy, attr.size).at("copy", from)?;
        let attributes = Upper::attributes(from, &source)?;
        self.dress(&copy, from, attr, attr.safe_mode(), &attributes)?;
        for (bit, what) in [(0o4000, "setuid"), (0o2000, "setgid")] {
            if attr.mode & bit != 0 {
                self.stripped.push(Stripped {
                    path: from.clone(),
                    what: what.to_owned(),
                });
            }
        }
        if self.made <= MAX_SINGLE_SYNCS {
            rustix::fs::fsync(&copy).at("sync the copy of", from)?;
        }
        Ok(())
    }

    fn finish(&mut self, directory: &Finish, mode: u32) -> Result<(), StageFailure> {
        let Finish {
            from,
            to,
            attr,
            attributes,
        } = directory;
        let copy = self.stage.open_dir(to).at("open the copy of", from)?;
        self.dress(&copy, from, attr, mode, attributes)?;
        if self.made <= MAX_SINGLE_SYNCS {
            rustix::fs::fsync(&copy).at("sync the copy of", from)?;
        }
        Ok(())
    }

    /// Gives an open copy its attributes, owner, mode and times, in this order: each next one can undo or forbid the one before.
    fn dress(
        &mut self,
        copy: &OwnedFd,
        from: &RelPath,
        attr: &Attr,
        mode: u32,
        found: &Attributes,
    ) -> Result<(), StageFailure> {
        let made = Attr::from(rustix::fs::fstat(copy).at("stat the copy of", from)?);
        let mut kept = found.kept.clone();
        if self.shift.is_some() && kept.keys().any(|name| name.0.starts_with(b"system.posix_acl_")) {
            kept.retain(|name, _| !name.0.starts_with(b"system.posix_acl_"));
            self.notes.push(Note::AccessListSkipped(from.clone()));
        }
        crate::xattr::write(copy.as_fd(), &Kept::new(), &kept, false).at("set the attributes of", from)?;
        if let Some((uid, gid)) = self.new_owner(attr, &made) {
            let result = rustix::fs::fchown(copy, Some(uid), Some(gid));
            self.judge_chown(result, from)?;
        }
        rustix::fs::fchmod(copy, Mode::from_raw_mode(mode)).at("set the mode of", from)?;
        rustix::fs::futimens(copy, &attr.times()).at("set the times of", from)?;
        for what in &found.stripped {
            self.stripped.push(Stripped {
                path: from.clone(),
                what: what.clone(),
            });
        }
        Ok(())
    }

    fn new_owner(&self, wanted: &Attr, made: &Attr) -> Option<(Uid, Gid)> {
        let (uid, gid) = owner(wanted, self.shift);
        ((uid, gid) != (made.uid, made.gid)).then(|| (Uid::from_raw(uid), Gid::from_raw(gid)))
    }

    /// Only root may give files away: for others that costs the owner, not the commit.
    fn judge_chown(&mut self, result: rustix::io::Result<()>, path: &RelPath) -> Result<(), StageFailure> {
        match result {
            Ok(()) => Ok(()),
            Err(Errno::PERM) => {
                self.notes.push(Note::OwnerNotKept(path.clone()));
                Ok(())
            }
            Err(error) => Err(error).at("set the owner of", path).map_err(StageFailure::from),
        }
    }

    /// Syncs what was not synced one by one.
    pub(crate) fn sync(&self, stage_name: &str) -> Result<(), PathIoError> {
        if self.made > MAX_SINGLE_SYNCS {
            return rustix::fs::syncfs(self.stage.root()).at_file("sync", stage_name);
        }
        for name in [NEW, "."] {
            let directory = rustix::fs::openat(self.stage.root(), name, DIRECTORY, Mode::empty());
            directory.and_then(rustix::fs::fsync).at_file("sync", stage_name)?;
        }
        Ok(())
    }
}
