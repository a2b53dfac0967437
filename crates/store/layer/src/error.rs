//! Errors shared by every operation on a tree: a failed system call with the path it was about.

use std::io;

use thiserror::Error;

use crate::path::RelPath;

/// A system call on one entry failed.
#[derive(Debug, Error)]
#[error("can't {doing} {path}")]
pub struct PathIoError {
    /// What was attempted, as a verb.
    pub doing: &'static str,
    /// The entry, escaped for printing.
    pub path: String,
    /// Why it failed.
    #[source]
    pub source: io::Error,
}

/// A capture can't be read.
#[derive(Debug, Error)]
pub enum ScanError {
    /// A system call failed.
    #[error(transparent)]
    Io(#[from] PathIoError),
    /// An overlay feature that this crate doesn't resolve, and that a `userxattr` mount never writes.
    #[error("{path} carries the overlay attribute {attribute}, which can't be resolved")]
    Unresolvable {
        /// The entry.
        path: RelPath,
        /// The attribute's name.
        attribute: &'static str,
    },
    /// A path longer than any system call takes.
    #[error("a path in the capture is longer than {limit} bytes: {start}…")]
    PathTooLong {
        /// Most bytes in a path.
        limit: usize,
        /// How the path begins, escaped.
        start: String,
    },
    /// More entries than this crate keeps in memory.
    #[error("the capture or what it deletes has more than {limit} entries")]
    TooManyEntries {
        /// Most entries.
        limit: u64,
    },
}

/// Adds to a failed call what was attempted on which path.
pub(crate) trait At<T> {
    /// Turns the error into a [`PathIoError`].
    fn at(self, doing: &'static str, path: &RelPath) -> Result<T, PathIoError>;
    /// The same for a file of the state directory.
    fn at_file(self, doing: &'static str, name: &str) -> Result<T, PathIoError>;
}

impl<T, E: Into<io::Error>> At<T> for Result<T, E> {
    fn at(self, doing: &'static str, path: &RelPath) -> Result<T, PathIoError> {
        self.map_err(|error| PathIoError {
            doing,
            path: path.to_string(),
            source: error.into(),
        })
    }

    fn at_file(self, doing: &'static str, name: &str) -> Result<T, PathIoError> {
        self.map_err(|error| PathIoError {
            doing,
            path: name.to_owned(),
            source: error.into(),
        })
    }
}
