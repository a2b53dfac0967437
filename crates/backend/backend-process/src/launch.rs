//! From the fork off init to the program: terminal, limits, Landlock, seccomp, exec. Nothing here comes back.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use ringwall_confine::landlock::{self, Restriction};
use ringwall_confine::lockdown::{apply_rlimits, drop_privileges};
use ringwall_sys::exec::Image;
use ringwall_sys::process::{Rlimit, close_on_exec_from, exit_now, keep_on_exec};
use ringwall_sys::{pass_fd, privilege, signal};

use ringwall_types::Tier;

use crate::control::Message;
use crate::plan::Plan;

/// Exit codes of a shell for a command that can't be run.
pub(crate) const CANNOT_EXECUTE: i32 = 126;
/// See [`CANNOT_EXECUTE`].
pub(crate) const NOT_FOUND: i32 = 127;
/// Ringwall's own failure.
pub(crate) const OWN_FAILURE: i32 = 125;

/// `ENOENT`, `ENOTDIR`.
const MISSING: [i32; 2] = [2, 20];

/// Everything the program-to-be needs, prepared before the fork.
#[derive(Debug)]
pub(crate) struct Launch<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) control: BorrowedFd<'a>,
    /// The terminal's slave.
    pub(crate) terminal: Option<OwnedFd>,
    /// Pipes to the keeper, in place of standard output and error.
    pub(crate) outputs: Option<&'a (OwnedFd, OwnedFd)>,
    pub(crate) filter: &'a [ringwall_sys::Instruction],
    /// Whether denied calls go to the keeper.
    pub(crate) listen: bool,
    pub(crate) restriction: Option<Restriction>,
    /// A user to become (the landlock tier run by root).
    pub(crate) user: Option<(u32, u32)>,
    pub(crate) since: Instant,
    /// Whether the keeper wants to know how long it took.
    pub(crate) timed: bool,
    /// The agent's executable, for a guest.
    pub(crate) agent: Option<OwnedFd>,
}

