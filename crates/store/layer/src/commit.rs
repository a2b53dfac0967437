//! Applies a capture to its target: all of it or nothing, whatever happens in between.
//!
//! ```text
//! survey -> conflicts? -> stage copies -> look again -> JOURNAL -> renames -> DONE -> remove stage and capture
//!           refuse        throw away      refuse        '-- from here on a crash is gone over by committing again
//!                                                             '-- a failing rename undoes all before it
//! ```

use std::collections::{BTreeSet, HashMap};

use rustix::fs::{Access, AtFlags, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;
use thiserror::Error;

use crate::apply::{Applier, ApplyFailure};
use crate::attr::{Attr, Stamp};
use crate::capture::{Capture, LockHeld, remove_file};
use crate::change::{Note, Problem, ProblemKind, Problems, Summary, summarize};
use crate::error::{At, PathIoError, ScanError};
use crate::journal::{self, DONE, DirectoryMeta, JOURNAL, Journal, JournalError, ROLLBACK, Stripped, Widen};
use crate::path::RelPath;
use crate::plan::{Meta, Operation, Planned, Seen};
use crate::recheck::find_changed_meanwhile;
use crate::remove::{RemoveFailure, remove_tree};
use crate::stage::{StageFailure, Stager};
use crate::steps::{Interrupted, Steps};
use crate::survey::{Goal, Survey};
use crate::tree::Tree;
use crate::upper::Upper;

/// How to commit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CommitOptions {
    /// Applies the capture over what changed in the target since it began.
    pub force: bool,
    /// For tests: ends the commit after that many durable steps as a kill would, without any tidying up.
    pub crash_after: Option<usize>,
}

/// What a commit did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CommitReport {
    /// Entries changed, by kind.
    pub summary: Summary,
    /// What files lost that a sandbox may not hand out.
    pub stripped: Vec<Stripped>,
    /// Remarks.
    pub notes: Vec<Note>,
    /// Whether this finished an earlier commit that was interrupted.
    pub was_resumed: bool,
}

