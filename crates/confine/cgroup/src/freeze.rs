//! Stops a v2 group and lets it go on (`cgroup.freeze`, Linux 5.2).
//!
//! The kernel stops every thread of the group and of all groups below, and what is born there meanwhile; no signal but SIGKILL makes one go
//! on (kernel Documentation/admin-guide/cgroup-v2.rst, "Core Interface Files"). It says in `cgroup.events` when the last one has stopped.

use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::control_file;
use crate::group::Group;

/// How long threads have to stop: one in an uninterruptible wait stops when that ends.
const PATIENCE: Duration = Duration::from_secs(5);

/// A group that can be frozen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Freezer {
    path: PathBuf,
}

/// A group is not frozen. It goes on.
#[derive(Debug, Error)]
pub enum FreezeGroupError {
    /// The kernel refuses.
    #[error("can't freeze the control group {}", path.display())]
    Write {
        /// The group.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Some thread does not stop.
    #[error("the control group {} does not freeze: a process in it waits for something that can't be interrupted", path.display())]
    Stuck {
        /// The group.
        path: PathBuf,
    },
}

impl Group {
    /// Returns the group by which process `member` and all that descends from it can be frozen: it is in it now, and can't have left it.
    #[must_use]
    pub fn freezer_of(&self, member: i32) -> Option<Freezer> {
        let dir = self.dirs.iter().find(|dir| dir.is_v2)?;
        let members = control_file::read_pids(&dir.path.join("cgroup.procs")).ok()?;
        let freezer = Freezer { path: dir.path.clone() };
        (members.contains(&member) && freezer.file("cgroup.freeze").exists()).then_some(freezer)
    }
}

impl Freezer {
    /// Returns the group's directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Stops everything in the group and returns when the kernel says that all of it stands still. Freezing what is frozen is no error.
    ///
    /// # Errors
    /// The kernel refuses, or a process does not stop; then everything goes on.
    pub fn freeze(&self) -> Result<(), FreezeGroupError> {
        let write = |value| control_file::write(&self.file("cgroup.freeze"), value);
        write("1").map_err(|source| FreezeGroupError::Write {
            path: self.path.clone(),
            source,
        })?;
        let deadline = Instant::now() + PATIENCE;
        let mut pause = Duration::from_micros(100);
        while !self.is_frozen() {
            if Instant::now() >= deadline {
                // What it says is in the error that follows: nothing could be done about a failure.
                drop(write("0"));
                return Err(FreezeGroupError::Stuck {
                    path: self.path.clone(),
                });
            }
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Lets everything in the group go on. Thawing what is not frozen is no error.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn thaw(&self) -> Result<(), FreezeGroupError> {
        control_file::write(&self.file("cgroup.freeze"), "0").map_err(|source| FreezeGroupError::Write {
            path: self.path.clone(),
            source,
        })
    }

    /// Returns whether every process of the group stands still.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        control_file::read_keyed(&self.file("cgroup.events"), "frozen") == Some(1)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}