impl Launch<'_> {
    /// Becomes the program.
    pub(crate) fn go(self) -> ! {
        let failed = |why: String| -> ! {
            drop(pass_fd::send(self.control, &Message::Failed(why).encode(), &[]));
            exit_now(OWN_FAILURE)
        };
        if let Err(why) = self.prepare() {
            failed(why);
        }
        let image = Image::new(self.plan.arguments.clone(), self.plan.environment.clone());
        let candidates = match &self.agent {
            Some(agent) => CString::new(format!("/proc/self/fd/{}", agent.as_raw_fd()))
                .into_iter()
                .collect(),
            None => candidates(&self.plan.arguments, &self.plan.search_path),
        };
        if self.timed {
            let us = u64::try_from(self.since.elapsed().as_micros()).unwrap_or(u64::MAX);
            drop(pass_fd::send(self.control, &Message::Executing(us).encode(), &[]));
        }
        match privilege::install_filter(self.filter, self.listen) {
            Ok(None) => {}
            Ok(Some(listener)) => {
                if let Err(error) = pass_fd::send(self.control, &Message::Listener.encode(), &[listener.as_fd()]) {
                    failed(format!("can't hand over the seccomp listener: {error}"));
                }
            }
            Err(error) => failed(format!("can't install the seccomp filter: {error}")),
        }
        let mut found_but: Option<std::io::Error> = None;
        for path in &candidates {
            let error = image.exec(path);
            if !error.raw_os_error().is_some_and(|number| MISSING.contains(&number)) {
                found_but.get_or_insert(error);
            } else if found_but.is_none()
                && candidates.len() == 1
                && std::fs::symlink_metadata(Path::new(std::ffi::OsStr::from_bytes(path.to_bytes()))).is_ok()
            {
                // The file is there: what is missing is its interpreter.
                found_but = Some(std::io::Error::other("its interpreter is missing inside the sandbox"));
            }
        }
        let (message, code) = match found_but {
            Some(error) => (Message::NotExecutable(error.to_string()), CANNOT_EXECUTE),
            None => (Message::NotFound, NOT_FOUND),
        };
        drop(pass_fd::send(self.control, &message.encode(), &[]));
        exit_now(code)
    }

    fn prepare(&self) -> Result<(), String> {
        // A process group of its own in either case: kill(0, …) must not reach ours, and signals are forwarded to the group.
        match self.plan.tier {
            // Init leads a session already.
            Tier::Namespace if self.agent.is_some() => Ok(()),
            Tier::Namespace => rustix::process::setsid().map(drop),
            Tier::Landlock => rustix::process::setpgid(None, None),
        }
        .map_err(|error| format!("can't make a process group: {error}"))?;
        self.connect()
            .map_err(|error| format!("can't connect the terminal: {error}"))?;
        if let Some(cpus) = self.plan.limits.pin_cpus {
            ringwall_sys::process::pin_to_cpus(cpus).map_err(|error| format!("can't set the CPUs: {error}"))?;
        }
        // Init is not dumpable, and so neither is its child until it executes: its /proc files would be root's.
        drop(privilege::set_dumpable(true));
        if self.agent.is_none() {
            // Of all processes of the host, these should go first when memory runs out. It may always be raised; an agent raises it for
            // those it starts.
            drop(std::fs::write("/proc/self/oom_score_adj", "500"));
        }
        rustix::process::chdir(&self.plan.workdir).map_err(|error| {
            format!(
                "can't enter the working directory {} inside the sandbox: {error}",
                self.plan.workdir.display()
            )
        })?;
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
        let mut rlimits = self.plan.limits.rlimits.clone();
        rlimits.push((Rlimit::MessageQueues, 0));
        apply_rlimits(&rlimits).map_err(chain)?;
        // Rules are opened while it still can be done: the user that the program becomes may not reach them by path.
        let rules = self
            .restriction
            .as_ref()
            .map(landlock::prepare)
            .transpose()
            .map_err(chain)?;
        if let Some((uid, gid)) = self.user {
            privilege::drop_bounding_set().map_err(|error| format!("can't drop the bounding set: {error}"))?;
            privilege::become_user(uid, gid).map_err(|error| format!("can't change the user: {error}"))?;
            // Changing the user cleared it.
            privilege::die_with_parent(9).map_err(|error| format!("can't tie the program to its keeper: {error}"))?;
        }
        if self.plan.tier == Tier::Landlock {
            // In the namespace tier init has dropped them for itself and its children.
            drop_privileges().map_err(chain)?;
        }
        signal::restore_defaults().map_err(|error| format!("can't reset signals: {error}"))?;
        close_on_exec_from(3).map_err(|error| format!("can't close what was inherited: {error}"))?;
        if let Some(guest) = &self.plan.guest {
            // The control socket's end tells the keeper that the agent is gone. The agent passes nothing of this on to what it starts.
            for fd in guest.descriptors.iter().copied().chain([self.control.as_raw_fd()]) {
                keep_on_exec(fd).map_err(|error| format!("can't pass a descriptor on: {error}"))?;
            }
        }
        if let Some(rules) = rules {
            landlock::enforce(rules).map_err(chain)?;
        }
        Ok(())
    }

    fn connect(&self) -> std::io::Result<()> {
        if let Some(slave) = &self.terminal {
            match self.plan.tier {
                Tier::Namespace => rustix::process::ioctl_tiocsctty(slave)?,
                Tier::Landlock => rustix::termios::tcsetpgrp(slave, rustix::process::getpgrp())?,
            }
            rustix::stdio::dup2_stdin(slave)?;
            rustix::stdio::dup2_stdout(slave)?;
            rustix::stdio::dup2_stderr(slave)?;
        } else if let Some((out, err)) = self.outputs {
            rustix::stdio::dup2_stdout(out)?;
            rustix::stdio::dup2_stderr(err)?;
        }
        Ok(())
    }
}

/// Returns an error and its causes as one line.
pub(crate) fn chain(error: impl std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// Returns the paths to try, as execvp(3) would.
fn candidates(arguments: &[CString], search_path: &[PathBuf]) -> Vec<CString> {
    let Some(command) = arguments.first() else {
        return Vec::new();
    };
    if command.as_bytes().contains(&b'/') {
        return vec![command.clone()];
    }
    if command.is_empty() {
        return Vec::new();
    }
    let file = std::ffi::OsStr::from_bytes(command.as_bytes());
    search_path
        .iter()
        .filter_map(|directory| CString::new(directory.join(file).into_os_string().as_bytes()).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slash_means_no_search() {
        let path = [PathBuf::from("/a"), PathBuf::from("/b")];
        let texts = |command: &str| {
            let arguments = [CString::new(command).unwrap()];
            candidates(&arguments, &path)
                .iter()
                .map(|path| path.to_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(texts("x"), ["/a/x", "/b/x"]);
        assert_eq!(texts("./x"), ["./x"]);
        assert!(texts("").is_empty());
    }
}
