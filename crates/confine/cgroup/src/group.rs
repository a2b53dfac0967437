//! A sandbox's groups while they exist: made from a plan, joined by a process, read, emptied, removed.
//!
//! Order: journal [`Plan::paths`], [`Group::create`], [`Group::add`] before the sandbox's program starts, … [`Group::remove`]
//! after its last process was reaped. A `Group` is only paths: dropping it removes nothing, so that a fork of the keeper or
//! its death can't tear down a living sandbox's limits. Never touches a directory other than its own and the shared parent.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use serde::Serialize;
use thiserror::Error;

use crate::control_file;
use crate::controller::Controller;
use crate::plan::{Otherwise, PARENT, Plan, PlannedDir};

/// How often making a group is tried again when another keeper removes the shared parent in between.
const MAX_TRIES: u32 = 64;

/// How long a group may stay busy after its last process is gone: the kernel finishes exits in the background.
const MAX_REMOVE_TIME: Duration = Duration::from_secs(2);

/// `CGROUP_SUPER_MAGIC` and `CGROUP2_SUPER_MAGIC` (kernel `include/uapi/linux/magic.h`).
const CGROUP_MAGICS: [u64; 2] = [0x0027_e0eb, 0x6367_7270];

/// The groups of one sandbox: one directory on v2, one for each hierarchy on v1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    pub(crate) dirs: Vec<GroupDir>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GroupDir {
    pub(crate) path: PathBuf,
    pub(crate) is_v2: bool,
    /// Made for freezing alone.
    pub(crate) is_optional: bool,
}

/// How often a limit was hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Events {
    /// Processes that the kernel killed for want of memory.
    pub oom_kills: u64,
    /// Forks refused.
    pub pids_max_hits: u64,
}

/// What the sandbox used; `None` where no group measures it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Usage {
    /// Most memory used at any time, in bytes.
    pub peak_memory: Option<u64>,
    /// CPU time in microseconds.
    pub cpu_usec: Option<u64>,
}