/// A capture can't be committed.
#[derive(Debug, Error)]
pub enum CommitError {
    /// A system call failed before anything was changed, or while tidying up after everything was.
    #[error(transparent)]
    Io(#[from] PathIoError),
    /// The capture can't be read.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// The journal of an interrupted commit can't be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The target changed underneath; nothing was applied.
    #[error("nothing was applied: {}\n{conflicts}", count(.conflicts, "conflict"))]
    Conflicts {
        /// Where and why.
        conflicts: Problems,
    },
    /// Something that can't be applied, even by force; nothing was applied.
    #[error("nothing was applied: {}\n{problems}", count(.problems, "obstacle"))]
    Blocked {
        /// Where and why.
        problems: Problems,
    },
    /// An operation failed, and everything before it was undone. The capture is still there.
    #[error("nothing was applied: everything done before this was undone")]
    RolledBack {
        /// What failed; none if that happened in an earlier call.
        #[source]
        cause: Option<RollbackCause>,
    },
    /// An operation failed, and undoing the ones before it failed as well. Committing again tries once more.
    #[error("half of the capture is applied and can't be undone yet; what it replaced is in {stage} in the target")]
    Stuck {
        /// The stage's name.
        stage: String,
        /// Why.
        #[source]
        cause: RollbackCause,
    },
    /// A test ended it.
    #[error("interrupted by a test")]
    Interrupted,
}

/// Why an operation failed.
#[derive(Debug, Error)]
pub enum RollbackCause {
    /// A system call failed.
    #[error(transparent)]
    Io(#[from] PathIoError),
    /// Somebody changed the target.
    #[error("{0}")]
    Problem(Problem),
}

fn count(problems: &Problems, what: &str) -> String {
    let total = problems.total;
    format!("{total} {what}{}", if total == 1 { "" } else { "s" })
}

impl From<Interrupted> for CommitError {
    fn from(_: Interrupted) -> Self {
        CommitError::Interrupted
    }
}

impl From<RemoveFailure> for CommitError {
    fn from(failure: RemoveFailure) -> Self {
        match failure {
            RemoveFailure::Interrupted => CommitError::Interrupted,
            RemoveFailure::Io(error) => error.into(),
        }
    }
}

impl From<StageFailure> for CommitError {
    fn from(failure: StageFailure) -> Self {
        match failure {
            StageFailure::Interrupted => CommitError::Interrupted,
            StageFailure::Scan(error) => error.into(),
        }
    }
}

impl Capture {
    /// Applies the capture to its target and removes it, or finishes (or undoes) a commit that was interrupted.
    ///
    /// The caller holds the capture's lock, and no sandbox runs on it.
    ///
    /// # Errors
    /// [`CommitError`]. Except for [`CommitError::Stuck`], [`CommitError::Interrupted`] and a failure to tidy up, the target is
    /// then as it was and the capture is still there.
    pub fn commit(&mut self, _lock: LockHeld<'_>, options: CommitOptions) -> Result<CommitReport, CommitError> {
        let mut steps = Steps::new(options.crash_after);
        let target = self.open_target()?;
        if let Some(journal) = Journal::read(&self.state, DONE)? {
            self.clean_up(&target, &journal, &mut steps)?;
            return Ok(report(journal, true));
        }
        if let Some(journal) = Journal::read(&self.state, JOURNAL)? {
            if let Some(applied) = journal::read_rollback(&self.state)? {
                self.roll_back(&target, &journal, &applied, &mut steps, options.force)?;
                return Err(CommitError::RolledBack { cause: None });
            }
            return self.roll_forward(&target, journal, &mut steps, options, true);
        }
        let stage_name = self.stage_name();
        let root_before =
            Attr::from(rustix::fs::fstat(target.root()).at("stat the target's", &RelPath::root())?).modified;
        remove_stage(&target, &stage_name, Some(root_before), &mut steps)?;
        remove_file(&self.state, ROLLBACK)?;
        remove_file(&self.state, journal::NEW)?;

        let mut upper = self.open_upper()?;
        let prepared = self.prepare(&target, &mut upper, &mut steps, options);
        if let Err(CommitError::Interrupted) = prepared {
            return Err(CommitError::Interrupted); // leaves all behind, as a kill would
        }
        let closed = upper.close();
        if prepared.is_err() {
            remove_stage(&target, &stage_name, Some(root_before), &mut steps)?;
        }
        let journal = prepared?;
        closed?;
        if journal.operations.is_empty() && journal.directories.is_empty() {
            self.clean_up(&target, &journal, &mut steps)?;
            return Ok(report(journal, false));
        }
        steps.tick()?;
        journal.write(&self.state)?;
        steps.tick()?;
        Journal::publish(&self.state)?;
        self.roll_forward(&target, journal, &mut steps, options, false)
    }

