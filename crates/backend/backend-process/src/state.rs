//! What outlives a process: one directory per sandbox name, with a lock, a record and the layer.
//!
//! `STATE/NAME/` holds `lock` (held by flock(2) for as long as the keeper, or a command on the name, lives), `record.json`, the layer's
//! files, and `output.log` where asked for. A name whose lock is free but whose record says nothing of an end was interrupted:
//! `ringwall gc` and the next use of the name clean up after it. Nothing here is synced to disk: what must survive a power cut is
//! committed, and that syncs.

use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ringwall_types::{SandboxName, Tier};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::kill_tree;

/// Longest record read, in bytes.
const MAX_RECORD_BYTES: u64 = 1 << 20;
/// Times a lock is asked for, and the pause between: somebody who only looks (`ringwall ps`) holds it for a moment.
const PATIENCE: u32 = 20;
const PAUSE: Duration = Duration::from_millis(2);
/// Times a lock is tried again when the directory was removed under it.
const MAX_TRIES: u32 = 16;

/// The state directory can't be used as asked.
#[derive(Debug, Error)]
pub enum OpenStateError {
    /// No place is known.
    #[error("no state directory: set RINGWALL_STATE_DIR, XDG_STATE_HOME or HOME to an absolute path")]
    NoPlace,
    /// A file or directory can't be made or read.
    #[error("can't use {}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It belongs to somebody else or others may write to it.
    #[error("{} must belong to you and be writable by nobody else", path.display())]
    Unsafe {
        /// Which.
        path: PathBuf,
    },
    /// The name is in use.
    #[error("{name} is running or being worked on")]
    Busy {
        /// Which.
        name: SandboxName,
    },
    /// There is no such name.
    #[error("there is no sandbox named {name}")]
    Unknown {
        /// Which.
        name: SandboxName,
    },
}

/// Whether a stored sandbox runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunState {
    /// Its keeper lives.
    Running,
    /// Its last run ended.
    Ended,
    /// Its keeper died without a word.
    Interrupted,
}

/// What is written down about the last run of a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Version of this shape: 1.
    pub version: u32,
    /// The keeper's pid.
    pub keeper: i32,
    /// When the keeper started, in clock ticks since boot.
    pub keeper_start: u64,
    /// The first process of the sandbox, in the landlock tier and of a sandbox that serves; 0 elsewhere.
    pub init: i32,
    /// When the first process started, in clock ticks since boot.
    pub init_start: u64,
    /// The tier.
    pub tier: Tier,
    /// The command, lossily as text.
    pub command: Vec<String>,
    /// When the run started, milliseconds since 1970.
    pub started_ms: u64,
    /// Control groups made for it.
    pub cgroups: Vec<PathBuf>,
    /// What is to become of its changes: `keep`, `commit`, `discard` or `none`.
    pub changes: String,
    /// How the run ended: the exit reason as JSON; absent while it runs.
    pub ended: Option<serde_json::Value>,
}

/// The directory of all of this user's sandboxes.
#[derive(Debug, Clone)]
pub struct StateDir {
    path: PathBuf,
}

/// One name, locked.
#[derive(Debug)]
pub struct StoredSandbox {
    name: SandboxName,
    path: PathBuf,
    lock: OwnedFd,
}

fn at(path: &Path) -> impl FnOnce(Errno) -> OpenStateError + '_ {
    move |error| OpenStateError::Io {
        path: path.to_owned(),
        source: error.into(),
    }
}

impl StateDir {
    /// Finds the place: `RINGWALL_STATE_DIR`, else `ringwall` in `XDG_STATE_HOME`, else `.local/state/ringwall` in `HOME`.
    ///
    /// # Errors
    /// [`OpenStateError::NoPlace`] when none of them is an absolute path.
    pub fn locate(variable: impl Fn(&str) -> Option<PathBuf>) -> Result<Self, OpenStateError> {
        let absolute = |name: &str| variable(name).filter(|path| path.is_absolute());
        let path = absolute("RINGWALL_STATE_DIR")
            .or_else(|| Some(absolute("XDG_STATE_HOME")?.join("ringwall")))
            .or_else(|| Some(absolute("HOME")?.join(".local/state/ringwall")))
            .ok_or(OpenStateError::NoPlace)?;
        Ok(StateDir { path })
    }

    /// Takes a directory of the caller's choice, for sandboxes that are kept apart from those of `ringwall run`.
    #[must_use]
    pub fn at(path: PathBuf) -> Self {
        StateDir { path }
    }

