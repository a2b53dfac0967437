//! Writing an upload to disk in large pieces, off the event loop.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use ringwall_agent_proto::rest::WrittenFile;
use rustix::fs::{FileType, Mode, OFlags};
use tokio::task::spawn_blocking;

use super::failure::FileError;
use crate::filesystem::metadata;
use crate::rights::{RightsError, as_user};
use crate::users::User;

/// Bytes gathered before a write.
const BATCH_BYTES: usize = 256 * 1024;

/// A file being written.
#[derive(Debug)]
pub(super) struct Sink {
    user: User,
    path: PathBuf,
    file: File,
    batch: Vec<Bytes>,
    batch_bytes: usize,
}

impl Sink {
    /// Creates or empties a file, with its parents; what is new belongs to the user.
    pub(super) async fn create(path: PathBuf, user: User) -> Result<Self, FileError> {
        let opened = as_user(&user, move || {
            let file = create(&path).map_err(FileError::at(&path))?;
            Ok::<_, FileError>((path, file))
        });
        let (path, file) = opened.await??;
        Ok(Sink {
            user,
            path,
            file,
            batch: Vec::new(),
            batch_bytes: 0,
        })
    }

    /// Takes the next piece.
    pub(super) async fn write(mut self, piece: Bytes) -> Result<Self, FileError> {
        self.batch_bytes = self.batch_bytes.saturating_add(piece.len());
        self.batch.push(piece);
        if self.batch_bytes >= BATCH_BYTES {
            self = self.flush().await?;
        }
        Ok(self)
    }

    async fn flush(mut self) -> Result<Self, FileError> {
        let batch = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        let written = spawn_blocking(move || {
            let mut file = &self.file;
            batch
                .iter()
                .try_for_each(|piece| file.write_all(piece))
                .map_err(FileError::at(&self.path))?;
            Ok(self)
        });
        written.await.map_err(|_| RightsError::Cut)?
    }

    /// Writes the rest and what is stored with the file.
    pub(super) async fn finish(self, stored: BTreeMap<String, String>) -> Result<WrittenFile, FileError> {
        let Sink { user, path, file, .. } = self.flush().await?;
        let stored = as_user(&user, move || {
            metadata::store(&file, &stored).map_err(|source| {
                let path = path.clone();
                if metadata::is_unsupported(&source) {
                    FileError::Metadata { path, source }
                } else {
                    FileError::Io { path, source }
                }
            })?;
            Ok::<_, FileError>((path, stored))
        });
        let (path, stored) = stored.await??;
        let name = path.file_name().unwrap_or_default();
        Ok(WrittenFile {
            name: name.to_string_lossy().into_owned(),
            kind: "file".to_owned(),
            path: path.to_string_lossy().into_owned(),
            metadata: stored,
        })
    }
}

fn create(path: &Path) -> io::Result<File> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    // NONBLOCK: a pipe in the file's place must be an error, not a wait for its reader.
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, Mode::from_raw_mode(0o666))?;
    if FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode) != FileType::RegularFile {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    rustix::fs::ftruncate(&fd, 0)?;
    Ok(File::from(fd))
}
