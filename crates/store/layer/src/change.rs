//! What a scan finds: changes, remarks and what stands in the way of a commit. Plain values, in path order.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::attr::FileKind;
use crate::path::RelPath;

/// Most problems kept by name; the rest are counted.
const MAX_SHOWN: usize = 20;

/// How an entry changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChangeKind {
    /// It is new.
    Added,
    /// Its content or type is another.
    Modified,
    /// It is gone.
    Deleted,
    /// Its content is the same; its mode, owner, attributes, time or number of links is not.
    MetadataOnly,
}

impl ChangeKind {
    /// Returns the letter of a name list: `A`, `M` or `D`.
    #[must_use]
    pub fn letter(self) -> char {
        match self {
            ChangeKind::Added => 'A',
            ChangeKind::Modified | ChangeKind::MetadataOnly => 'M',
            ChangeKind::Deleted => 'D',
        }
    }
}

/// One changed entry.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// Where, below the target.
    pub path: RelPath,
    /// How.
    pub kind: ChangeKind,
    /// The type it has now, or had if it is gone.
    pub file_type: FileKind,
    /// The type it had, if that was another.
    pub old_type: Option<FileKind>,
    /// Its size now in bytes, or before if it is gone.
    pub size: u64,
    /// The permission bits it had, if it was there.
    pub old_mode: Option<u32>,
    /// The permission bits it will have, if it stays.
    pub new_mode: Option<u32>,
}

/// A remark that stops nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Note {
    /// A socket was left out: nothing listens on it any more.
    SocketSkipped(RelPath),
    /// An entry was left out because its name is one that commits use.
    ReservedName(RelPath),
    /// The owner of an entry could not be kept.
    OwnerNotKept(RelPath),
    /// An access list was left out: its ids can't be shifted.
    AccessListSkipped(RelPath),
    /// The target's own directory was closed to its owner, and is left open.
    OwnerAccessKept(RelPath),
}

impl fmt::Display for Note {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Note::SocketSkipped(path) => write!(formatter, "{path}: a socket, left out"),
            Note::ReservedName(path) => write!(formatter, "{path}: a name that commits use, left out"),
            Note::OwnerNotKept(path) => write!(formatter, "{path}: its owner could not be kept"),
            Note::OwnerAccessKept(path) => write!(formatter, "{path}: stays open to its owner"),
            Note::AccessListSkipped(path) => write!(formatter, "{path}: its access list was left out"),
        }
    }
}

/// Something that stands in the way of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub path: RelPath,
    /// What.
    pub kind: ProblemKind,
}

/// What stands in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProblemKind {
    /// The target's entry changed or appeared after the capture began.
    ChangedUnderneath,
    /// The target's entry was removed after the capture began.
    VanishedUnderneath,
    /// The target's entry was exchanged while the commit ran.
    ChangedMeanwhile,
    /// Another file system is mounted there.
    OtherDevice,
    /// The directory in the target can't be written by the caller.
    NotWritable,
    /// The sandbox made a device node.
    DeviceNode,
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match self.kind {
            ProblemKind::ChangedUnderneath => "changed outside the sandbox since the capture began",
            ProblemKind::VanishedUnderneath => "was removed outside the sandbox since the capture began",
            ProblemKind::ChangedMeanwhile => "changed while the commit was under way",
            ProblemKind::OtherDevice => "lies on another file system",
            ProblemKind::NotWritable => "is a directory that you may not write to",
            ProblemKind::DeviceNode => "is a device node, which is never applied",
        };
        write!(formatter, "{} {why}", self.path)
    }
}

/// Problems: the first ones by name, all of them counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Problems {
    /// The first ones.
    pub shown: Vec<Problem>,
    /// How many there are.
    pub total: usize,
}

impl Problems {
    pub(crate) fn push(&mut self, path: &RelPath, kind: ProblemKind) {
        self.total += 1;
        if self.shown.len() < MAX_SHOWN {
            self.shown.push(Problem {
                path: path.clone(),
                kind,
            });
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.total == 0
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.shown.iter().enumerate() {
            write!(formatter, "{}{problem}", if index == 0 { "" } else { "\n" })?;
        }
        match self.total.saturating_sub(self.shown.len()) {
            0 => Ok(()),
            more => write!(formatter, "\nand {more} more"),
        }
    }
}

/// How many entries changed, by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// New entries.
    pub added: u64,
    /// Entries with another content or type.
    pub modified: u64,
    /// Removed entries.
    pub deleted: u64,
    /// Entries of which only the metadata changed.
    pub metadata_only: u64,
}

impl fmt::Display for Summary {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            (self.added, "added"),
            (self.modified, "modified"),
            (self.deleted, "deleted"),
            (self.metadata_only, "with other metadata"),
        ];
        let mut first = true;
        for (count, word) in parts.into_iter().filter(|(count, _)| *count > 0) {
            write!(formatter, "{}{count} {word}", if first { "" } else { ", " })?;
            first = false;
        }
        if first {
            formatter.write_str("nothing changed")
        } else {
            Ok(())
        }
    }
}

/// What a capture holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scan {
    /// The changes, by path.
    pub changes: Vec<Change>,
    /// Remarks.
    pub notes: Vec<Note>,
    /// What a commit will refuse to do, force or not.
    pub blocked: Problems,
}

impl Scan {
    /// Counts the changes.
    #[must_use]
    pub fn summary(&self) -> Summary {
        summarize(&self.changes)
    }
}

pub(crate) fn summarize(changes: &[Change]) -> Summary {
    let mut summary = Summary::default();
    for change in changes {
        let count = match change.kind {
            ChangeKind::Added => &mut summary.added,
            ChangeKind::Modified => &mut summary.modified,
            ChangeKind::Deleted => &mut summary.deleted,
            ChangeKind::MetadataOnly => &mut summary.metadata_only,
        };
        *count += 1;
    }
    summary
}
