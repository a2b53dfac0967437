//! The tar format, read as a stream: a block at a time, with every length bounded before memory is taken for it.
//!
//! Written here rather than taken from the `tar` crate because that reads GNU and PAX extension headers of any length into memory and
//! splits PAX records at line ends, which cuts binary attribute values apart.

mod block;
mod error;
mod pax;
mod reader;

pub use error::ReadArchiveError;
pub(crate) use reader::{ArchiveReader, EntryKind, Header};
