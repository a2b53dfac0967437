//! Keeper processes: started, found again, ended. A keeper holds one sandbox and outlives the node.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use ringwall_backend_process::{Record, RunState, StateDir, remove_left_groups};
use ringwall_policy::{Changes, Limits, Policy};
use ringwall_sandbox::{Guest, RunSpec};
use ringwall_types::{Isolation, SandboxName};
use rustix::process::{Pid, PidfdFlags, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;

use crate::layers::Places;

/// User and group id of `user` inside a sandbox of root's, as everywhere where E2B's templates run.
pub(crate) const USER: u32 = 1000;
/// Longest reason read from a keeper that failed.
const MAX_REASON_BYTES: u64 = 4096;
/// How long a keeper has to end its sandbox when asked to.
const END_PATIENCE: Duration = Duration::from_secs(10);
/// Open files of each process in a sandbox, where the operator says nothing: what Docker gives.
const DEFAULT_FILES: u32 = 65_536;

/// What a keeper is told, on its standard input.
#[derive(Debug, Serialize, Deserialize)]
struct KeeperOrder {
    state: PathBuf,
    name: SandboxName,
    lowers: Vec<PathBuf>,
    host_system: bool,
    limits: Limits,
    executable: PathBuf,
}

/// Runs a keeper to its end: the hidden command `ringwall keeper`. Returns why it failed, if it did.
///
/// # Errors
/// One line for the operator, when the order can't be read or the sandbox not be made.
pub fn run_keeper() -> Result<(), String> {
    // A keeper lives on when the terminal or the server it came from is gone.
    let _ = rustix::process::setsid();
    let mut text = String::new();
    std::io::stdin()
        .take(1 << 20)
        .read_to_string(&mut text)
        .map_err(|error| format!("can't read the order: {error}"))?;
    let order: KeeperOrder =
        serde_json::from_str(&text).map_err(|error| format!("can't understand the order: {error}"))?;
    let ready = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3).map_err(|error| error.to_string())?;
    let null = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(|error| error.to_string())?;
    rustix::stdio::dup2_stdin(&null).map_err(|error| error.to_string())?;
    rustix::stdio::dup2_stdout(&null).map_err(|error| error.to_string())?;
    let policy = Policy {
        isolation: Isolation::Namespace,
        changes: Some(Changes::Keep),
        name: Some(order.name),
        limits: order.limits,
        ..Policy::default()
    };
    let spec = RunSpec {
        command: vec!["ringwall-agent".into()],
        policy,
        current_dir: PathBuf::from("/"),
        caller_env: Vec::new(),
        record_denials: false,
        log_output: false,
        guest: Some(Guest {
            lowers: order.lowers,
            shows_host_system: order.host_system,
            agent: order.executable,
            ready,
        }),
    };
    let report = ringwall_backend_process::run(&spec, &StateDir::at(order.state)).map_err(|error| {
        let mut text = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        text
    })?;
    match report.exit_code {
        126 | 127 => Err(format!("the agent can't be executed: {:?}", report.exit)),
        _ => Ok(()),
    }
}

/// A keeper of a running sandbox.
#[derive(Debug)]
pub(crate) struct Keeper {
    /// What it wrote down about itself.
    pub(crate) record: Record,
    state: StateDir,
    name: SandboxName,
    /// A pidfd: for tokio a pipe that becomes readable when the process ends, and that nobody reads.
    pidfd: Receiver,
}

