//! One walk over the upper, beside the target: what changed, what a commit would do and what stands in its way.
//!
//! A directory of the upper is either *merged* with the target's of the same name (its entries are single operations) or *whole*
//! (new, or it hides the target's: one operation moves it in place, and its entries are only listed). The walk keeps its own
//! stack of paths, so that no depth can overflow ours, and opens each directory from the root, so that it holds two descriptors.

mod below;
mod compare;

use std::collections::BTreeSet;

use rustix::fd::OwnedFd;

use crate::attr::{Attr, FileKind, IdShift};
use crate::capture::{Capture, STAGE_PREFIX};
use crate::change::{Change, ChangeKind, Note, ProblemKind, Problems};
use crate::error::{At, ScanError};
use crate::journal::{Accepted, DirectoryMeta};
use crate::path::RelPath;
use crate::plan::{Action, Planned};
use crate::tree::Tree;
use crate::upper::Upper;

/// How far to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Goal {
    /// To the first change.
    AnyChange,
    /// At all changes.
    Changes,
    /// At all changes, and at what a commit needs; with `force`, what changed underneath is no conflict.
    Plan { force: bool },
}

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    pub(crate) changes: Vec<Change>,
    pub(crate) notes: Vec<Note>,
    pub(crate) blocked: Problems,
    pub(crate) conflicts: Problems,
    pub(crate) operations: Vec<Planned>,
    /// Every merged directory.
    pub(crate) directories: Vec<DirectoryMeta>,
}

/// A directory still to visit.
struct Visit {
    path: RelPath,
    attr: Attr,
    is_merged: bool,
}

struct Walk<'walk, 'state> {
    upper: &'walk mut Upper<'state>,
    target: &'walk Tree,
    target_device: u64,
    started_ns: i128,
    shift: Option<IdShift>,
    accepted: &'walk Accepted,
    /// Only root can have captured, and can restore, other owners than the caller.
    compares_owners: bool,
    goal: Goal,
    target_entries: u64,
    found: Survey,
    pending: Vec<Visit>,
}

impl Survey {
    pub(crate) fn run(
        capture: &Capture,
        upper: &mut Upper<'_>,
        target: &Tree,
        goal: Goal,
        accepted: &Accepted,
    ) -> Result<Self, ScanError> {
        let root = upper.root_attr()?;
        let target_root = rustix::fs::fstat(target.root())
            .map(Attr::from)
            .at("stat the target's", &RelPath::root())?;
        let mut walk = Walk {
            upper,
            target,
            target_device: target_root.device,
            started_ns: i128::from(capture.started_ns),
            shift: capture.shift,
            accepted,
            compares_owners: rustix::process::geteuid().is_root(),
            goal,
            target_entries: 0,
            found: Survey::default(),
            pending: vec![Visit {
                path: RelPath::root(),
                attr: root,
                is_merged: true,
            }],
        };
        while let Some(visit) = walk.pending.pop() {
            walk.directory(&visit)?;
            if walk.is_settled() {
                break;
            }
        }
        let mut found = walk.found;
        found.changes.sort_unstable();
        found
            .directories
            .sort_unstable_by(|left, right| right.path.cmp(&left.path));
        Ok(found)
    }
}

impl Walk<'_, '_> {
    fn is_settled(&self) -> bool {
        self.goal == Goal::AnyChange && !self.found.changes.is_empty()
    }

    fn directory(&mut self, visit: &Visit) -> Result<(), ScanError> {
        let path = &visit.path;
        let directory = self.upper.open_dir(path, &visit.attr)?;
        let attributes = Upper::attributes(path, &directory)?;
        let marks = attributes.marks;
        let seen = self.target.stat(path).at("stat the target's", path)?;
        if seen.is_some_and(|seen| seen.device != self.target_device) {
            // A mount: overlayfs showed the program what lies below it, so there is nothing to compare with.
            self.found.blocked.push(path, ProblemKind::OtherDevice);
            self.push(path, ChangeKind::Modified, &visit.attr, seen.as_ref());
            return Ok(());
        }
        let over = seen.filter(|seen| seen.kind == FileKind::Directory);
        let is_merged = visit.is_merged && over.is_some() && (path.is_root() || !marks.is_opaque);
        if visit.is_merged && !is_merged {
            if seen.is_none() && marks.has_origin && !marks.is_opaque {
                // Copied up from a directory that has gone since: what it held is not in the upper.
                self.conflict(path, ProblemKind::VanishedUnderneath);
            }
            self.operation(path, seen, Some(visit.attr))?;
        }
        self.directory_change(visit, attributes.kept, seen, is_merged)?;
        let mut hidden = BTreeSet::new();
        if !is_merged && over.is_some() {
            hidden = self.target_names(path)?;
        }
        for (entry, name, attr) in self.upper.list(path, &directory)? {
            if path.is_root() && name.starts_with(STAGE_PREFIX.as_bytes()) {
                self.found.notes.push(Note::ReservedName(entry));
                continue;
            }
            if self.upper.is_whiteout(&entry, &attr, marks.has_file_whiteouts)? {
                if is_merged {
                    self.deletion(&entry)?;
                }
                // Elsewhere it hides nothing that the directory doesn't hide already.
            } else {
                let hides = over.is_some();
                if attr.kind != FileKind::Socket {
                    hidden.remove(&name);
                }
                self.entry(
                    Visit {
                        path: entry,
                        attr,
                        is_merged,
                    },
                    &directory,
                    hides,
                )?;
            }
            if self.is_settled() {
                return Ok(());
            }
        }
        for name in hidden {
            self.list_deleted(&path.join(&name))?;
        }
        Ok(())
    }

