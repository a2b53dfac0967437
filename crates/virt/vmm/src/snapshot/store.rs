//! A snapshot on disk: both files are written beside their places and renamed into them when they are whole, so that a file that other VMs
//! have mapped is never changed under them, and a crash leaves the old snapshot or the new one.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use thiserror::Error;

use super::document::Document;
use super::memory_file::{self, SaveMemoryError, Sources, Written};
use super::state_file;
use crate::machine::Machine;
use crate::open::kind_name;

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
    /// What would be written before it is put in its place can't be made, because there is something else.
    #[error("{partial} is {is}; nothing may be there")]
    Taken {
        /// The path.
        partial: PathBuf,
        /// What is there.
        is: &'static str,
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
            // Whoever may write to the directory must not choose what is emptied, or what is waited for.
            .custom_flags(
                (OFlags::NOFOLLOW | OFlags::NONBLOCK)
                    .bits()
                    .try_into()
                    .unwrap_or_default(),
            )
            .open(&partial)
            .map_err(at(path))?;
        let kind = file.metadata().map_err(at(path))?.file_type();
        if !kind.is_file() {
            let is = kind_name(kind);
            return Err(WriteSnapshotError::Taken { partial, is });
        }
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
    use super::*;

    #[test]
    fn a_pipe_in_the_way_is_named_and_not_written_to() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let pipe = folder.path().join("state.partial");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RWXU).unwrap();
        let error = Beside::create(&path).err().unwrap();
        let wanted = format!("{} is a named pipe; nothing may be there", pipe.display());
        assert_eq!(error.to_string(), wanted);
        std::fs::remove_file(&pipe).unwrap();
        Beside::create(&path).unwrap().place().unwrap();
        assert!(path.exists() && !pipe.exists());
    }
}
