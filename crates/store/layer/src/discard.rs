//! Throws a capture away. One rename ends it; everything after only frees the space and can be repeated.

use std::path::Path;

use rustix::fd::{AsFd as _, OwnedFd};
use rustix::io::Errno;
use thiserror::Error;

use crate::capture::{Capture, LockHeld, META, Pending, UPPER, WORK, open_state, remove_file};
use crate::error::{At, PathIoError};
use crate::journal;
use crate::remove::{RemoveFailure, remove_tree};
use crate::steps::Steps;

/// The description's name once the capture is being removed.
const GONE: &str = "gone.json";

/// A capture can't be discarded.
#[derive(Debug, Error)]
pub enum DiscardError {
    /// A system call failed; discarding again goes on.
    #[error(transparent)]
    Io(#[from] PathIoError),
    /// A commit was interrupted in the middle: its backups are all that is left of what it replaced.
    #[error("a commit of this capture was interrupted; commit it again to finish or undo it")]
    CommitPending,
}

impl Capture {
    /// Removes the capture and returns the bytes freed. The state directory itself stays, with the caller's lock in it.
    ///
    /// # Errors
    /// [`DiscardError`].
    pub fn discard(self, _lock: LockHeld<'_>) -> Result<u64, DiscardError> {
        match self.pending()? {
            Pending::Commit | Pending::Rollback => return Err(DiscardError::CommitPending),
            Pending::Nothing => {}
            Pending::StaleStage | Pending::Cleanup => {
                let target = self.open_target()?;
                finish(remove_tree(target.root(), &self.stage_name(), &mut Steps::new(None)))?;
            }
        }
        finish(remove(&self.state, &mut Steps::new(None)))
    }
}

/// Removes what is left of a capture whose removal was interrupted, or that was never finished being made; returns the bytes freed.
/// Does nothing where a capture is whole.
///
/// # Errors
/// [`DiscardError::Io`].
pub fn sweep(dir: &Path, _lock: LockHeld<'_>) -> Result<u64, DiscardError> {
    let state = match open_state(dir) {
        Err(Errno::NOENT) => return Ok(0),
        other => other.at_file("open", &dir.to_string_lossy())?,
    };
    match crate::tree::stat_entry(&state, META).at_file("stat", META)? {
        Some(_) => Ok(0),
        None => finish(remove(&state, &mut Steps::new(None))),
    }
}

fn finish(result: Result<u64, RemoveFailure>) -> Result<u64, DiscardError> {
    match result {
        Ok(bytes) => Ok(bytes),
        Err(RemoveFailure::Io(error)) => Err(error.into()),
        Err(RemoveFailure::Interrupted) => Ok(0), // only tests limit the steps, and not here
    }
}

/// Ends a capture and removes its files; the journal's last mark goes last but one, so that no moment looks like an unapplied capture.
pub(crate) fn remove(state: &OwnedFd, steps: &mut Steps) -> Result<u64, RemoveFailure> {
    steps.tick()?;
    match rustix::fs::renameat(state, META, state, GONE) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(error).at_file("remove", META).map_err(RemoveFailure::from),
    }
    rustix::fs::fsync(state).at_file("sync the directory of", META)?;
    let mut freed_bytes = 0;
    for name in [UPPER, WORK] {
        freed_bytes += remove_tree(state.as_fd(), name, steps)?;
    }
    for name in [crate::unlock::FILE]
        .into_iter()
        .chain(journal::FILES)
        .chain(["capture.json.new", GONE])
    {
        steps.tick()?;
        remove_file(state, name)?;
    }
    Ok(freed_bytes)
}
