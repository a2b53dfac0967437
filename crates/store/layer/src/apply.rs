//! Applies a journal to the target, or undoes it: a row of renames, each of which can be asked whether it has happened.
//!
//! What an operation did is read from its slot in the stage, where nobody else works, not from the target, where somebody may:
//!
//! ```text
//! add      new/N there: not yet      gone: done
//! delete   old/N gone: not yet       there: done
//! replace  new/N is the staged inode and old/N gone: not yet
//!          new/N is another inode (exchanged), or gone (moved in two steps): done
//!          new/N is the staged inode and old/N there: half done, in two steps
//! ```
//! So after a crash the same call goes on, forwards or backwards. The two steps are for file systems without `RENAME_EXCHANGE`.

use std::collections::BTreeSet;

use rustix::fd::OwnedFd;
use rustix::fs::{Gid, Mode, RenameFlags, Timespec, Timestamps, UTIME_OMIT, Uid};
use rustix::io::Errno;

use crate::attr::{Attr, FileKind, stat_at};
use crate::change::{Problem, ProblemKind};
use crate::error::{At, PathIoError};
use crate::journal::{Accepted, DirectoryMeta, Journal};
use crate::path::RelPath;
use crate::plan::{Action, Meta, Operation};
use crate::stage::{MAX_SINGLE_SYNCS, NEW, OLD};
use crate::steps::{Interrupted, Steps};
use crate::tree::{Tree, stat_entry};

/// An operation can't be applied or undone.
#[derive(Debug)]
pub(crate) enum ApplyFailure {
    Interrupted,
    Io(PathIoError),
    Problem(Problem),
}

impl From<Interrupted> for ApplyFailure {
    fn from(_: Interrupted) -> Self {
        ApplyFailure::Interrupted
    }
}

impl From<PathIoError> for ApplyFailure {
    fn from(error: PathIoError) -> Self {
        ApplyFailure::Io(error)
    }
}

fn changed_meanwhile(path: &RelPath) -> ApplyFailure {
    ApplyFailure::Problem(Problem {
        path: path.clone(),
        kind: ProblemKind::ChangedMeanwhile,
    })
}

/// The target and the open stage.
pub(crate) struct Applier<'apply> {
    target: &'apply Tree,
    new: OwnedFd,
    old: OwnedFd,
    steps: &'apply mut Steps,
    force: bool,
}

/// Where an operation works: the directory in the target, the name in it, the name in `new` and `old`.
struct Place<'path> {
    parent: OwnedFd,
    name: &'path std::ffi::OsStr,
    slot: String,
}

impl<'apply> Applier<'apply> {
    /// Opens the stage. With `force`, what can't be undone because somebody else changed it since is left as it is.
    pub(crate) fn open(
        target: &'apply Tree,
        stage: &str,
        steps: &'apply mut Steps,
        force: bool,
    ) -> Result<Self, PathIoError> {
        let open = |name: &str| {
            let path = RelPath::root().join(stage.as_bytes()).join(name.as_bytes());
            target.open_dir(&path).at("open", &path)
        };
        Ok(Applier {
            target,
            new: open(NEW)?,
            old: open(OLD)?,
            steps,
            force,
        })
    }

    /// Does everything in the journal that isn't done yet, and syncs it.
    pub(crate) fn apply(&mut self, journal: &Journal) -> Result<(), ApplyFailure> {
        self.widen(journal)?;
        self.reopen(journal)?;
        for operation in &journal.operations {
            self.steps.tick()?;
            self.apply_one(operation)?;
        }
        for directory in &journal.directories {
            self.steps.tick()?;
            self.dress(directory, &directory.old, &directory.new)?;
        }
        self.sync(journal)?;
        Ok(())
    }

    /// Makes directories writable that their owner had closed; their own metadata closes them again.
    fn widen(&mut self, journal: &Journal) -> Result<(), ApplyFailure> {
        for widen in &journal.widen {
            self.steps.tick()?;
            match self.target.chmod(&widen.path, widen.mode | 0o700) {
                Ok(()) | Err(Errno::NOENT | Errno::NOTDIR) => {} // moved away already
                Err(error) => Err(error).at("make writable", &widen.path)?,
            }
        }
        Ok(())
    }

