//! Kills every process of a group, also one that forks as fast as it can.
//!
//! v2 since Linux 5.14: one write to `cgroup.kill`. Else a loop: forks are stopped by `pids.max` (freezing would do as well, but
//! a frozen group must be thawed again by somebody who may have died), then all processes are killed until none is left.
//! Never signals by a bare pid: see [`kill_members`].

use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use thiserror::Error;

use crate::control_file;
use crate::group::Group;

/// How long a group may take to become empty: a process in an uninterruptible wait can't be killed by anybody.
const MAX_KILL_TIME: Duration = Duration::from_secs(5);

/// Not every process could be killed.
#[derive(Debug, Error)]
pub enum KillAllError {
    /// The list of processes can't be read.
    #[error("can't read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Processes are left after five seconds.
    #[error("{left} processes of the control group {} are left", path.display())]
    Left {
        /// The group.
        path: PathBuf,
        /// How many.
        left: usize,
    },
}

impl Group {
    /// Kills every process in the groups and waits until they are gone (which they are only once reaped by their parent).
    ///
    /// Call it before [`Group::remove`] when the sandbox did not end by itself. The caller must not be in the group.
    ///
    /// # Errors
    /// Processes are left: they sleep in the kernel, or their parent does not reap them.
    pub fn kill_all(&self) -> Result<(), KillAllError> {
        let deadline = Instant::now() + MAX_KILL_TIME;
        for dir in &self.dirs {
            // Fails where there is no pids controller: the loop then has to outrun forks, and a killed process can't fork.
            drop(control_file::write(&dir.path.join("pids.max"), "0"));
        }
        for dir in &self.dirs {
            let killed_at_once = dir.is_v2 && control_file::write(&dir.path.join("cgroup.kill"), "1").is_ok();
            let procs = dir.path.join("cgroup.procs");
            let mut pause = Duration::from_micros(100);
            loop {
                let pids = match control_file::read_pids(&procs) {
                    Ok(pids) => pids,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                    Err(source) => return Err(KillAllError::Read { path: procs, source }),
                };
                if pids.is_empty() {
                    break;
                }
                if Instant::now() >= deadline {
                    return Err(KillAllError::Left {
                        path: dir.path.clone(),
                        left: pids.len(),
                    });
                }
                if !killed_at_once {
                    kill_members(&procs, &pids);
                }
                thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(20));
            }
        }
        Ok(())
    }
}

/// Kills those of `pids` that are still members.
///
/// A pid may be reused between reading it and using it. So each is turned into a pidfd (Linux 5.3) first and the list is read
/// again: a pid that is still listed belonged to the group after the pidfd was opened. If it had been reused in between, the
/// pidfd names a process that is dead, and the signal goes nowhere.
fn kill_members(procs: &Path, pids: &[i32]) {
    let open = |pid: &i32| Some((*pid, pidfd_open(Pid::from_raw(*pid)?, PidfdFlags::empty()).ok()?));
    // In portions, so that a fork bomb's members don't use up our own file descriptors.
    for portion in pids.chunks(128) {
        let opened: Vec<_> = portion.iter().filter_map(open).collect();
        let Ok(members) = control_file::read_pids(procs) else {
            return;
        };
        for (pid, pidfd) in opened {
            if members.contains(&pid) {
                // Fails only if it died meanwhile, or belongs to root: then the time limit reports it.
                let _ = pidfd_send_signal(&pidfd, Signal::KILL);
            }
        }
    }
}
