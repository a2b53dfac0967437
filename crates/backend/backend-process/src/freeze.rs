//! Stops every process of a sandbox and lets them go on, from outside.
//!
//! By its control group, where the keeper could have it born in one: the kernel stops what is in it, whatever the processes have
//! prepared, and only SIGKILL gets at them then.
//!
//! Else with stop signals, which need no privilege: the sandbox's first process is stopped before all others, so that nothing new is started
//! by it, and then all its descendants, in passes, until two passes in a row find the same processes and every thread of each of them
//! stopped. A stopped process makes no child, and orphans become children of the first process, so the second pass is the proof that
//! nothing was missed. It is one for that moment: a hostile program can have armed a timer whose signal continues it. What was stopped
//! before stays stopped after [`thaw`].

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use ringwall_cgroup::{FreezeGroupError, Freezer, Group};
use ringwall_sys::process::kill;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::kill_tree;
use crate::state::Record;

const SIGCONT: i32 = 18;
const SIGSTOP: i32 = 19;

/// How long processes have to stop: one in an uninterruptible wait stops when that ends.
const PATIENCE: Duration = Duration::from_secs(5);

/// By what a sandbox was frozen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FreezeWay {
    /// The freezer of its control group: nothing inside can run before the thaw.
    ControlGroup,
    /// Stop signals: nothing ran when it was looked at last.
    #[default]
    StopSignals,
}

impl FreezeWay {
    /// Returns its name, as it is logged.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            FreezeWay::ControlGroup => "control-group",
            FreezeWay::StopSignals => "stop-signals",
        }
    }
}

/// What a thaw must know.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Frozen {
    /// By what.
    #[serde(default)]
    pub way: FreezeWay,
    /// Processes that were stopped by their own wish.
    pub already_stopped: BTreeSet<i32>,
    /// How many processes were stopped.
    pub count: usize,
}

