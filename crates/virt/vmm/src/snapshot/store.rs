//! A snapshot on disk: both files are written beside their places and renamed into them when they are whole, so that a file that other VMs
//! have mapped is never changed under them, and a crash leaves the old snapshot or the new one.
//!
//! A descriptor in place of a path is written to as it is: its file has no other place to be written in first. So it is empty or whole when
//! the VMM says something, and half after a crash.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use ringwall_vmm_proto::{CreateSnapshot, HostPath, Place};
use thiserror::Error;

use super::document::Document;
use super::memory_file::{self, Base, SaveMemoryError, Sources, Written};
use super::state_file;
use crate::files::{Access, Files, OpenFileError};
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
    /// A file can't be had.
    #[error(transparent)]
    Open(#[from] OpenFileError),
    /// A descriptor of a file that must stay as it is.
    #[error("the {what} is the file of {path}, which must not be overwritten: {why}")]
    InUse {
        /// What would be written.
        what: &'static str,
        /// As it was named.
        path: String,
        /// What it is used for.
        why: &'static str,
    },
    /// Both files are one.
    #[error("{memory} and {state} are one file, or one has the name that the other is written under first")]
    Same {
        /// As it was named.
        memory: String,
        /// Likewise.
        state: String,
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

fn at(path: &HostPath) -> impl Fn(io::Error) -> WriteSnapshotError {
    move |source| WriteSnapshotError::File {
        path: path.as_str().into(),
        source,
    }
}

fn partial(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(PARTIAL);
    PathBuf::from(name)
}

/// A snapshot's file until it is whole. Dropped before, nothing of it is left.
#[derive(Debug)]
struct Target<'a> {
    file: File,
    path: &'a HostPath,
    progress: Progress,
}

/// Where the file is while it is written.
#[derive(Debug)]
enum Progress {
    /// Beside its place, under this name.
    Beside(PathBuf),
    /// In a file that was given, and has in it what it had.
    Untouched,
    /// In a file that was given, and is ours to write.
    Emptied,
    /// Where it belongs.
    Placed,
}

impl<'a> Target<'a> {
    fn create(what: &'static str, path: &'a HostPath, files: &Files) -> Result<Self, WriteSnapshotError> {
        let (file, progress) = match path.place() {
            Place::Path(place) => {
                files.reach(what, place)?;
                let partial = partial(place);
                remove_remains(&partial).map_err(at(path))?;
                // A guest's memory is nobody else's business.
                let file = OpenOptions::new()
                    .read(true)
                    .write(true)
                    // Whoever may write to the directory must not choose what is emptied, waited for, or who has it open.
                    .create_new(true)
                    .mode(0o600)
                    .open(&partial)
                    .map_err(|source| match files.failed(what, place, source) {
                        OpenFileError::Open { source, .. } => not_made(path, &partial, source),
                        outside => outside.into(),
                    })?;
                (file, Progress::Beside(partial))
            }
            Place::Descriptor(_) => (files.open(what, path, Access::ReadWrite)?, Progress::Untouched),
        };
        Ok(Target { file, path, progress })
    }

    /// Empties a given file, unless it is one that must stay.
    fn empty(&mut self, what: &'static str, others: &[(&File, &'static str)]) -> Result<(), WriteSnapshotError> {
        let Progress::Untouched = self.progress else {
            return Ok(());
        };
        let ours = self.file.metadata().map_err(at(self.path))?;
        for (other, why) in others {
            let theirs = other.metadata().map_err(at(self.path))?;
            if (ours.dev(), ours.ino()) == (theirs.dev(), theirs.ino()) {
                return Err(WriteSnapshotError::InUse {
                    what,
                    path: self.path.as_str().to_owned(),
                    why,
                });
            }
        }
        self.file.set_len(0).map_err(at(self.path))?;
        self.progress = Progress::Emptied;
        Ok(())
    }

    fn place(mut self) -> Result<(), WriteSnapshotError> {
        if let (Progress::Beside(partial), Place::Path(path)) = (&self.progress, self.path.place()) {
            std::fs::rename(partial, path).map_err(at(self.path))?;
        }
        self.progress = Progress::Placed;
        Ok(())
    }
}

impl Drop for Target<'_> {
    fn drop(&mut self) {
        match &self.progress {
            Progress::Beside(partial) => {
                let _gone = std::fs::remove_file(partial);
            }
            Progress::Emptied => {
                let _half = self.file.set_len(0);
            }
            Progress::Untouched | Progress::Placed => {}
        }
    }
}

/// Removes what an earlier attempt that was killed has left. Anything else stays, and is in the way.
fn remove_remains(partial: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(partial) {
        Ok(about) if about.is_file() => std::fs::remove_file(partial),
        _ => Ok(()),
    }
}

fn not_made(path: &HostPath, partial: &Path, source: io::Error) -> WriteSnapshotError {
    let there = std::fs::symlink_metadata(partial);
    match (source.kind(), there) {
        (io::ErrorKind::AlreadyExists, Ok(there)) => WriteSnapshotError::Taken {
            partial: partial.to_owned(),
            is: kind_name(there.file_type()),
        },
        _ => at(path)(source),
    }
}

/// A file's directory, as far as it can be looked at, and its name there: the same for every spelling of its path.
fn name_of(path: &Path) -> (Option<(u64, u64)>, PathBuf) {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = std::fs::metadata(folder.unwrap_or(Path::new("."))).ok();
    let name = path.file_name().map_or_else(|| path.to_owned(), PathBuf::from);
    (folder.map(|folder| (folder.dev(), folder.ino())), name)
}

