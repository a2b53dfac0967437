//! Trees that don't come from a registry: an archive in a file, or a directory of this machine.

mod content;
mod from_dir;
mod from_tar;

pub use from_dir::{Copied, CopyTreeError, Skipped, from_dir};
pub use from_tar::from_tar;