    /// Plans and stages; the plan is empty if nothing changed. Touches nothing in the target but the stage.
    fn prepare(
        &self,
        target: &Tree,
        upper: &mut Upper<'_>,
        steps: &mut Steps,
        options: CommitOptions,
    ) -> Result<Journal, CommitError> {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        let planned_ns = i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec);
        let accepted = journal::read_accepted(&self.state)?;
        let mut survey = Survey::run(self, upper, target, Goal::Plan { force: options.force }, &accepted)?;
        let summary = summarize(&survey.changes);
        let mut journal = Journal::new(self.stage_name(), summary);
        journal.widen = find_widened(target, &survey.operations, &mut survey.blocked)?;
        if !survey.blocked.is_empty() {
            return Err(CommitError::Blocked {
                problems: survey.blocked,
            });
        }
        if !survey.conflicts.is_empty() {
            return Err(CommitError::Conflicts {
                conflicts: survey.conflicts,
            });
        }
        journal.notes = survey.notes;
        if survey.changes.is_empty() {
            return Ok(journal);
        }
        steps.tick()?;
        let stage = crate::stage::create(target, &journal.stage).at_file("create", &journal.stage)?;
        let stage = Tree::new(stage);
        let mut stager = Stager {
            upper,
            stage: &stage,
            shift: self.shift,
            steps,
            notes: Vec::new(),
            stripped: Vec::new(),
            links: HashMap::new(),
            made: 0,
        };
        let shared = shared_inodes(&survey.operations);
        for (slot, planned) in (0_u64..).zip(&survey.operations) {
            let staged = match &planned.upper {
                Some(upper) => Some(stager.copy(&planned.path, upper, slot)?),
                None => None,
            };
            let mut seen = planned.seen.as_ref().map(Seen::of);
            if let Some(seen) = &mut seen
                && (shared.contains(&seen.inode) || journal.widen.iter().any(|widen| widen.path == planned.path))
            {
                seen.changed = None; // an earlier operation of this commit changes it
            }
            journal.operations.push(Operation {
                path: planned.path.clone(),
                action: planned.action,
                slot,
                seen,
                new_inode: staged.as_ref().map(|staged| staged.inode),
                final_mode: staged.and_then(|staged| staged.final_mode),
            });
        }
        stager.sync(&journal.stage)?;
        journal.notes.append(&mut stager.notes);
        journal.stripped = stager.stripped;
        let parents: BTreeSet<RelPath> = survey
            .operations
            .iter()
            .filter_map(|one| one.path.split().map(|(dir, _)| dir))
            .collect();
        journal.directories = survey.directories;
        // The stage itself comes and goes in the root, whose time is to be put right after that too.
        journal
            .directories
            .retain(|one| one.new != one.old || parents.contains(&one.path) || one.path.is_root());
        let problems = find_changed_meanwhile(target, &survey.operations, planned_ns)?;
        if !problems.is_empty() {
            return Err(CommitError::Conflicts { conflicts: problems });
        }
        Ok(journal)
    }

    fn roll_forward(
        &self,
        target: &Tree,
        journal: Journal,
        steps: &mut Steps,
        options: CommitOptions,
        was_resumed: bool,
    ) -> Result<CommitReport, CommitError> {
        let mut applied = BTreeSet::new();
        let failure = match Applier::open(target, &journal.stage, steps, options.force) {
            Err(error) => ApplyFailure::Io(error),
            Ok(mut applier) => match applier.apply(&journal) {
                Ok(()) => {
                    steps.tick()?;
                    journal::rename_synced(&self.state, JOURNAL, DONE)?;
                    self.clean_up(target, &journal, steps)?;
                    return Ok(report(journal, was_resumed));
                }
                Err(failure) => {
                    applied = applier.find_applied(&journal)?;
                    failure
                }
            },
        };
        let cause = match failure {
            ApplyFailure::Interrupted => return Err(CommitError::Interrupted),
            ApplyFailure::Io(error) => RollbackCause::Io(error),
            ApplyFailure::Problem(problem) => RollbackCause::Problem(problem),
        };
        steps.tick()?;
        journal::write_rollback(&self.state, &applied)?;
        self.roll_back(target, &journal, &applied, steps, options.force)?;
        Err(CommitError::RolledBack { cause: Some(cause) })
    }

