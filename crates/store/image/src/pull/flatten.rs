//! Flattens layers into one tree: each blob decompressed, its plain archive hashed on the way, and unpacked over those before it.

use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::archive::ReadArchiveError;
use crate::decompress::decompress;
use crate::digest::{Digest, HashingReader};
use crate::limits::Limits;
use crate::pull::PullError;
use crate::pull::blob::Cache;
use crate::unpack::{ArchiveKind, Owners, UnpackError, Unpacked, unpack};

/// Most bytes after an archive's end mark; tars pad to 10 KiB, or to some other record size.
const MAX_TRAILER_BYTES: u64 = 16 * 1024 * 1024;

/// A layer: the blob's digest, and that of the plain archive in it.
#[derive(Debug, Clone)]
pub(crate) struct Layer {
    pub(crate) blob: Digest,
    pub(crate) diff_id: Digest,
}

/// Stops the work when dropped: a pull that is given up must not go on writing.
#[derive(Debug, Default)]
pub(crate) struct StopGuard(pub(crate) Arc<AtomicBool>);

impl Drop for StopGuard {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Fails once the work is to stop.
struct Stoppable<R> {
    reader: R,
    stop: Arc<AtomicBool>,
}

impl<R: Read> Read for Stoppable<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(io::Error::other("given up"));
        }
        self.reader.read(buffer)
    }
}

/// Unpacks all layers into `into`, lowest first.
pub(crate) fn flatten(
    cache: &Cache,
    layers: &[Layer],
    into: &Path,
    owners: Owners,
    limits: &Limits,
    stop: &Arc<AtomicBool>,
) -> Result<Unpacked, PullError> {
    let mut total = Unpacked::default();
    for layer in layers {
        let failed = |source: UnpackError| PullError::Unpack {
            digest: layer.blob.clone(),
            source,
        };
        let reader = Stoppable {
            reader: cache.open_blob(&layer.blob)?,
            stop: Arc::clone(stop),
        };
        let left = limits.after(total.entries, total.bytes);
        let plain = decompress(reader, &left).map_err(|error| failed(ReadArchiveError::from_io(error, 0).into()))?;
        let mut plain = HashingReader::new(plain);
        let unpacked = unpack(&mut plain, into, ArchiveKind::OciLayer, owners, &left).map_err(failed)?;
        let trailer = io::copy(&mut plain.by_ref().take(MAX_TRAILER_BYTES), &mut io::sink());
        let trailer = trailer.map_err(|error| failed(ReadArchiveError::from_io(error, 0).into()))?;
        if trailer == MAX_TRAILER_BYTES {
            return Err(PullError::TooLong {
                what: "rest of the layer after its end mark",
                limit: MAX_TRAILER_BYTES,
            });
        }
        let found = plain.finish();
        if found != layer.diff_id {
            return Err(PullError::Mismatch {
                what: "unpacked layer",
                wanted: layer.diff_id.clone(),
                found,
            });
        }
        total.entries = total.entries.saturating_add(unpacked.entries);
        total.bytes = total.bytes.saturating_add(unpacked.bytes);
        total.dropped.set_id += unpacked.dropped.set_id;
        total.dropped.attributes += unpacked.dropped.attributes;
        total.dropped.markers += unpacked.dropped.markers;
    }
    Ok(total)
}