    /// An entry that is no whiteout. `may_exist`: the target has a directory where this one's parent is.
    fn entry(&mut self, visit: Visit, directory: &OwnedFd, may_exist: bool) -> Result<(), ScanError> {
        let Visit { path, attr, is_merged } = visit;
        match attr.kind {
            FileKind::Directory => self.pending.push(Visit { path, attr, is_merged }),
            FileKind::Device => self.found.blocked.push(&path, ProblemKind::DeviceNode),
            FileKind::Socket => {
                if is_merged {
                    self.deletion(&path)?; // of what the program replaced by it, if anything
                }
                self.found.notes.push(Note::SocketSkipped(path));
            }
            FileKind::File | FileKind::Symlink | FileKind::Fifo => {
                let seen = if may_exist {
                    self.target.stat(&path).at("stat the target's", &path)?
                } else {
                    None
                };
                if !self.leaf_change(&path, &attr, seen, directory)? {
                    return Ok(());
                }
                if is_merged {
                    self.operation(&path, seen, Some(attr))?;
                    if seen.is_none() {
                        self.check_vanished(&path, &attr)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// A file copied up, but gone from the target, in a directory that changed since: most likely somebody removed it.
    /// (Or the program renamed another file to this name while somebody used the directory; that can't be told apart.)
    fn check_vanished(&mut self, path: &RelPath, attr: &Attr) -> Result<(), ScanError> {
        if !matches!(self.goal, Goal::Plan { force: false }) || attr.kind != FileKind::File {
            return Ok(());
        }
        let file = self.upper.open_file(path, attr)?;
        let Some((parent, _)) = path.split() else { return Ok(()) };
        // The root changes with every stage that comes and goes, so it says nothing.
        if !parent.is_root()
            && Upper::attributes(path, file)?.marks.has_origin
            && let Some(now) = self.target.stat(&parent).at("stat the target's", &parent)?
            && self.is_newer(&parent, &now)
        {
            self.conflict(path, ProblemKind::VanishedUnderneath);
        }
        Ok(())
    }

    /// A whiteout in a merged directory.
    fn deletion(&mut self, path: &RelPath) -> Result<(), ScanError> {
        let Some(seen) = self.target.stat(path).at("stat the target's", path)? else {
            return Ok(());
        };
        self.list_deleted(path)?;
        self.operation(path, Some(seen), None)
    }

    fn operation(&mut self, path: &RelPath, seen: Option<Attr>, upper: Option<Attr>) -> Result<(), ScanError> {
        let Goal::Plan { force } = self.goal else { return Ok(()) };
        let action = match (upper.is_some(), seen.is_some()) {
            (true, false) => Action::Add,
            (true, true) => Action::Replace,
            (false, _) => Action::Delete,
        };
        if seen.is_some() {
            self.check_unchanged(path, force)?;
        }
        self.found.operations.push(Planned {
            path: path.clone(),
            action,
            seen,
            upper,
        });
        Ok(())
    }

    /// Notes as conflicts what changed since the capture began, at and below `path` in the target.
    fn check_unchanged(&mut self, path: &RelPath, force: bool) -> Result<(), ScanError> {
        self.each_below(path, |walk, entry, now| {
            if now.device != walk.target_device {
                walk.found.blocked.push(entry, ProblemKind::OtherDevice);
            } else if !force && walk.is_newer(entry, now) {
                walk.conflict(entry, ProblemKind::ChangedUnderneath);
            }
        })
    }

    fn is_newer(&self, path: &RelPath, now: &Attr) -> bool {
        now.changed.total_ns() > self.started_ns && self.accepted.get(path) != Some(&(now.inode, now.changed))
    }

    fn conflict(&mut self, path: &RelPath, kind: ProblemKind) {
        if !matches!(self.goal, Goal::Plan { force: true }) {
            self.found.conflicts.push(path, kind);
        }
    }

    fn push(&mut self, path: &RelPath, kind: ChangeKind, now: &Attr, before: Option<&Attr>) {
        self.found.changes.push(Change {
            path: path.clone(),
            kind,
            file_type: now.kind,
            old_type: before.map(|before| before.kind).filter(|kind| *kind != now.kind),
            size: now.size,
            old_mode: before.map(|before| before.mode),
            new_mode: Some(now.safe_mode()),
        });
    }
}