/// A sandbox that can't be frozen.
#[derive(Debug, Error)]
pub enum FreezeError {
    /// It does not run.
    #[error("it does not run")]
    NotRunning,
    /// A process does not stop.
    #[error("process {pid} does not stop (state {state}); the others go on")]
    Stuck {
        /// Which.
        pid: i32,
        /// Its state letter (proc_pid_stat(5)).
        state: char,
    },
    /// Its control group can't be frozen.
    #[error(transparent)]
    Group(#[from] FreezeGroupError),
}

/// Stops everything in the sandbox that `record` is about.
///
/// # Errors
/// When it does not run or a process does not stop; then everything goes on.
pub fn freeze(record: &Record) -> Result<Frozen, FreezeError> {
    if !record.is_init_alive() {
        return Err(FreezeError::NotRunning);
    }
    match freezer(record).map(|freezer| freezer.freeze()) {
        Some(Ok(())) => {
            return Ok(Frozen {
                way: FreezeWay::ControlGroup,
                already_stopped: BTreeSet::new(),
                count: descendants(record.init).len(),
            });
        }
        // What waits uninterruptibly would not take a stop signal either.
        Some(Err(error @ FreezeGroupError::Stuck { .. })) => return Err(error.into()),
        Some(Err(FreezeGroupError::Write { .. })) | None => {}
    }
    let init = record.init;
    let mut frozen = Frozen {
        way: FreezeWay::StopSignals,
        already_stopped: descendants(init)
            .into_iter()
            .filter(|&pid| running_thread(pid).is_none())
            .collect(),
        count: 0,
    };
    frozen.already_stopped.remove(&init);
    drop(kill(init, SIGSTOP));
    let begun = Instant::now();
    let mut proven: Option<BTreeSet<i32>> = None;
    loop {
        let all = descendants(init);
        let moving: Vec<(i32, char)> = all
            .iter()
            .filter_map(|&pid| Some((pid, running_thread(pid)?)))
            .collect();
        if moving.is_empty() {
            if proven.as_ref() == Some(&all) {
                frozen.count = all.len();
                return Ok(frozen);
            }
            proven = Some(all);
            continue;
        }
        proven = None;
        if begun.elapsed() > PATIENCE {
            let (pid, state) = moving[0];
            thaw(record, &frozen)?;
            return Err(FreezeError::Stuck { pid, state });
        }
        for (pid, _) in moving {
            signal_inside(pid, SIGSTOP);
        }
        sleep(Duration::from_micros(200));
    }
}

/// Returns the control group by which a sandbox can be frozen.
fn freezer(record: &Record) -> Option<Freezer> {
    Group::reopen(&record.cgroups).ok()?.freezer_of(record.init)
}

/// Lets everything that [`freeze`] stopped go on; the first process last, so that it sees the others run. Also what a crash kept from being
/// written down, then with `frozen` as its default.
///
/// # Errors
/// The control group can't be thawed; all stays frozen.
pub fn thaw(record: &Record, frozen: &Frozen) -> Result<(), FreezeError> {
    if !record.is_init_alive() {
        return Ok(());
    }
    if let Some(freezer) = freezer(record) {
        freezer.thaw()?;
        // Nobody inside can stop it: only we, where the group would not do.
        if !is_stopped(record.init) {
            return Ok(());
        }
    }
    for pid in descendants(record.init) {
        if pid != record.init && !frozen.already_stopped.contains(&pid) {
            signal_inside(pid, SIGCONT);
        }
    }
    drop(kill(record.init, SIGCONT));
    Ok(())
}

fn is_stopped(pid: i32) -> bool {
    kill_tree::stat(pid).is_some_and(|stat| stat.state == b'T')
}

/// Signals a process of a sandbox, and no other that has got its pid since the pid was read: a program inside can make the pids go round.
fn signal_inside(pid: i32, signal: i32) {
    let handle = Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    // Looked at with the handle in hand: the process that is signalled is the one that is looked at, or it is gone and nothing is.
    if let (Some(handle), true) = (handle, is_in_inner_namespace(pid))
        && let Some(signal) = Signal::from_named_raw(signal)
    {
        let _gone = pidfd_send_signal(handle, signal);
    }
}

/// Returns whether a process has a pid in a namespace below ours: the host's own have one only (proc_pid_status(5), NSpid).
fn is_in_inner_namespace(pid: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let pids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    pids.is_some_and(|pids| pids.split_ascii_whitespace().count() > 1)
}

/// Returns the process and everything that descends from it.
fn descendants(root: i32) -> BTreeSet<i32> {
    let mut found = BTreeSet::from([root]);
    let mut pending = vec![root];
    while let Some(pid) = pending.pop() {
        let Some(children) = children(pid) else {
            // Without CONFIG_PROC_CHILDREN: by every process's parent.
            return descendants_by_parent(root);
        };
        for child in children {
            if found.insert(child) {
                pending.push(child);
            }
        }
    }
    found
}

/// Reads the children of all threads of a process; `None` when this kernel does not tell.
fn children(pid: i32) -> Option<Vec<i32>> {
    let mut all = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten()
    {
        match fs::read_to_string(task.path().join("children")) {
            Ok(text) => all.extend(text.split_ascii_whitespace().filter_map(|pid| pid.parse::<i32>().ok())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && task.path().exists() => return None,
            // The thread has ended.
            Err(_) => {}
        }
    }
    Some(all)
}

fn descendants_by_parent(root: i32) -> BTreeSet<i32> {
    let mut by_parent: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if let Some(stat) = kill_tree::stat(pid) {
            by_parent.entry(stat.parent).or_default().push(pid);
        }
    }
    let mut found = BTreeSet::from([root]);
    let mut pending = vec![root];
    while let Some(pid) = pending.pop() {
        for &child in by_parent.get(&pid).into_iter().flatten() {
            if found.insert(child) {
                pending.push(child);
            }
        }
    }
    found
}

/// Returns the state of a thread that is not stopped, if there is one. Stopped, traced, dead and zombie threads run nothing.
fn running_thread(pid: i32) -> Option<char> {
    for task in fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten()
    {
        if let Ok(text) = fs::read_to_string(task.path().join("stat"))
            && let Some(stat) = kill_tree::parse_stat(&text)
            && !matches!(stat.state, b'T' | b't' | b'Z' | b'X')
        {
            return Some(char::from(stat.state));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_of_the_host_is_never_signalled() {
        // Its pid may have been a sandbox's a moment ago.
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        // Without a namespace of our own above it, or these tests would see their own.
        let is_inner = is_in_inner_namespace(pid);
        signal_inside(pid, SIGSTOP);
        sleep(Duration::from_millis(50));
        let state = kill_tree::stat(pid).unwrap().state;
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(is_inner || state != b'T', "it was stopped");
    }
}
