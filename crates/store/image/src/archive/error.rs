//! Why a stream is no archive that can be read.

use std::io;

use thiserror::Error;

use crate::decompress::DecompressError;

/// A stream isn't a well-formed archive. Offsets are in bytes of the uncompressed stream.
#[derive(Debug, Error)]
pub enum ReadArchiveError {
    /// It ends in the middle of something.
    #[error("the archive is cut off at byte {offset}")]
    Truncated {
        /// Where it ends.
        offset: u64,
    },
    /// It ends without the two empty blocks that end every archive.
    #[error("the archive has no end mark: it may be cut off")]
    NoEndMark,
    /// A header doesn't match its checksum.
    #[error("the header at byte {offset} doesn't match its checksum")]
    Checksum {
        /// Where the header begins.
        offset: u64,
    },
    /// A field of a header is no number.
    #[error("the header at byte {offset} has a malformed {field}")]
    Field {
        /// Where the header begins.
        offset: u64,
        /// Which field.
        field: &'static str,
    },
    /// An extension header that would take too much memory.
    #[error("the extension header at byte {offset} has {bytes} bytes; {limit} are allowed")]
    ExtensionTooLong {
        /// Where the header begins.
        offset: u64,
        /// How long it says it is, in bytes.
        bytes: u64,
        /// Most bytes.
        limit: u64,
    },
    /// A PAX header whose records make no sense.
    #[error("the PAX header at byte {offset} is malformed")]
    Pax {
        /// Where the header begins.
        offset: u64,
    },
    /// Extension headers without an end.
    #[error("the header at byte {offset} follows {limit} extension headers without an entry")]
    TooManyExtensions {
        /// Where the header begins.
        offset: u64,
        /// Most in a row.
        limit: u32,
    },
    /// An extension header with nothing after it that it could describe.
    #[error("the archive ends with an extension header")]
    DanglingExtension,
    /// It can't be decompressed, or unpacks to far more than it should.
    #[error(transparent)]
    Decompress(DecompressError),
    /// Reading failed.
    #[error("can't read the archive")]
    Read(#[source] io::Error),
}

impl ReadArchiveError {
    /// Sorts an error of the stream: cut off, refused by the decompressor, or a failure to read.
    pub(crate) fn from_io(error: io::Error, offset: u64) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return ReadArchiveError::Truncated { offset };
        }
        match error.downcast::<DecompressError>() {
            Ok(error) => ReadArchiveError::Decompress(error),
            Err(error) => ReadArchiveError::Read(error),
        }
    }
}
