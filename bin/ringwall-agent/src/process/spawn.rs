//! Fork and exec of a plan that is already decided.

use std::collections::BTreeMap;
use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::rc::Rc;

use crate::descriptor;
use ringwall_agent_proto::process::Size;
use ringwall_sys::capabilities::Capabilities;
use ringwall_sys::session::{self, SessionSpec};
use ringwall_sys::user::Ids;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::{Gid, Uid};
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
    pub(super) directory: Directory,
    /// Whose rights it has, when those are not the agent's own.
    pub(super) user: Option<Ids>,
    /// What that user may hold.
    pub(super) keeps: Capabilities,
    pub(super) streams: Streams,
}

/// Where a process starts.
#[derive(Debug)]
pub(super) enum Directory {
    /// Here, or it does not start.
    Named(PathBuf),
    /// Here if it can be entered, else in `/`.
    IfPossible(PathBuf),
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
    command.args(&plan.arguments).env_clear().envs(&plan.environment);
    let mut input = Input::Closed;
    let mut sources = Vec::with_capacity(2);
    let mut terminal = None;
    if let Streams::Terminal(size) = plan.streams {
        let near = open_terminal(size, plan.user, &mut command)?;
        input = Input::Terminal(near.clone());
        sources.push(Source::Terminal(near.clone()));
        terminal = Some(near);
    } else {
        if plan.streams == Streams::Pipes {
            let (far, near) = open_pipe(plan.user)?;
            command.stdin(far);
            input = Input::Pipe(sender(near)?);
        } else {
            command.stdin(Stdio::null());
        }
        let (near, far) = open_pipe(plan.user)?;
        command.stdout(far);
        sources.push(Source::Stdout(receiver(near)?));
        let (near, far) = open_pipe(plan.user)?;
        command.stderr(far);
        sources.push(Source::Stderr(receiver(near)?));
    }
    let (directory, may_start_in_root) = match &plan.directory {
        Directory::Named(path) => (path, false),
        Directory::IfPossible(path) => (path, true),
    };
    let spec = SessionSpec {
        terminal: match terminal {
            Some(_) => session::Terminal::Stdin,
            None => session::Terminal::None,
        },
        user: plan.user,
        keeps: plan.keeps,
        directory: CString::new(directory.as_os_str().as_bytes())?,
        may_start_in_root,
    };
    session::lead_new_session(&mut command, spec);
    let child = oom.raised(|| command.spawn())?;
    Ok(Spawned {
        pid: child.id(),
        input,
        sources,
        terminal,
    })
}

/// Makes a pipe that is the user's: programs open their standard streams by name, as `/dev/stderr`. Returns its end to read and its end to write.
fn open_pipe(user: Option<Ids>) -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    // Both ends are one file.
    hand_over(&reader, user)?;
    Ok((reader, writer))
}

fn hand_over(fd: &OwnedFd, user: Option<Ids>) -> io::Result<()> {
    if let Some(Ids { uid, gid }) = user {
        rustix::fs::fchown(fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    }
    Ok(())
}

/// Opens a terminal and gives its far side to the command.
fn open_terminal(size: Size, user: Option<Ids>, command: &mut Command) -> io::Result<Rc<Terminal>> {
    let near = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    unlockpt(&near)?;
    tcsetwinsize(&near, winsize(size))?;
    // By ioctl, not by name: /dev/pts may be hidden, or another one.
    let far = ioctl_tiocgptpeer(&near, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    hand_over(&far, user)?;
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
