//! The captured writes of a sandbox: what changed below one directory, shown, applied or thrown away.
//!
//! A sandbox sees a directory (the *target*) through overlayfs: reads come from the target, writes go to `NAME_DIR/upper`.
//! This crate makes that state directory ([`Capture::create`]), says what it holds ([`Capture::is_empty`], [`Capture::scan`],
//! [`diff`]), applies it to the target all-or-nothing ([`Capture::commit`]) or removes it ([`Capture::discard`]).
//!
//! ```text
//!   create --> (sandbox runs, upper fills) --> scan/diff --> commit --> gone
//!                        ^------ next run -------'   '-----> discard -> gone
//! ```
//!
//! Everything below `upper` was written by an untrusted program. Nothing here follows a symlink found in it, recurses on its
//! depth, prints its names raw or opens anything but its regular files and directories.

#![forbid(unsafe_code)]

mod apply;
mod attr;
mod capture;
mod change;
mod commit;
mod copy;
pub mod diff;
mod discard;
mod error;
mod journal;
mod merged;
mod path;
mod plan;
mod recheck;
mod remove;
mod stacks;
mod stage;
mod steps;
mod survey;
mod tree;
mod unlock;
mod upper;
mod usage;
mod xattr;

pub use attr::{FileKind, IdShift};
pub use capture::{Capture, CreateCaptureError, LockHeld, OpenCaptureError, Pending};
pub use change::{Change, ChangeKind, Note, Problem, ProblemKind, Problems, Scan, Summary};
pub use commit::{CommitError, CommitOptions, CommitReport, RollbackCause};
pub use discard::{DiscardError, sweep};
pub use error::{PathIoError, ScanError};
pub use journal::{JournalError, Stripped};
pub use merged::{Found, MergedView};
pub use path::{ParsePathError, RelPath};
pub use remove::remove_hostile_tree;
pub use stacks::{CompareError, Difference, DifferenceKind, compare_stacks};
pub use usage::{Usage, usage_bytes};