/// Starts a keeper and returns when the agent's sockets exist. The agent itself may still be on its way: connections wait for it.
pub(crate) async fn start(
    places: &Places,
    executable: &std::path::Path,
    id: &str,
    lowers: Vec<PathBuf>,
    host_system: bool,
    limits: &Limits,
) -> Result<Keeper, String> {
    let directory = places.sandbox(id);
    match std::fs::create_dir(&directory) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(format!("can't make the state directory: {error}"));
        }
        _ => {}
    }
    let mut limits = limits.clone();
    limits.files.get_or_insert(DEFAULT_FILES);
    let name: SandboxName = id.parse().map_err(|error| format!("{error}"))?;
    let order = KeeperOrder {
        state: places.sandboxes(),
        name: name.clone(),
        lowers,
        host_system,
        limits,
        executable: executable.to_owned(),
    };
    let text = serde_json::to_vec(&order).map_err(|error| error.to_string())?;
    let log_path = directory.join("keeper.log");
    let log = std::fs::File::create(&log_path).map_err(|error| format!("can't make the keeper's log: {error}"))?;
    let mut child = tokio::process::Command::new(executable)
        .arg("keeper")
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log)
        .current_dir("/")
        .spawn()
        .map_err(|error| format!("can't start a keeper: {error}"))?;
    let pid = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
    let pidfd = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::NONBLOCK).ok());
    if let Some(stdin) = child.stdin.take() {
        let mut stdin = std::fs::File::from(stdin.into_owned_fd().map_err(|error| error.to_string())?);
        // Smaller than a pipe's buffer, so this never waits.
        stdin
            .write_all(&text)
            .map_err(|error| format!("can't instruct the keeper: {error}"))?;
    }
    let mut byte = [0_u8; 1];
    let bound = match child.stdout.take() {
        Some(mut stdout) => stdout.read(&mut byte).await.unwrap_or(0) == 1,
        None => false,
    };
    // tokio reaps it when it ends.
    drop(child);
    let reason = || {
        let mut reason = String::new();
        if let Ok(file) = std::fs::File::open(&log_path) {
            drop(file.take(MAX_REASON_BYTES).read_to_string(&mut reason));
        }
        reason.trim().to_owned()
    };
    if !bound {
        // It has closed its output only by ending; its last words are in the file by then.
        let state = StateDir::at(places.sandboxes());
        if let Some(keeper) = find(&state, id) {
            // Somebody else's order came first, before a crash of the node.
            return Ok(keeper);
        }
        return Err(reason());
    }
    let pidfd = pidfd.ok_or_else(|| "can't watch the keeper".to_owned())?;
    let pidfd = Receiver::from_owned_fd_unchecked(pidfd).map_err(|error| error.to_string())?;
    // The record names the sandbox's first process once that exists; it is read when it is needed.
    let record = Record {
        version: 1,
        keeper: pid.map_or(0, |pid| pid.as_raw_nonzero().get()),
        keeper_start: 0,
        init: 0,
        init_start: 0,
        tier: ringwall_types::Tier::Namespace,
        command: Vec::new(),
        started_ms: crate::clock::now_ms(),
        cgroups: Vec::new(),
        changes: String::new(),
        ended: None,
    };
    Ok(Keeper {
        record,
        state: StateDir::at(places.sandboxes()),
        name,
        pidfd,
    })
}

/// Finds the keeper of a sandbox that was started earlier.
pub(crate) fn find(state: &StateDir, id: &str) -> Option<Keeper> {
    let name: SandboxName = id.parse().ok()?;
    let (record, run_state) = state.look_up(&name).ok()?;
    let record = record?;
    if run_state != RunState::Running || record.ended.is_some() {
        return None;
    }
    let pidfd = pidfd_open(Pid::from_raw(record.keeper)?, PidfdFlags::NONBLOCK).ok()?;
    // Looked at again with the descriptor in hand: from now on the pid can't be another's.
    let (again, run_state) = state.look_up(&name).ok()?;
    if run_state != RunState::Running || again?.keeper_start != record.keeper_start {
        return None;
    }
    Some(Keeper {
        record,
        state: state.clone(),
        name,
        pidfd: Receiver::from_owned_fd_unchecked(pidfd).ok()?,
    })
}

impl Keeper {
    /// Waits for its end.
    pub(crate) async fn ended(&self) {
        drop(self.pidfd.readable().await);
    }

    /// Ends the sandbox and waits until nothing of it runs.
    pub(crate) async fn end(&self) {
        // Asked first: it then waits for its sandbox's end and removes its control groups.
        let request = rustix::process::Signal::from_named_raw(ringwall_backend_process::KILL_REQUEST);
        let asked = match request {
            Some(signal) => pidfd_send_signal(self.pidfd.as_fd(), signal).is_ok(),
            None => ringwall_sys::process::kill(self.record.keeper, ringwall_backend_process::KILL_REQUEST).is_ok(),
        };
        if asked && tokio::time::timeout(END_PATIENCE, self.ended()).await.is_ok() {
            return;
        }
        let _ = pidfd_send_signal(self.pidfd.as_fd(), rustix::process::Signal::KILL);
        drop(tokio::time::timeout(END_PATIENCE, self.ended()).await);
        self.clean_up().await;
    }

    /// Removes the control groups that a keeper leaves when it does not end by itself. Only after its end.
    pub(crate) async fn clean_up(&self) {
        clean_up(self.state.clone(), self.name.clone()).await;
    }
}

/// Removes the control groups of a sandbox without a keeper.
pub(crate) async fn clean_up(state: StateDir, name: SandboxName) {
    let text = name.to_string();
    let removed = tokio::task::spawn_blocking(move || remove_left_groups(&state, &name)).await;
    if let Ok(Err(error)) = removed {
        tracing::warn!(
            name = text,
            error,
            "can't remove the control groups of a sandbox that has ended"
        );
    }
}