    fn roll_back(
        &self,
        target: &Tree,
        journal: &Journal,
        applied: &BTreeSet<u64>,
        steps: &mut Steps,
        force: bool,
    ) -> Result<(), CommitError> {
        let undone = Applier::open(target, &journal.stage, steps, force)
            .map_err(ApplyFailure::from)
            .and_then(|mut applier| applier.undo(journal, applied));
        let stuck = |cause| {
            Err(CommitError::Stuck {
                stage: journal.stage.clone(),
                cause,
            })
        };
        let accepted = match undone {
            Ok(accepted) => accepted,
            Err(ApplyFailure::Interrupted) => return Err(CommitError::Interrupted),
            Err(ApplyFailure::Io(error)) => return stuck(RollbackCause::Io(error)),
            Err(ApplyFailure::Problem(problem)) => return stuck(RollbackCause::Problem(problem)),
        };
        steps.tick()?;
        journal::write_accepted(&self.state, &accepted)?;
        // Without the journal the stage is stale, and the next commit removes it; the mark alone means nothing.
        steps.tick()?;
        remove_file(&self.state, JOURNAL)?;
        rustix::fs::fsync(&self.state).at_file("sync the directory of", JOURNAL)?;
        remove_file(&self.state, ROLLBACK)?;
        remove_stage(target, &journal.stage, root_time(journal, |root| &root.old), steps)
    }

    /// Removes stage and capture. Until the capture's end the journal says that it is applied.
    fn clean_up(&self, target: &Tree, journal: &Journal, steps: &mut Steps) -> Result<(), CommitError> {
        remove_stage(target, &journal.stage, root_time(journal, |root| &root.new), steps)?;
        crate::discard::remove(&self.state, steps)?;
        Ok(())
    }
}

/// Removes the stage, and gives the target's root the time it had without it.
fn remove_stage(target: &Tree, stage: &str, root_time: Option<Stamp>, steps: &mut Steps) -> Result<(), CommitError> {
    let label = RelPath::root().join(stage.as_bytes());
    if crate::tree::stat_entry(target.root(), stage)
        .at("stat", &label)?
        .is_none()
    {
        return Ok(());
    }
    remove_tree(target.root(), stage, steps)?;
    if let Some(modified) = root_time {
        let omitted = Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        };
        let times = Timestamps {
            last_access: omitted,
            last_modification: modified.timespec(),
        };
        let _cosmetic = rustix::fs::futimens(target.root(), &times); // not ours to date, perhaps
    }
    Ok(())
}

fn root_time(journal: &Journal, side: impl Fn(&DirectoryMeta) -> &Meta) -> Option<Stamp> {
    journal
        .directories
        .iter()
        .find(|one| one.path.is_root())
        .and_then(|root| side(root).modified)
}

fn report(journal: Journal, was_resumed: bool) -> CommitReport {
    CommitReport {
        summary: journal.summary,
        stripped: journal.stripped,
        notes: journal.notes,
        was_resumed,
    }
}

/// Inodes of the target that several operations move: the first move changes the others' change time.
fn shared_inodes(operations: &[Planned]) -> BTreeSet<u64> {
    let mut once = BTreeSet::new();
    operations
        .iter()
        .filter_map(|one| one.seen.map(|seen| seen.inode))
        .filter(|inode| !once.insert(*inode))
        .collect()
}

/// Finds the directories of the target that the caller owns but may not write; those that it doesn't own are obstacles.
fn find_widened(target: &Tree, operations: &[Planned], blocked: &mut Problems) -> Result<Vec<Widen>, PathIoError> {
    let mut paths = BTreeSet::new();
    for planned in operations {
        paths.extend(planned.path.split().map(|(parent, _)| parent));
        if planned.removes_directory() {
            paths.insert(planned.path.clone());
        }
    }
    let own = rustix::process::geteuid().as_raw();
    let mut widen = Vec::new();
    for path in paths {
        let (parent, name) = target.open_parent(&path).at("open the directory of", &path)?;
        match rustix::fs::accessat(&parent, name, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ACCESS) => match target.stat(&path).at("stat", &path)? {
                Some(attr) if attr.uid == own => widen.push(Widen { path, mode: attr.mode }),
                Some(_) => blocked.push(&path, ProblemKind::NotWritable),
                None => {}
            },
            Err(Errno::ROFS) => blocked.push(&path, ProblemKind::NotWritable),
            Err(error) => return Err(error).at("check", &path),
        }
    }
    Ok(widen)
}