/// Whether neither file is the other, or stands where the other is written first.
fn check_names(wanted: &CreateSnapshot) -> Result<(), WriteSnapshotError> {
    let (Place::Path(memory), Place::Path(state)) = (wanted.mem_file_path.place(), wanted.snapshot_path.place()) else {
        return Ok(());
    };
    let [memory, memory_first] = [name_of(memory), name_of(&partial(memory))];
    let [state, state_first] = [name_of(state), name_of(&partial(state))];
    if memory == state || memory == state_first || memory_first == state {
        return Err(WriteSnapshotError::Same {
            memory: wanted.mem_file_path.as_str().to_owned(),
            state: wanted.snapshot_path.as_str().to_owned(),
        });
    }
    Ok(())
}

/// Both files, made and empty. `disks` are the files that drives have by descriptors.
fn targets<'a>(
    machine: &Machine,
    wanted: &'a CreateSnapshot,
    files: &Files,
    disks: &[File],
) -> Result<(Target<'a>, Target<'a>), WriteSnapshotError> {
    check_names(wanted)?;
    let mut memory = Target::create("memory file", &wanted.mem_file_path, files)?;
    let mut state = Target::create("state file", &wanted.snapshot_path, files)?;
    let mut others: Vec<(&File, &'static str)> = disks.iter().map(|disk| (disk, "it is a drive of this VM")).collect();
    if let Base::File(base) = machine.base() {
        others.push((base, "this VM's memory is in it"));
    }
    memory.empty("memory file", &others)?;
    others.push((&memory.file, "it is the memory file, too"));
    state.empty("state file", &others)?;
    Ok((memory, state))
}

/// Writes a full snapshot of a paused machine, whose `document` was saved just now. Both files are on the disk when it returns.
///
/// # Errors
/// See [`WriteSnapshotError`]; files that were there before are as they were, or the memory file is the new one. Given files are empty.
pub fn write_full(
    machine: &Machine,
    document: &Document,
    wanted: &CreateSnapshot,
    files: &Files,
    disks: &[File],
) -> Result<Written, WriteSnapshotError> {
    let (memory, state) = targets(machine, wanted, files, disks)?;
    let sources = Sources {
        pagemap: machine.pagemap(),
        base: machine.base(),
    };
    let written = memory_file::write_full(machine.memory(), &sources, &memory.file)?;
    finish(memory, document, state)?;
    if machine.options().memory.track_dirty {
        // Nothing is written meanwhile. Should it fail, the next difference has more than it must.
        let _larger = machine.forget_dirty();
    }
    Ok(written)
}

/// Writes a snapshot of what changed since the last one. The machine must track its dirty pages.
///
/// # Errors
/// See [`WriteSnapshotError`].
pub fn write_difference(
    machine: &Machine,
    document: &Document,
    wanted: &CreateSnapshot,
    files: &Files,
    disks: &[File],
) -> Result<Written, WriteSnapshotError> {
    let (memory, state) = targets(machine, wanted, files, disks)?;
    let written = memory_file::write_dirty(machine.memory(), &memory.file, |base, pages| {
        machine.take_dirty(base, pages).map_err(|source| SaveMemoryError {
            what: "reading the log of changed pages",
            source,
        })
    })?;
    finish(memory, document, state)?;
    machine.saved_dirty();
    Ok(written)
}

fn finish(memory: Target<'_>, document: &Document, mut state: Target<'_>) -> Result<(), WriteSnapshotError> {
    let bytes = state_file::encode(document).map_err(WriteSnapshotError::Document)?;
    state.file.write_all(&bytes).map_err(at(state.path))?;
    memory.file.sync_data().map_err(at(memory.path))?;
    state.file.sync_data().map_err(at(state.path))?;
    memory.place()?;
    state.place()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_snapshots_file_is_never_made_through_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let (precious, path) = (folder.path().join("precious"), folder.path().join("memory"));
        let place = HostPath::new("mem_file_path", path.display().to_string()).unwrap();
        let create = || Target::create("memory file", &place, &Files::default());
        std::fs::write(&precious, "precious").unwrap();
        symlink(&precious, partial(&path)).unwrap();
        assert!(create().is_err());
        assert_eq!(std::fs::read(&precious).unwrap(), b"precious");
        // A link in the file's own place is replaced, and what it leads to is as it was.
        std::fs::remove_file(partial(&path)).unwrap();
        symlink(&precious, &path).unwrap();
        let mut file = create().unwrap();
        file.file.write_all(b"new").unwrap();
        file.place().unwrap();
        assert_eq!(std::fs::read(&precious).unwrap(), b"precious");
        assert_eq!(
            std::fs::read_link(&path).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn a_pipe_in_the_way_is_named_and_not_written_to() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let place = HostPath::new("snapshot_path", path.display().to_string()).unwrap();
        let create = || Target::create("state file", &place, &Files::default());
        let pipe = folder.path().join("state.partial");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RWXU).unwrap();
        let error = create().unwrap_err();
        let wanted = format!("{} is a named pipe; nothing may be there", pipe.display());
        assert_eq!(error.to_string(), wanted);
        std::fs::remove_file(&pipe).unwrap();
        create().unwrap().place().unwrap();
        assert!(path.exists() && !pipe.exists());
    }
}