/// Groups can't be made. Nothing is left of them.
#[derive(Debug, Error)]
pub enum CreateGroupError {
    /// A directory can't be made.
    #[error("can't make the control group {}", path.display())]
    Make {
        /// The directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The group above refuses to hand down a controller.
    #[error("can't switch on the {controllers} controller in {}", path.display())]
    SwitchOn {
        /// The file.
        path: PathBuf,
        /// The words written.
        controllers: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A limit can't be set.
    #[error("can't write {value:?} to {}", path.display())]
    Set {
        /// The file.
        path: PathBuf,
        /// The value.
        value: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// A process can't be moved into a group.
#[derive(Debug, Error)]
#[error("can't move process {pid} to the control group {}", path.display())]
pub struct AddProcessError {
    /// The process.
    pub pid: i32,
    /// The group.
    pub path: PathBuf,
    /// Why not.
    #[source]
    pub source: io::Error,
}

/// A group can't be removed.
#[derive(Debug, Error)]
pub enum RemoveGroupError {
    /// There are still processes (or groups) in it.
    #[error("the control group {} is still in use", path.display())]
    InUse {
        /// The group.
        path: PathBuf,
    },
    /// The kernel refuses for another reason.
    #[error("can't remove the control group {}", path.display())]
    Remove {
        /// The group.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A journalled path is not a group of ours.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{} is not a control group made by Ringwall", path.display())]
pub struct ReopenGroupError {
    /// The path.
    pub path: PathBuf,
}

impl Group {
    /// Makes the groups and sets their limits.
    ///
    /// # Errors
    /// One of them can't be made or a limit can't be set; those already made are removed.
    pub fn create(plan: &Plan) -> Result<Group, CreateGroupError> {
        let mut tries = 0;
        loop {
            tries += 1;
            match Group::try_create(plan) {
                // Another keeper has removed the shared level, and a third has made it again, between our switching its controllers on
                // and our making a group in it: the group then lacks their files.
                Err(CreateGroupError::Set { source, .. })
                    if source.kind() == io::ErrorKind::NotFound && tries < MAX_TRIES => {}
                result => return result,
            }
        }
    }

    fn try_create(plan: &Plan) -> Result<Group, CreateGroupError> {
        let mut made = Group {
            dirs: Vec::with_capacity(plan.dirs.len()),
        };
        for dir in &plan.dirs {
            let done = make(dir).and_then(|()| {
                made.dirs.push(GroupDir {
                    path: dir.path.clone(),
                    is_v2: dir.is_v2,
                    is_optional: dir.is_optional,
                });
                apply(dir)
            });
            if done.is_err() && dir.is_optional {
                // It is not in `made`: nothing is written into an optional one, so only making it can fail.
                continue;
            }
            if let Err(error) = done {
                // The cause is what the caller must hear of; empty new directories can always be removed.
                drop(made.remove());
                drop(dir.path.parent().map(fs::remove_dir));
                return Err(error);
            }
        }
        Ok(made)
    }

    /// Takes up groups that a keeper which is gone had journalled, to empty and remove them.
    ///
    /// Groups that no longer exist are left out.
    ///
    /// # Errors
    /// A path is not `…/ringwall/NAME` on a control group file system: nothing is done with any of them.
    pub fn reopen(paths: &[PathBuf]) -> Result<Group, ReopenGroupError> {
        Group::reopen_if(paths, |parent| {
            rustix::fs::statfs(parent)
                .ok()
                .and_then(|fs| u64::try_from(fs.f_type).ok())
        })
    }

    fn reopen_if(paths: &[PathBuf], magic_of: fn(&Path) -> Option<u64>) -> Result<Group, ReopenGroupError> {
        let mut dirs = Vec::with_capacity(paths.len());
        for path in paths {
            let refuse = || ReopenGroupError { path: path.clone() };
            let parent = path
                .parent()
                .filter(|parent| parent.file_name().is_some_and(|name| name == PARENT));
            let parent = parent
                .filter(|_| path.is_absolute() && path.file_name().is_some())
                .ok_or_else(refuse)?;
            if path.components().any(|part| matches!(part, Component::ParentDir)) {
                return Err(refuse());
            }
            match fs::symlink_metadata(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Ok(meta) if meta.is_dir() => {}
                _ => return Err(refuse()),
            }
            let magic = magic_of(parent)
                .filter(|magic| CGROUP_MAGICS.contains(magic))
                .ok_or_else(refuse)?;
            dirs.push(GroupDir {
                path: path.clone(),
                is_v2: magic == CGROUP_MAGICS[1],
                is_optional: false,
            });
        }
        Ok(Group { dirs })
    }

    /// The directories of the groups.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.dirs.iter().map(|dir| dir.path.as_path())
    }

    /// Moves a process (all its threads) into the groups; its later children are born there.
    ///
    /// # Errors
    /// The process is gone, or this user may not move it.
    pub fn add(&self, pid: i32) -> Result<(), AddProcessError> {
        self.dirs.iter().try_for_each(|dir| add_to(dir, pid))
    }

    /// Does what [`Group::add`] does for a process that was born in the group of [`Group::open_for_clone`].
    ///
    /// # Errors
    /// The process is gone, or this user may not move it.
    pub fn add_born_inside(&self, pid: i32) -> Result<(), AddProcessError> {
        self.dirs
            .iter()
            .filter(|dir| !dir.is_v2)
            .try_for_each(|dir| add_to(dir, pid))
    }

    /// Removes what holds no limit, where the sandbox could not be born in it: moving it there would cost more than it is worth.
    pub fn give_up_freezing(&mut self) {
        self.dirs.retain(|dir| {
            let gone = dir.is_optional && fs::remove_dir(&dir.path).is_ok();
            if gone {
                drop(dir.path.parent().map(fs::remove_dir));
            }
            !dir.is_optional
        });
    }

    /// Opens the v2 group for `clone3(CLONE_INTO_CGROUP)` (Linux 5.7), which is much cheaper than a later [`Group::add`]; `None` where all
    /// groups are v1.
    #[must_use]
    pub fn open_for_clone(&self) -> Option<OwnedFd> {
        // There is at most one v2 hierarchy.
        let dir = self.dirs.iter().find(|dir| dir.is_v2)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(&dir.path, flags, Mode::empty()).ok()
    }

    /// Reads how often limits were hit; a counter that can't be read is 0.
    #[must_use]
    pub fn events(&self) -> Events {
        let mut events = Events::default();
        for dir in &self.dirs {
            let keyed = |file: &str, key| control_file::read_keyed(&dir.path.join(file), key).unwrap_or(0);
            events.oom_kills += keyed(
                if dir.is_v2 {
                    "memory.events"
                } else {
                    "memory.oom_control"
                },
                "oom_kill",
            );
            events.pids_max_hits += keyed("pids.events", "max");
        }
        events
    }

    /// Reads what was used so far.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let mut usage = Usage::default();
        for GroupDir { path, is_v2, .. } in &self.dirs {
            let (memory, cpu) = if *is_v2 {
                // memory.peak: Linux 5.19.
                let cpu = control_file::read_keyed(&path.join("cpu.stat"), "usage_usec");
                (control_file::read_number(&path.join("memory.peak")), cpu)
            } else {
                let nanoseconds = control_file::read_number(&path.join("cpuacct.usage"));
                let peak = control_file::read_number(&path.join("memory.max_usage_in_bytes"));
                (peak, nanoseconds.map(|nanoseconds| nanoseconds / 1000))
            };
            usage.peak_memory = usage.peak_memory.or(memory);
            usage.cpu_usec = usage.cpu_usec.or(cpu);
        }
        usage
    }

    /// Removes the groups, and the shared parents if these were their last. Call it after the last process was reaped.
    ///
    /// A group that is gone already is fine. One that stays busy is tried for two seconds; the others are removed all the same.
    ///
    /// # Errors
    /// A group could not be removed; the first one's reason.
    pub fn remove(&self) -> Result<(), RemoveGroupError> {
        let deadline = Instant::now() + MAX_REMOVE_TIME;
        let mut first_error = None;
        for dir in &self.dirs {
            match remove_dir(&dir.path, deadline) {
                // Fails as long as other sandboxes have groups there, which is as it should be.
                Ok(()) => drop(dir.path.parent().map(fs::remove_dir)),
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        first_error.map_or(Ok(()), Err)
    }
}

fn add_to(dir: &GroupDir, pid: i32) -> Result<(), AddProcessError> {
    control_file::write(&dir.path.join("cgroup.procs"), &pid.to_string()).map_err(|source| AddProcessError {
        pid,
        path: dir.path.clone(),
        source,
    })
}

/// Makes `…/ringwall/NAME.PID`, with the shared parent where it is not there yet.
fn make(dir: &PlannedDir) -> Result<(), CreateGroupError> {
    let fail = |path: &Path, source| CreateGroupError::Make {
        path: path.to_owned(),
        source,
    };
    let Some(parent) = dir.path.parent() else {
        return Err(fail(&dir.path, io::ErrorKind::InvalidInput.into()));
    };
    for _ in 0..MAX_TRIES {
        if let Err(error) = prepare_parent(parent, dir) {
            // Another keeper removed the parent between two steps.
            match error {
                CreateGroupError::SwitchOn { ref source, .. } if is_gone(source) => continue,
                error => return Err(error),
            }
        }
        match fs::create_dir(&dir.path) {
            Ok(()) => return Ok(()),
            Err(error) if is_gone(&error) => {}
            // The name holds this keeper's pid, so it can only be left from a dead one; the kernel refuses if it is in use.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                fs::remove_dir(&dir.path).map_err(|_| fail(&dir.path, error))?;
            }
            Err(error) => return Err(fail(&dir.path, error)),
        }
    }
    Err(fail(&dir.path, io::ErrorKind::NotFound.into()))
}

/// Sees to it that the shared parent exists and hands the controllers down (v2).
fn prepare_parent(parent: &Path, dir: &PlannedDir) -> Result<(), CreateGroupError> {
    match fs::create_dir(parent) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(source) => {
            return Err(CreateGroupError::Make {
                path: parent.to_owned(),
                source,
            });
        }
    }
    if !dir.is_v2 {
        return Ok(());
    }
    if let Some(place) = parent.parent() {
        switch_on(place, &dir.switch_on)?;
    }
    // Writing a controller that is on already changes nothing, and is cheaper than asking.
    switch_on(parent, &dir.controllers)
}

/// Hands controllers of a v2 group down to its children.
fn switch_on(dir: &Path, controllers: &[Controller]) -> Result<(), CreateGroupError> {
    if controllers.is_empty() {
        return Ok(());
    }
    let path = dir.join("cgroup.subtree_control");
    let words: Vec<_> = controllers.iter().map(|controller| format!("+{controller}")).collect();
    let words = words.join(" ");
    control_file::write(&path, &words).map_err(|source| CreateGroupError::SwitchOn {
        path,
        controllers: words,
        source,
    })
}

/// Writes the limits.
fn apply(dir: &PlannedDir) -> Result<(), CreateGroupError> {
    for setting in &dir.settings {
        let path = dir.path.join(setting.file);
        let fail = |path, value: &str, source| {
            Err(CreateGroupError::Set {
                path,
                value: value.to_owned(),
                source,
            })
        };
        match (control_file::write(&path, &setting.value), &setting.otherwise) {
            (Ok(()), _) => {}
            (Err(error), Otherwise::Skip) if error.kind() == io::ErrorKind::NotFound => {}
            (Err(error), Otherwise::Write(file, value)) if error.kind() == io::ErrorKind::NotFound => {
                let path = dir.path.join(file);
                if let Err(source) = control_file::write(&path, value) {
                    return fail(path, value, source);
                }
            }
            (Err(source), _) => return fail(path, &setting.value, source),
        }
    }
    Ok(())
}

/// Whether a directory disappeared: a cgroup file opened before its removal answers ENODEV.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error())
}

/// Removes one directory; waits while it is busy.
fn remove_dir(path: &Path, deadline: Instant) -> Result<(), RemoveGroupError> {
    let mut pause = Duration::from_micros(200);
    loop {
        match fs::remove_dir(path) {
            Ok(()) => return Ok(()),
            Err(error) if is_gone(&error) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                if Instant::now() >= deadline {
                    return Err(RemoveGroupError::InUse { path: path.to_owned() });
                }
            }
            Err(source) => {
                return Err(RemoveGroupError::Remove {
                    path: path.to_owned(),
                    source,
                });
            }
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

#[cfg(test)]
mod tests;