    /// Opens directories again whose new mode, given before a crash, forbids the owner to work below.
    fn reopen(&mut self, journal: &Journal) -> Result<(), ApplyFailure> {
        for directory in journal.directories.iter().rev() {
            let closes = directory.new.mode & 0o700 != 0o700 && directory.old.mode & 0o700 == 0o700;
            if closes {
                self.steps.tick()?;
                match self.target.chmod(&directory.path, directory.old.mode) {
                    Ok(()) | Err(Errno::NOENT | Errno::NOTDIR) => {}
                    Err(error) => Err(error).at("make writable", &directory.path)?,
                }
            }
        }
        Ok(())
    }

    fn place<'path>(&self, operation: &'path Operation) -> Result<Place<'path>, ApplyFailure> {
        match self.target.open_parent(&operation.path) {
            Ok((parent, name)) => Ok(Place {
                parent,
                name,
                slot: operation.slot.to_string(),
            }),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Err(changed_meanwhile(&operation.path)),
            Err(error) => Err(error)
                .at("open the directory of", &operation.path)
                .map_err(ApplyFailure::from),
        }
    }

    fn apply_one(&mut self, operation: &Operation) -> Result<(), ApplyFailure> {
        let path = &operation.path;
        let place = self.place(operation)?;
        let staged = stat_entry(&self.new, place.slot.as_str()).at("stat the copy of", path)?;
        let moved_away = stat_entry(&self.old, place.slot.as_str())
            .at("stat the old", path)?
            .is_some();
        let is_staged = staged.is_some_and(|staged| Some(staged.inode) == operation.new_inode);
        match operation.action {
            Action::Add if is_staged => self.put(&place, path)?,
            Action::Delete if !moved_away => {
                self.check_seen(operation, &place)?;
                self.take_away(&place, path)?;
            }
            Action::Replace if is_staged => {
                if moved_away {
                    self.put(&place, path)?;
                } else {
                    self.check_seen(operation, &place)?;
                    self.exchange(&place, path)?;
                }
            }
            _ => {} // done before a crash
        }
        if let Some(mode) = operation.final_mode {
            self.steps.tick()?;
            let there = stat_entry(&place.parent, place.name).at("stat", path)?;
            if there.is_some_and(|there| Some(there.inode) == operation.new_inode) {
                crate::tree::chmod_at(&place.parent, place.name, mode).at("set the mode of", path)?;
            }
        }
        Ok(())
    }

    fn check_seen(&self, operation: &Operation, place: &Place<'_>) -> Result<(), ApplyFailure> {
        let now = stat_entry(&place.parent, place.name).at("stat", &operation.path)?;
        match (operation.seen, now) {
            (Some(seen), Some(now)) if seen.is(&now) => Ok(()),
            _ => Err(changed_meanwhile(&operation.path)),
        }
    }

    /// `new/N` -> target.
    fn put(&self, place: &Place<'_>, path: &RelPath) -> Result<(), ApplyFailure> {
        rename(
            &self.new,
            place.slot.as_ref(),
            &place.parent,
            place.name,
            RenameFlags::NOREPLACE,
            path,
        )
    }

    /// target -> `old/N`.
    fn take_away(&self, place: &Place<'_>, path: &RelPath) -> Result<(), ApplyFailure> {
        rename(
            &place.parent,
            place.name,
            &self.old,
            place.slot.as_ref(),
            RenameFlags::NOREPLACE,
            path,
        )
    }

    fn exchange(&mut self, place: &Place<'_>, path: &RelPath) -> Result<(), ApplyFailure> {
        let result = rustix::fs::renameat_with(
            &self.new,
            place.slot.as_str(),
            &place.parent,
            place.name,
            RenameFlags::EXCHANGE,
        );
        match result {
            Ok(()) => Ok(()),
            Err(Errno::NOENT) => Err(changed_meanwhile(path)),
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                self.take_away(place, path)?;
                self.steps.tick()?;
                self.put(place, path)
            }
            Err(error) => Err(error).at("replace", path).map_err(ApplyFailure::from),
        }
    }

    /// Finds which operations have moved anything, by slot.
    pub(crate) fn find_applied(&self, journal: &Journal) -> Result<BTreeSet<u64>, PathIoError> {
        let mut applied = BTreeSet::new();
        for operation in &journal.operations {
            let slot = operation.slot.to_string();
            let staged = stat_entry(&self.new, slot.as_str()).at("stat the copy of", &operation.path)?;
            let moved_away = stat_entry(&self.old, slot.as_str())
                .at("stat the old", &operation.path)?
                .is_some();
            if moved_away || staged.map(|staged| staged.inode) != operation.new_inode {
                applied.insert(operation.slot);
            }
        }
        Ok(applied)
    }

    /// Undoes everything in the journal that was done, backwards, and returns what it touched; `applied` is what
    /// [`Applier::find_applied`] found before the first undoing.
    pub(crate) fn undo(&mut self, journal: &Journal, applied: &BTreeSet<u64>) -> Result<Accepted, ApplyFailure> {
        self.widen(journal)?;
        self.reopen(journal)?;
        for operation in journal.operations.iter().rev() {
            self.steps.tick()?;
            match self.undo_one(operation) {
                Err(ApplyFailure::Problem(_)) if self.force => {}
                other => other?,
            }
        }
        for widen in journal.widen.iter().rev() {
            self.steps.tick()?;
            match self.target.chmod(&widen.path, widen.mode) {
                Ok(()) | Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(error) => Err(error).at("restore the mode of", &widen.path)?,
            }
        }
        for directory in &journal.directories {
            self.steps.tick()?;
            match self.dress(directory, &directory.new, &directory.old) {
                Err(ApplyFailure::Problem(_)) => {} // somebody else's now
                other => other?,
            }
        }
        self.sync(journal)?;
        self.touched(journal, applied)
    }

    fn undo_one(&mut self, operation: &Operation) -> Result<(), ApplyFailure> {
        let path = &operation.path;
        let place = self.place(operation)?;
        let slot: &std::ffi::OsStr = place.slot.as_ref();
        let staged = stat_entry(&self.new, slot).at("stat the copy of", path)?;
        let moved_away = stat_entry(&self.old, slot).at("stat the old", path)?.is_some();
        let is_staged = staged.is_some_and(|staged| Some(staged.inode) == operation.new_inode);
        if !is_staged && operation.action != Action::Delete {
            // It came in place. What is there now must be it, or it is somebody else's work by now.
            let there = stat_entry(&place.parent, place.name).at("stat", path)?;
            let Some(there) = there.filter(|there| Some(there.inode) == operation.new_inode) else {
                return Err(changed_meanwhile(path));
            };
            if there.kind == FileKind::Directory && there.mode & 0o700 != 0o700 {
                crate::tree::chmod_at(&place.parent, place.name, there.mode | 0o700).at("make writable", path)?;
            }
            if staged.is_some() {
                rustix::fs::renameat_with(&self.new, slot, &place.parent, place.name, RenameFlags::EXCHANGE)
                    .at("put back", path)?;
            } else {
                rename(&place.parent, place.name, &self.new, slot, RenameFlags::NOREPLACE, path)?;
            }
        }
        if moved_away {
            self.steps.tick()?;
            rename(&self.old, slot, &place.parent, place.name, RenameFlags::NOREPLACE, path)?;
        }
        Ok(())
    }

    /// Makes a directory look like `wanted`, and tells by its inode that it is the one meant. `other` is the look it may have now.
    fn dress(&self, directory: &DirectoryMeta, other: &Meta, wanted: &Meta) -> Result<(), ApplyFailure> {
        let path = &directory.path;
        let open = match self.target.open_dir(path) {
            Err(Errno::ACCESS) => {
                // Closed by its new mode before a crash.
                self.target
                    .chmod(path, wanted.mode | 0o700)
                    .and_then(|()| self.target.open_dir(path))
            }
            other => other,
        };
        let open = match open {
            Ok(open) => open,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Err(changed_meanwhile(path)),
            Err(error) => return Err(error).at("open", path).map_err(ApplyFailure::from),
        };
        let now = Attr::from(rustix::fs::fstat(&open).at("stat", path)?);
        if now.inode != directory.inode {
            return Err(changed_meanwhile(path));
        }
        if wanted.attributes != other.attributes {
            let present = crate::xattr::read(&open).at("read the attributes of", path)?.kept;
            crate::xattr::write(&open, &present, &wanted.attributes, true).at("set the attributes of", path)?;
        }
        if (wanted.uid, wanted.gid) != (now.uid, now.gid) && (wanted.uid, wanted.gid) != (other.uid, other.gid) {
            let owner = (Some(Uid::from_raw(wanted.uid)), Some(Gid::from_raw(wanted.gid)));
            rustix::fs::fchown(&open, owner.0, owner.1).at("set the owner of", path)?;
        }
        if wanted.mode != now.mode {
            rustix::fs::fchmod(&open, Mode::from_raw_mode(wanted.mode)).at("set the mode of", path)?;
        }
        if let Some(modified) = wanted.modified.filter(|modified| *modified != now.modified) {
            let times = Timestamps {
                last_access: Timespec {
                    tv_sec: 0,
                    tv_nsec: UTIME_OMIT,
                },
                last_modification: modified.timespec(),
            };
            match rustix::fs::futimens(&open, &times) {
                // Somebody else's directory that we may write to, but not date (utimensat(2), EPERM).
                Ok(()) | Err(Errno::PERM) => {}
                Err(error) => Err(error).at("set the time of", path)?,
            }
        }
        Ok(())
    }

    /// Syncs the directories that changed.
    fn sync(&mut self, journal: &Journal) -> Result<(), PathIoError> {
        let mut paths: BTreeSet<RelPath> = journal
            .operations
            .iter()
            .filter_map(|operation| operation.path.split().map(|(parent, _)| parent))
            .collect();
        paths.extend(journal.directories.iter().map(|directory| directory.path.clone()));
        if paths.len() > MAX_SINGLE_SYNCS {
            return rustix::fs::syncfs(self.target.root()).at("sync", &RelPath::root());
        }
        for path in &paths {
            match self.target.open_dir(path) {
                Ok(directory) => rustix::fs::fsync(directory).at("sync", path)?,
                // Closed to us by the mode just given; the sync of the whole file system needs no right on it.
                Err(_) => return rustix::fs::syncfs(self.target.root()).at("sync", &RelPath::root()),
            }
        }
        for directory in [&self.new, &self.old] {
            rustix::fs::fsync(directory).at_file("sync", &journal.stage)?;
        }
        Ok(())
    }

    /// The state after an undoing of what was moved or dressed, so that the next commit doesn't take it for somebody's change.
    fn touched(&self, journal: &Journal, applied: &BTreeSet<u64>) -> Result<Accepted, ApplyFailure> {
        let mut touched = Accepted::new();
        let moved = journal.operations.iter().filter(|one| applied.contains(&one.slot));
        let operations = moved.filter_map(|one| one.seen.map(|seen| (&one.path, seen.inode)));
        let directories = journal.directories.iter().map(|one| (&one.path, one.inode));
        for (path, inode) in operations.chain(directories) {
            if let Some(now) = self
                .target
                .stat(path)
                .at("stat", path)?
                .filter(|now| now.inode == inode)
            {
                touched.insert(path.clone(), (inode, now.changed));
            }
        }
        Ok(touched)
    }
}

fn rename(
    from: &OwnedFd,
    from_name: &std::ffi::OsStr,
    to: &OwnedFd,
    to_name: &std::ffi::OsStr,
    flags: RenameFlags,
    path: &RelPath,
) -> Result<(), ApplyFailure> {
    let result = match rustix::fs::renameat_with(from, from_name, to, to_name, flags) {
        // No such flag here (rename(2), EINVAL): looking first leaves a moment, but nothing better exists.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) if stat_at(to, to_name).is_err() => {
            rustix::fs::renameat(from, from_name, to, to_name)
        }
        other => other,
    };
    match result {
        Ok(()) => Ok(()),
        Err(Errno::EXIST | Errno::NOENT) => Err(changed_meanwhile(path)),
        Err(error) => Err(error).at("move", path).map_err(ApplyFailure::from),
    }
}
