//! Why an archive isn't unpacked.

use std::io;

use thiserror::Error;

use crate::archive::ReadArchiveError;
use crate::name::{EntryName, MAX_DEPTH, MAX_PATH_BYTES};

/// An archive can't be unpacked. What was unpacked before stays; the caller throws the directory away.
#[derive(Debug, Error)]
pub enum UnpackError {
    /// An entry that must not be unpacked.
    #[error("{entry}: {refusal}")]
    Refused {
        /// The entry.
        entry: EntryName,
        /// Why.
        refusal: Refusal,
    },
    /// The archive itself is malformed.
    #[error(transparent)]
    Archive(#[from] ReadArchiveError),
    /// The archive is damaged or cut off within an entry.
    #[error("{entry} can't be read from the archive")]
    Content {
        /// The entry.
        entry: EntryName,
        /// How.
        #[source]
        source: ReadArchiveError,
    },
    /// A system call failed.
    #[error("can't {doing} {entry}")]
    Io {
        /// What was attempted, as a verb.
        doing: &'static str,
        /// The entry.
        entry: EntryName,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

/// Why an entry must not be unpacked.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// No path at all.
    #[error("the path is empty")]
    EmptyPath,
    /// A path from the root of the file system.
    #[error("the path is absolute")]
    AbsolutePath,
    /// A path that climbs.
    #[error("the path contains \"..\"")]
    ParentComponent,
    /// A path no system call takes.
    #[error("the path contains a NUL byte")]
    NulInPath,
    /// A path no system call takes.
    #[error("the path has {bytes} bytes; {MAX_PATH_BYTES} are allowed")]
    PathTooLong {
        /// Its length.
        bytes: usize,
    },
    /// A name no file system takes.
    #[error("a name in the path has {bytes} bytes; 255 are allowed")]
    NameTooLong {
        /// Its length.
        bytes: usize,
    },
    /// A path deeper than any in use.
    #[error("the path is deeper than {MAX_DEPTH} directories")]
    TooDeep,
    /// The root as something else than a directory.
    #[error("the root of the tree can only be a directory")]
    Root,
    /// In a plain archive: an entry below a symlink.
    #[error("the path passes through a symbolic link")]
    ThroughSymlink,
    /// In a layer: an entry below a link that resolves to nothing.
    #[error("the path passes through a symbolic link that leads nowhere")]
    DanglingSymlink,
    /// An entry below something that is no directory.
    #[error("the path passes through a file that is no directory")]
    ParentIsNoDirectory,
    /// An entry below a mount.
    #[error("the path leads into another file system")]
    OtherFileSystem,
    /// A device node.
    #[error("device nodes are refused")]
    Device,
    /// A named pipe.
    #[error("named pipes are refused")]
    Fifo,
    /// A file with holes, in a form that only some tars know.
    #[error("sparse files are refused")]
    Sparse,
    /// An entry of a type that isn't known.
    #[error("the type {kind:#04x} isn't known")]
    Unknown {
        /// The type in the header.
        kind: u8,
    },
    /// Content where none can be.
    #[error("{kind} can't have {bytes} bytes of content")]
    Content {
        /// What it is.
        kind: &'static str,
        /// How much it claims.
        bytes: u64,
    },
    /// A link to nowhere.
    #[error("the link has no target")]
    EmptyLink,
    /// A link whose target is longer than a path can be.
    #[error("the link's target has {bytes} bytes; {limit} are allowed")]
    LinkTooLong {
        /// Its length.
        bytes: usize,
        /// Most bytes.
        limit: usize,
    },
    /// A link whose target can't be.
    #[error("the link's target contains a NUL byte")]
    NulInLink,
    /// A hard link whose target isn't a path below the root.
    #[error("the hard link's target {target} leads out of the tree")]
    HardlinkOutside {
        /// The target.
        target: EntryName,
    },
    /// A hard link to something that isn't there.
    #[error("the hard link's target {target} doesn't exist")]
    HardlinkMissing {
        /// The target.
        target: EntryName,
    },
    /// A hard link to something else than a regular file.
    #[error("the hard link's target {target} is no regular file")]
    HardlinkNoFile {
        /// The target.
        target: EntryName,
    },
    /// A hard link to itself.
    #[error("the hard link points at itself")]
    HardlinkSelf,
    /// A whiteout that names nothing, or something else than an entry.
    #[error("the whiteout names no entry")]
    WhiteoutName,
    /// A whiteout used as a directory.
    #[error("the path passes through a whiteout")]
    ThroughWhiteout,
    /// A whiteout that isn't a file.
    #[error("a whiteout can only be a file")]
    WhiteoutKind,
    /// An owner that no container has.
    #[error("the owner {uid}:{gid} is out of range; ids up to 65535 are allowed")]
    Owner {
        /// Its user id.
        uid: u64,
        /// Its group id.
        gid: u64,
    },
    /// More entries than allowed.
    #[error("the archive has more than {limit} entries")]
    TooManyEntries {
        /// Most entries.
        limit: u64,
    },
    /// Longer names than can be kept.
    #[error("the names in the archive have more than {limit} bytes")]
    TooManyNames {
        /// Most bytes.
        limit: u64,
    },
    /// More bytes than allowed.
    #[error("the archive unpacks to more than {limit} bytes")]
    TooManyBytes {
        /// Most bytes.
        limit: u64,
    },
    /// A larger file than allowed.
    #[error("the file has {bytes} bytes; {limit} are allowed")]
    FileTooLarge {
        /// Its size.
        bytes: u64,
        /// Most bytes.
        limit: u64,
    },
}

/// Adds to a failed call what was attempted on which entry.
pub(crate) trait At<T> {
    /// Turns the error into an [`UnpackError::Io`].
    fn at(self, doing: &'static str, entry: &[u8]) -> Result<T, UnpackError>;
}

impl<T, E: Into<io::Error>> At<T> for Result<T, E> {
    fn at(self, doing: &'static str, entry: &[u8]) -> Result<T, UnpackError> {
        self.map_err(|error| UnpackError::Io {
            doing,
            entry: EntryName::new(entry),
            source: error.into(),
        })
    }
}
