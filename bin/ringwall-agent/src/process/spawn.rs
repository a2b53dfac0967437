//! Fork and exec of a plan that is already decided.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::rc::Rc;

use crate::descriptor;
use ringwall_agent_proto::process::Size;
use ringwall_sys::session;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::tcsetwinsize;
use tokio::net::unix::pipe;

use super::input::Input;
use super::live::winsize;
use super::oom::OomScore;
use super::pump::{Source, Terminal};

/// What a process's standard streams are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Streams {
    /// Pipes, the input too.
    Pipes,
    /// Pipes, but no input.
    Outputs,
    /// A terminal.
    Terminal(Size),
}

/// What to run, all decided.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) program: String,
    pub(super) arguments: Vec<String>,
    pub(super) environment: BTreeMap<OsString, OsString>,
    pub(super) directory: PathBuf,
    pub(super) streams: Streams,
}

/// A process that runs.
#[derive(Debug)]
pub(super) struct Spawned {
    pub(super) pid: u32,
    pub(super) input: Input,
    pub(super) sources: Vec<Source>,
    pub(super) terminal: Option<Rc<Terminal>>,
}

/// Why a process could not be started.
#[derive(Debug, thiserror::Error)]
pub(super) enum SpawnError {
    /// Processes, memory or descriptors have run out.
    #[error("cannot start '{program}': the sandbox is at its limit: {source}")]
    Limit { program: String, source: io::Error },
    /// The program can't be run.
    #[error("cannot start '{program}': {source}")]
    Program { program: String, source: io::Error },
}

/// Starts the process.
pub(super) fn spawn(plan: &Plan, oom: &OomScore) -> Result<Spawned, SpawnError> {
    try_spawn(plan, oom).map_err(|source| {
        let program = plan.program.clone();
        match Errno::from_io_error(&source) {
            Some(Errno::AGAIN | Errno::NOMEM | Errno::MFILE | Errno::NFILE | Errno::NOSPC) => {
                SpawnError::Limit { program, source }
            }
            _ => SpawnError::Program { program, source },
        }
    })
}

fn try_spawn(plan: &Plan, oom: &OomScore) -> io::Result<Spawned> {
    let mut command = Command::new(&plan.program);
    command
        .args(&plan.arguments)
        .env_clear()
        .envs(&plan.environment)
        .current_dir(&plan.directory);
    let terminal = match plan.streams {
        Streams::Terminal(size) => Some(open_terminal(size, &mut command)?),
        Streams::Pipes | Streams::Outputs => None,
    };
    if terminal.is_none() {
        let input = match plan.streams {
            Streams::Pipes => Stdio::piped(),
            _ => Stdio::null(),
        };
        command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
    }
    let kind = if terminal.is_some() {
        session::Terminal::Stdin
    } else {
        session::Terminal::None
    };
    session::lead_new_session(&mut command, kind);
    let mut child = oom.raised(|| command.spawn())?;
    let pid = child.id();
    // From here on the process runs: what fails now may only cost its streams, or it would be lost from sight.
    let mut sources = Vec::with_capacity(2);
    let mut input = Input::Closed;
    if let Some(terminal) = &terminal {
        input = Input::Terminal(terminal.clone());
        sources.push(Source::Terminal(terminal.clone()));
    }
    if let Some(pipe) = child.stdin.take().and_then(|pipe| sender(pipe.into()).ok()) {
        input = Input::Pipe(pipe);
    }
    sources.extend(
        child
            .stdout
            .take()
            .and_then(|pipe| receiver(pipe.into()).ok())
            .map(Source::Stdout),
    );
    sources.extend(
        child
            .stderr
            .take()
            .and_then(|pipe| receiver(pipe.into()).ok())
            .map(Source::Stderr),
    );
    Ok(Spawned {
        pid,
        input,
        sources,
        terminal,
    })
}

/// Opens a terminal and gives its far side to the command.
fn open_terminal(size: Size, command: &mut Command) -> io::Result<Rc<Terminal>> {
    let near = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    unlockpt(&near)?;
    tcsetwinsize(&near, winsize(size))?;
    // By ioctl, not by name: /dev/pts may be hidden, or another one.
    let far = ioctl_tiocgptpeer(&near, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    command.stdin(far.try_clone()?).stdout(far.try_clone()?).stderr(far);
    set_nonblocking(&near)?;
    Ok(Rc::new(descriptor::watch(near)?))
}

fn sender(fd: OwnedFd) -> io::Result<pipe::Sender> {
    set_nonblocking(&fd)?;
    pipe::Sender::from_owned_fd_unchecked(fd)
}

fn receiver(fd: OwnedFd) -> io::Result<pipe::Receiver> {
    set_nonblocking(&fd)?;
    pipe::Receiver::from_owned_fd_unchecked(fd)
}

/// Only our side becomes non-blocking: each side of a pipe or terminal has its own flags.
fn set_nonblocking(fd: &OwnedFd) -> io::Result<()> {
    let flags = fcntl_getfl(fd.as_fd())?;
    Ok(fcntl_setfl(fd.as_fd(), flags | OFlags::NONBLOCK)?)
}
