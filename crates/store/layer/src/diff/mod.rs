//! Shows a capture's changes as text: a list of names, numbers of lines, or a patch that `git apply` and `patch` take.
//!
//! Names and contents come from an untrusted program: names are always escaped; contents are written as they are for a pipe, or
//! with their control characters escaped for a terminal ([`DiffOptions::escape_controls`]).

mod content;
mod names;
mod patch;
mod stat;

use std::io;

use thiserror::Error;

pub use names::write_names;
pub use patch::write_patch;
pub use stat::write_stat;

use crate::error::{PathIoError, ScanError};

/// How to show contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiffOptions {
    /// Files larger than this, in bytes, are only said to differ.
    pub max_file_bytes: u64,
    /// Escapes control characters in contents, so that they can't drive a terminal.
    pub escape_controls: bool,
}

impl Default for DiffOptions {
    fn default() -> Self {
        // 16 MiB: text that somebody reads is smaller, and two such files with their line tables fit in memory anywhere.
        DiffOptions {
            max_file_bytes: 16 << 20,
            escape_controls: false,
        }
    }
}

/// Changes can't be shown.
#[derive(Debug, Error)]
pub enum DiffError {
    /// A file can't be read.
    #[error(transparent)]
    Io(#[from] PathIoError),
    /// The capture can't be read.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// The output can't be written.
    #[error("can't write the differences")]
    Output(#[from] io::Error),
}
