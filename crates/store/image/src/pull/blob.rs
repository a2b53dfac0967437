//! The cache of blobs: `CACHE/sha256/HEX`, each complete and checked before it gets that name.
//!
//! A download goes to a name of its own and is renamed when its digest matches, so that a crash leaves no half blob behind and two
//! pulls of the same one don't meet. A blob found in the cache is hashed again: a damaged one is fetched anew.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::AsyncWriteExt as _;

use crate::digest::{Digest, Hasher, HashingReader};
use crate::pull::manifest::Descriptor;
use crate::pull::registry::Registry;
use crate::pull::{Progress, PullError};

/// Names of unfinished downloads begin with this.
const PARTIAL: &str = "partial-";
/// Age at which an unfinished download is taken for a crashed one's.
const STALE_SECONDS: u64 = 24 * 60 * 60;

/// Where blobs are kept.
#[derive(Debug, Clone)]
pub(crate) struct Cache {
    directory: PathBuf,
}

trait AtPath<T> {
    fn at(self, doing: &'static str, path: &Path) -> Result<T, PullError>;
}

impl<T> AtPath<T> for io::Result<T> {
    fn at(self, doing: &'static str, path: &Path) -> Result<T, PullError> {
        self.map_err(|source| PullError::Cache {
            doing,
            path: path.to_owned(),
            source,
        })
    }
}

/// Removes an unfinished download, also when the pull is dropped in the middle.
struct Partial {
    path: PathBuf,
    is_kept: bool,
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.is_kept {
            // What stays is swept by a later pull.
            drop(fs::remove_file(&self.path));
        }
    }
}

impl Cache {
    /// Opens the cache in `directory`, makes it if need be, and sweeps what crashed pulls left.
    pub(crate) fn open(directory: &Path) -> Result<Self, PullError> {
        let directory = directory.join("sha256");
        fs::create_dir_all(&directory).at("make", &directory)?;
        for entry in fs::read_dir(&directory).at("list", &directory)?.flatten() {
            let is_partial = entry.file_name().as_encoded_bytes().starts_with(PARTIAL.as_bytes());
            let age = entry
                .metadata()
                .and_then(|meta| meta.modified())
                .ok()
                .and_then(|time| time.elapsed().ok());
            if is_partial && age.is_some_and(|age| age.as_secs() > STALE_SECONDS) {
                drop(fs::remove_file(entry.path()));
            }
        }
        Ok(Cache { directory })
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.directory.join(digest.hex())
    }

    /// Opens a blob that was fetched before.
    pub(crate) fn open_blob(&self, digest: &Digest) -> Result<File, PullError> {
        let path = self.path(digest);
        File::open(&path).at("open", &path)
    }

    /// Whether the blob is there, and is what its name says. Reads all of it.
    fn is_present(&self, blob: &Descriptor) -> Result<bool, PullError> {
        let path = self.path(&blob.digest);
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            other => other.at("open", &path)?,
        };
        if file.metadata().at("stat", &path)?.len() != blob.size {
            return Ok(false);
        }
        let mut reader = HashingReader::new(file);
        io::copy(&mut reader, &mut io::sink()).at("read", &path)?;
        Ok(reader.finish() == blob.digest)
    }

    /// Makes sure that a blob is in the cache, by downloading it if it isn't.
    pub(crate) async fn fetch(
        &self,
        registry: &Registry,
        blob: &Descriptor,
        progress: &dyn Progress,
    ) -> Result<(), PullError> {
        let (cache, wanted) = (self.clone(), blob.clone());
        let present = tokio::task::spawn_blocking(move || cache.is_present(&wanted)).await;
        if present.map_err(|_| PullError::Interrupted)?? {
            return Ok(());
        }
        self.download(registry, blob, progress).await
    }

    async fn download(&self, registry: &Registry, blob: &Descriptor, progress: &dyn Progress) -> Result<(), PullError> {
        static DOWNLOADS: AtomicU64 = AtomicU64::new(0);
        let Descriptor { digest, size } = blob;
        let number = DOWNLOADS.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PARTIAL}{}-{number}-{}", std::process::id(), digest.hex());
        let mut response = registry.blob(digest).await?;
        let mut partial = Partial {
            path: self.directory.join(name),
            is_kept: false,
        };
        let file = File::options().write(true).create_new(true).open(&partial.path);
        let mut file = tokio::fs::File::from_std(file.at("make", &partial.path)?);
        progress.started(digest, *size);
        let mut hasher = Hasher::default();
        let mut received = 0_u64;
        while let Some(chunk) = response.chunk().await.map_err(|error| registry.http(error))? {
            received = received.saturating_add(chunk.len() as u64);
            if received > *size {
                break;
            }
            hasher.update(&chunk);
            file.write_all(&chunk).await.at("write", &partial.path)?;
            progress.advanced(digest, chunk.len() as u64);
        }
        if received != *size {
            return Err(PullError::Size {
                what: "blob",
                digest: digest.clone(),
                wanted: *size,
                found: received,
            });
        }
        let found = hasher.finish();
        if found != *digest {
            return Err(PullError::Mismatch {
                what: "blob",
                wanted: digest.clone(),
                found,
            });
        }
        // A power cut must not leave a file of the right length without its content under the final name; but then the next pull
        // hashes it anyway, so there is no sync here.
        file.flush().await.at("write", &partial.path)?;
        drop(file);
        let path = self.path(digest);
        fs::rename(&partial.path, &path).at("rename", &path)?;
        partial.is_kept = true;
        progress.finished(digest);
        Ok(())
    }
}
