//! A snapshot on disk: both files are written beside their places and renamed into them when they are whole, so that a file that other VMs
//! have mapped is never changed under them, and a crash leaves the old snapshot or the new one.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::document::Document;
use super::memory_file::{self, SaveMemoryError, Sources, Written};
use super::state_file;
use crate::machine::Machine;

/// What a file's name ends in while it is being written.
const PARTIAL: &str = ".partial";

/// A snapshot that was not written.
#[derive(Debug, Error)]
pub enum WriteSnapshotError {
    /// A file.
    #[error("can't write {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Memory.
    #[error(transparent)]
    Memory(#[from] SaveMemoryError),
    /// The document; a defect of ours.
    #[error("the state can't be written down")]
    Document(#[source] serde_json::Error),
}

fn at(path: &Path) -> impl Fn(io::Error) -> WriteSnapshotError {
    move |source| WriteSnapshotError::File {
        path: path.to_owned(),
        source,
    }
}

fn partial(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(PARTIAL);
    PathBuf::from(name)
}

/// A file that is removed unless it is put in its place.
struct Beside<'a> {
    file: File,
    partial: PathBuf,
    path: &'a Path,
    is_placed: bool,
}

impl<'a> Beside<'a> {
    fn create(path: &'a Path) -> Result<Self, WriteSnapshotError> {
        let partial = partial(path);
        // A guest's memory is nobody else's business.
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            // Whoever may write to the directory must not choose what is emptied.
            .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().try_into().unwrap_or_default())
            .open(&partial)
            .map_err(at(path))?;
        Ok(Beside {
            file,
            partial,
            path,
            is_placed: false,
        })
    }

    fn place(mut self) -> Result<(), WriteSnapshotError> {
        std::fs::rename(&self.partial, self.path).map_err(at(self.path))?;
        self.is_placed = true;
        Ok(())
    }
}

impl Drop for Beside<'_> {
    fn drop(&mut self) {
        if !self.is_placed {
            let _gone = std::fs::remove_file(&self.partial);
        }
    }
}

/// Writes a full snapshot of a paused machine, whose `document` was saved just now. Both files are on the disk when it returns.
///
/// # Errors
/// See [`WriteSnapshotError`]; files that were there before are as they were, or the memory file is the new one.
pub fn write_full(
    machine: &Machine,
    document: &Document,
    state: &Path,
    memory: &Path,
) -> Result<Written, WriteSnapshotError> {
    let memory_file = Beside::create(memory)?;
    let sources = Sources {
        pagemap: machine.pagemap(),
        base: machine.base(),
    };
    let written = memory_file::write_full(machine.memory(), &sources, &memory_file.file)?;
    if machine.options().memory.track_dirty {
        machine.forget_dirty().map_err(|source| SaveMemoryError {
            what: "clearing the log of changed pages",
            source,
        })?;
    }
    finish(memory_file, document, state)?;
    Ok(written)
}

/// Writes a snapshot of what changed since the last one. The machine must track its dirty pages.
///
/// # Errors
/// See [`WriteSnapshotError`].
pub fn write_difference(
    machine: &Machine,
    document: &Document,
    state: &Path,
    memory: &Path,
) -> Result<Written, WriteSnapshotError> {
    let memory_file = Beside::create(memory)?;
    let written = memory_file::write_dirty(machine.memory(), &memory_file.file, |base, pages| {
        machine.take_dirty(base, pages).map_err(|source| SaveMemoryError {
            what: "reading the log of changed pages",
            source,
        })
    })?;
    finish(memory_file, document, state)?;
    Ok(written)
}

fn finish(memory: Beside<'_>, document: &Document, state: &Path) -> Result<(), WriteSnapshotError> {
    let bytes = state_file::encode(document).map_err(WriteSnapshotError::Document)?;
    let mut state_file = Beside::create(state)?;
    state_file.file.write_all(&bytes).map_err(at(state))?;
    memory.file.sync_data().map_err(at(memory.path))?;
    state_file.file.sync_data().map_err(at(state))?;
    memory.place()?;
    state_file.place()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_snapshots_file_is_never_made_through_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let (precious, path) = (folder.path().join("precious"), folder.path().join("memory"));
        std::fs::write(&precious, "precious").unwrap();
        symlink(&precious, partial(&path)).unwrap();
        assert!(Beside::create(&path).is_err());
        assert_eq!(std::fs::read(&precious).unwrap(), b"precious");
        // A link in the file's own place is replaced, and what it leads to is as it was.
        std::fs::remove_file(partial(&path)).unwrap();
        symlink(&precious, &path).unwrap();
        let mut file = Beside::create(&path).unwrap();
        file.file.write_all(b"new").unwrap();
        file.place().unwrap();
        assert_eq!(std::fs::read(&precious).unwrap(), b"precious");
        assert_eq!(
            std::fs::read_link(&path).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
    }
}
