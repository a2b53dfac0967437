//! Entry points for fuzzers: not part of the interface.

use crate::archive::ReadArchiveError;
use crate::decompress::decompress;
use crate::limits::Limits;
use crate::unpack::{ArchiveKind, Owners, UnpackError, unpack};

/// Limits small enough for thousands of runs a second.
const TINY: Limits = Limits {
    entries: 64,
    bytes: 256 * 1024,
    file_bytes: 64 * 1024,
    ratio: 50,
    ratio_floor: 128 * 1024,
};

/// Unpacks `data` into the empty directory `into`, twice: as a plain archive, and over that as a layer.
///
/// # Errors
/// What either said; a fuzzer looks only at what else happened.
pub fn fuzz_unpack_into(data: &[u8], into: &std::path::Path) -> Result<(), UnpackError> {
    let mut results = Vec::new();
    for kind in [ArchiveKind::Plain, ArchiveKind::OciLayer] {
        let reader = decompress(data, &TINY).map_err(|error| ReadArchiveError::from_io(error, 0))?;
        results.push(unpack(reader, into, kind, Owners::Caller, &TINY));
    }
    results.into_iter().collect::<Result<Vec<_>, _>>().map(|_| ())
}

/// Unpacks `data` in a fresh temporary directory, which is removed again.
pub fn fuzz_unpack(data: &[u8]) {
    use std::sync::atomic::{AtomicU64, Ordering};
    static RUNS: AtomicU64 = AtomicU64::new(0);
    let run = RUNS.fetch_add(1, Ordering::Relaxed);
    let directory = std::env::temp_dir().join(format!("ringwall-fuzz-{}-{run}", std::process::id()));
    if std::fs::create_dir(&directory).is_ok() {
        drop(fuzz_unpack_into(data, &directory));
        drop(std::fs::remove_dir_all(&directory));
    }
}
