//! A root file system in a tar file, plain or compressed.

use std::fs::File;
use std::path::Path;

use crate::archive::ReadArchiveError;
use crate::decompress::decompress;
use crate::limits::Limits;
use crate::unpack::error::At as _;
use crate::unpack::{ArchiveKind, Owners, UnpackError, Unpacked, unpack};

/// Unpacks the tar file `path` (plain, gzip or zstd, told by its content) into the existing directory `into`.
///
/// # Errors
/// [`UnpackError`], as for [`unpack`]. The directory should then be thrown away.
pub fn from_tar(path: &Path, into: &Path, owners: Owners, limits: &Limits) -> Result<Unpacked, UnpackError> {
    let file = File::open(path).at("open", path.as_os_str().as_encoded_bytes())?;
    let reader = decompress(file, limits).map_err(|error| ReadArchiveError::from_io(error, 0))?;
    unpack(reader, into, ArchiveKind::Plain, owners, limits)
}
