//! The journal: everything a commit will do, written and synced before the first change to the target.
//!
//! ```text
//! staging --(journal.json appears)--> applying --(journal.done)--> cleaning up --> gone
//!                                        '--(journal.rollback)--> undoing --> as before
//! ```
//! A crash on the left of the first arrow leaves only copies to throw away; between the first and the second the next commit goes
//! on; after the second it only tidies. The file lies in the caller's private directory, yet it is read bounded and its paths are
//! checked like any other.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write as _};

use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::attr::Stamp;
use crate::change::{Note, Summary};
use crate::error::{At, PathIoError};
use crate::path::RelPath;
use crate::plan::{Meta, Operation};

pub(crate) const JOURNAL: &str = "journal.json";
pub(crate) const NEW: &str = "journal.json.new";
pub(crate) const DONE: &str = "journal.done";
pub(crate) const ROLLBACK: &str = "journal.rollback";
const ROLLBACK_NEW: &str = "journal.rollback.new";
const ACCEPTED: &str = "accepted.json";
const ACCEPTED_NEW: &str = "accepted.json.new";
/// Some 300 bytes for each of the entries that one scan takes at most would be more; a commit that large fails before its start.
const MAX_BYTES: u64 = 1 << 30;
const VERSION: u32 = 1;

/// Entries that a rolled-back commit touched: by path, the inode and its change time after the rollback in nanoseconds.
pub(crate) type Accepted = BTreeMap<RelPath, (u64, Stamp)>;

/// Something of a file that a sandbox may not hand out, and that a commit left away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stripped {
    /// The file.
    pub path: RelPath,
    /// What: `setuid`, `setgid` or an attribute's name.
    pub what: String,
}

/// What a commit will do, in order.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Journal {
    version: u32,
    /// The stage's name in the target.
    pub(crate) stage: String,
    /// Directories of the target to make writable meanwhile.
    pub(crate) widen: Vec<Widen>,
    pub(crate) operations: Vec<Operation>,
    /// Metadata of directories, the deepest first.
    pub(crate) directories: Vec<DirectoryMeta>,
    pub(crate) summary: Summary,
    pub(crate) notes: Vec<Note>,
    pub(crate) stripped: Vec<Stripped>,
}

/// A directory that its owner may not write: it is made so, and gets its mode back.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Widen {
    pub(crate) path: RelPath,
    pub(crate) mode: u32,
}

/// What a directory that stays is to look like, and looked like.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct DirectoryMeta {
    pub(crate) path: RelPath,
    pub(crate) inode: u64,
    pub(crate) old: Meta,
    pub(crate) new: Meta,
}

/// A journal can't be used.
#[derive(Debug, Error)]
pub enum JournalError {
    /// A system call failed.
    #[error(transparent)]
    Io(#[from] PathIoError),
    /// It is damaged.
    #[error("{JOURNAL} is damaged")]
    Malformed(#[source] serde_json::Error),
    /// It is of another version.
    #[error("{JOURNAL} has version {found}; this is version {VERSION}")]
    Version {
        /// Its version.
        found: u32,
    },
}

impl Journal {
    pub(crate) fn new(stage: String, summary: Summary) -> Self {
        Journal {
            version: VERSION,
            stage,
            widen: Vec::new(),
            operations: Vec::new(),
            directories: Vec::new(),
            summary,
            notes: Vec::new(),
            stripped: Vec::new(),
        }
    }

    /// Reads a journal, if there is one by that name.
    pub(crate) fn read(state: &OwnedFd, name: &str) -> Result<Option<Self>, JournalError> {
        let Some(text) = crate::capture::read_bounded(state, name, MAX_BYTES).at_file("read", name)? else {
            return Ok(None);
        };
        let journal: Journal = serde_json::from_slice(&text).map_err(JournalError::Malformed)?;
        let plain = journal.stage.starts_with(crate::capture::STAGE_PREFIX) && !journal.stage.contains(['/', '\0']);
        match journal.version {
            VERSION if plain => Ok(Some(journal)),
            found => Err(JournalError::Version { found }),
        }
    }

    /// Writes and syncs the journal, under a name that means nothing yet.
    pub(crate) fn write(&self, state: &OwnedFd) -> Result<(), PathIoError> {
        let text = serde_json::to_vec(self)
            .map_err(io::Error::from)
            .at_file("write", JOURNAL)?;
        if u64::try_from(text.len()).unwrap_or(u64::MAX) > MAX_BYTES {
            return Err(io::Error::from(rustix::io::Errno::FBIG)).at_file("write", JOURNAL);
        }
        write_synced(state, NEW, &text)
    }

    /// The commit point: when this returns, what was written will happen.
    pub(crate) fn publish(state: &OwnedFd) -> Result<(), PathIoError> {
        rename_synced(state, NEW, JOURNAL)
    }
}

/// Reads what a rolled-back commit touched. Damage only costs the caller a needless conflict, so it is taken as nothing.
pub(crate) fn read_accepted(state: &OwnedFd) -> Result<Accepted, PathIoError> {
    let text = crate::capture::read_bounded(state, ACCEPTED, MAX_BYTES).at_file("read", ACCEPTED)?;
    Ok(text
        .and_then(|text| serde_json::from_slice(&text).ok())
        .unwrap_or_default())
}

/// Notes what a rolled-back commit touched.
pub(crate) fn write_accepted(state: &OwnedFd, accepted: &Accepted) -> Result<(), PathIoError> {
    let text = serde_json::to_vec(accepted)
        .map_err(io::Error::from)
        .at_file("write", ACCEPTED)?;
    write_synced(state, ACCEPTED_NEW, &text)?;
    rename_synced(state, ACCEPTED_NEW, ACCEPTED)
}

/// Reads which operations a rollback undoes, by slot; `None` if none is under way.
pub(crate) fn read_rollback(state: &OwnedFd) -> Result<Option<BTreeSet<u64>>, JournalError> {
    match crate::capture::read_bounded(state, ROLLBACK, MAX_BYTES).at_file("read", ROLLBACK)? {
        Some(text) => serde_json::from_slice(&text).map(Some).map_err(JournalError::Malformed),
        None => Ok(None),
    }
}

/// Turns the commit around. `applied` must be what was applied at that moment: of other entries the target's may be somebody's
/// work, and even bear the inode number of what was there before.
pub(crate) fn write_rollback(state: &OwnedFd, applied: &BTreeSet<u64>) -> Result<(), PathIoError> {
    let text = serde_json::to_vec(applied)
        .map_err(io::Error::from)
        .at_file("write", ROLLBACK)?;
    write_synced(state, ROLLBACK_NEW, &text)?;
    rename_synced(state, ROLLBACK_NEW, ROLLBACK)
}

/// Names of this module's files, for whoever removes the state.
pub(crate) const FILES: [&str; 7] = [NEW, JOURNAL, ROLLBACK_NEW, ROLLBACK, ACCEPTED_NEW, ACCEPTED, DONE];

/// Writes a file and syncs it.
fn write_synced(state: &OwnedFd, name: &str, text: &[u8]) -> Result<(), PathIoError> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::openat(state, name, flags, Mode::from_raw_mode(0o600)).at_file("create", name)?;
    let mut file = std::fs::File::from(file);
    file.write_all(text).at_file("write", name)?;
    file.sync_all().at_file("sync", name)
}

/// Renames a file and syncs the state directory.
pub(crate) fn rename_synced(state: &OwnedFd, from: &str, to: &str) -> Result<(), PathIoError> {
    rustix::fs::renameat(state, from, state, to).at_file("create", to)?;
    rustix::fs::fsync(state).at_file("sync the directory of", to)
}