    /// Returns its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the directory, if it is missing, and checks that nobody else can change it.
    fn prepare(&self) -> Result<(), OpenStateError> {
        let stat = match rustix::fs::lstat(&self.path) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => {
                if let Some(parent) = self.path.parent() {
                    fs::create_dir_all(parent).map_err(|source| OpenStateError::Io {
                        path: parent.to_owned(),
                        source,
                    })?;
                }
                match rustix::fs::mkdir(&self.path, Mode::RWXU) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(at(&self.path)(error)),
                }
                rustix::fs::stat(&self.path).map_err(at(&self.path))?
            }
            Err(error) => return Err(at(&self.path)(error)),
        };
        // Layers hold files with any mode an untrusted program chose: nobody else may reach them.
        if stat.st_uid != rustix::process::geteuid().as_raw()
            || stat.st_mode & 0o022 != 0
            || stat.st_mode & 0o170_000 != 0o040_000
        {
            return Err(OpenStateError::Unsafe {
                path: self.path.clone(),
            });
        }
        Ok(())
    }

    /// Makes a new name, or takes hold of an existing one, and locks it. Returns whether it is new, too.
    ///
    /// # Errors
    /// [`OpenStateError::Busy`] when a keeper holds it; what the file system says.
    pub fn claim(&self, name: &SandboxName) -> Result<(StoredSandbox, bool), OpenStateError> {
        let path = self.path.join(name.as_str());
        for _ in 0..MAX_TRIES {
            let is_new = match rustix::fs::mkdir(&path, Mode::RWXU) {
                Ok(()) => true,
                Err(Errno::EXIST) => false,
                Err(Errno::NOENT) => {
                    self.prepare()?;
                    continue;
                }
                Err(error) => return Err(at(&path)(error)),
            };
            if is_new {
                // Looked at on the way in only: an existing name was made under the same rule.
                self.prepare()?;
            }
            if let Some(stored) = self.lock(name, path.clone(), PATIENCE)? {
                return Ok((stored, is_new));
            }
        }
        Err(OpenStateError::Busy { name: name.clone() })
    }

    /// Takes hold of an existing name.
    ///
    /// # Errors
    /// [`OpenStateError::Unknown`], [`OpenStateError::Busy`], or what the file system says.
    pub fn open(&self, name: &SandboxName) -> Result<StoredSandbox, OpenStateError> {
        let path = self.path.join(name.as_str());
        if !path.is_dir() {
            return Err(OpenStateError::Unknown { name: name.clone() });
        }
        self.lock(name, path, PATIENCE)?
            .ok_or_else(|| OpenStateError::Unknown { name: name.clone() })
    }

    /// Locks; `None` when the directory vanished meanwhile.
    fn lock(&self, name: &SandboxName, path: PathBuf, patience: u32) -> Result<Option<StoredSandbox>, OpenStateError> {
        let file = path.join("lock");
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let lock = match rustix::fs::open(&file, flags, Mode::RUSR | Mode::WUSR) {
            Ok(lock) => lock,
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(at(&file)(error)),
        };
        for attempt in 1..=patience {
            match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(Errno::WOULDBLOCK) if attempt < patience => std::thread::sleep(PAUSE),
                Err(Errno::WOULDBLOCK) => return Err(OpenStateError::Busy { name: name.clone() }),
                Err(error) => return Err(at(&file)(error)),
            }
        }
        // Another process may have removed the name between the open and the lock: then this locks nothing.
        let held = rustix::fs::fstat(&lock).map_err(at(&file))?;
        match rustix::fs::lstat(&file) {
            Ok(found) if (found.st_dev, found.st_ino) == (held.st_dev, held.st_ino) => Ok(Some(StoredSandbox {
                name: name.clone(),
                path,
                lock,
            })),
            _ => Ok(None),
        }
    }

    /// Returns all names, sorted.
    ///
    /// # Errors
    /// What the file system says; a missing directory holds no names.
    pub fn names(&self) -> Result<Vec<SandboxName>, OpenStateError> {
        let entries = match fs::read_dir(&self.path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => {
                return Err(OpenStateError::Io {
                    path: self.path.clone(),
                    source,
                });
            }
        };
        let mut names: Vec<SandboxName> = entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .collect();
        names.sort();
        Ok(names)
    }

    /// Reads what is recorded about a name and whether it runs, taking no lasting lock.
    ///
    /// # Errors
    /// [`OpenStateError::Unknown`], or what the file system says.
    pub fn look_up(&self, name: &SandboxName) -> Result<(Option<Record>, RunState), OpenStateError> {
        let path = self.path.join(name.as_str());
        if !path.is_dir() {
            return Err(OpenStateError::Unknown { name: name.clone() });
        }
        let is_locked = matches!(self.lock(name, path.clone(), 1), Err(OpenStateError::Busy { .. }));
        let record = read_record(&path);
        let state = match &record {
            _ if is_locked => RunState::Running,
            Some(record) if record.ended.is_some() => RunState::Ended,
            _ => RunState::Interrupted,
        };
        Ok((record, state))
    }
}

fn read_record(path: &Path) -> Option<Record> {
    let mut text = String::new();
    fs::File::open(path.join("record.json"))
        .ok()?
        .take(MAX_RECORD_BYTES)
        .read_to_string(&mut text)
        .ok()?;
    serde_json::from_str::<Record>(&text)
        .ok()
        .filter(|record| record.version == 1)
}

impl StoredSandbox {
    /// Returns the name.
    #[must_use]
    pub fn name(&self) -> &SandboxName {
        &self.name
    }

    /// Returns the directory, where the layer is too.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the descriptor that holds the lock.
    #[must_use]
    pub fn lock(&self) -> BorrowedFd<'_> {
        self.lock.as_fd()
    }

    /// Reads the record of the last run.
    #[must_use]
    pub fn record(&self) -> Option<Record> {
        read_record(&self.path)
    }

    /// Writes the record: whole or not at all, to a reader.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write_record(&self, record: &Record) -> Result<(), OpenStateError> {
        let path = self.path.join("record.json");
        let text = serde_json::to_vec(record).unwrap_or_default();
        let fresh = self.path.join("record.new");
        let written = fs::write(&fresh, text).and_then(|()| fs::rename(&fresh, &path));
        written.map_err(|source| OpenStateError::Io { path, source })
    }

    /// Returns the path of the stored output.
    #[must_use]
    pub fn output_log(&self) -> PathBuf {
        self.path.join("output.log")
    }

    /// Removes a name that holds no layer any more. The lock goes last, so that a half-removed name can be claimed and removed again.
    ///
    /// # Errors
    /// What the file system says.
    pub fn remove(self) -> Result<(), OpenStateError> {
        let unlink = |file: &str| {
            let path = self.path.join(file);
            match rustix::fs::unlink(&path) {
                Ok(()) | Err(Errno::NOENT) => Ok(()),
                Err(error) => Err(at(&path)(error)),
            }
        };
        for file in ["record.json", "capture.json", "lock"] {
            unlink(file)?;
        }
        match rustix::fs::rmdir(&self.path) {
            Err(Errno::NOTEMPTY | Errno::EXIST) => {
                for file in ["record.new", "output.log", "capture.json.new"] {
                    unlink(file)?;
                }
            }
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(error) => return Err(at(&self.path)(error)),
        }
        match rustix::fs::rmdir(&self.path) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(at(&self.path)(error)),
        }
    }
}

impl Record {
    /// Asks the keeper to end the sandbox at once.
    ///
    /// # Errors
    /// What the kernel says. A keeper that is gone already is no error.
    pub fn ask_keeper_to_kill(&self) -> io::Result<()> {
        // The pid may be another's by now; its start time then differs. Between this look and the signal the keeper would have to end
        // and its pid to go round: the signal would then end a process of this user's that started within that moment.
        let is_keeper = kill_tree::stat(self.keeper).is_some_and(|stat| stat.start_time == self.keeper_start);
        if !is_keeper {
            return Ok(());
        }
        match ringwall_sys::process::kill(self.keeper, crate::keeper::KILL_REQUEST) {
            Err(error) if error.raw_os_error() != Some(Errno::SRCH.raw_os_error()) => Err(error),
            _ => Ok(()),
        }
    }

    /// Returns whether the first process of the run still lives: that very process, not one that got its pid.
    #[must_use]
    pub fn is_init_alive(&self) -> bool {
        self.init > 0
            && kill_tree::stat(self.init).is_some_and(|stat| stat.start_time == self.init_start && stat.state != b'Z')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> (tempfile::TempDir, StateDir) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        (dir, StateDir { path })
    }

    #[test]
    fn a_name_is_held_by_one_at_a_time() {
        let (_dir, state) = state();
        let name: SandboxName = "one".parse().unwrap();
        let (held, is_new) = state.claim(&name).unwrap();
        assert!(is_new);
        assert!(matches!(state.claim(&name), Err(OpenStateError::Busy { .. })));
        assert_eq!(state.look_up(&name).unwrap().1, RunState::Running);
        drop(held);
        assert!(!state.claim(&name).unwrap().1);
        assert_eq!(state.look_up(&name).unwrap().1, RunState::Interrupted);
    }

    #[test]
    fn a_removed_name_is_gone() {
        let (_dir, state) = state();
        let name: SandboxName = "one".parse().unwrap();
        state.claim(&name).unwrap().0.remove().unwrap();
        assert!(state.names().unwrap().is_empty());
        assert!(matches!(state.open(&name), Err(OpenStateError::Unknown { .. })));
    }

    #[test]
    fn a_directory_that_others_can_write_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let (_dir, state) = state();
        fs::create_dir_all(&state.path).unwrap();
        fs::set_permissions(&state.path, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(
            state.claim(&"x".parse().unwrap()),
            Err(OpenStateError::Unsafe { .. })
        ));
    }
}
