//! Starting a program as the leader of its own session: with or without a terminal, as the caller or as another user.
#![expect(
    unsafe_code,
    reason = "code between fork and exec must be async-signal-safe, which no type can say"
)]

use std::ffi::CString;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use crate::capabilities::Capabilities;
use crate::user::Ids;

/// Where the program's terminal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Terminal {
    /// It has none.
    None,
    /// Its standard input is one, to become the controlling terminal.
    Stdin,
}

/// What a session is to be.
#[derive(Debug, Clone)]
pub struct SessionSpec {
    /// Its terminal.
    pub terminal: Terminal,
    /// A user to become, with no capability left but `keeps`; `None` to stay who the caller is, with what it has.
    pub user: Option<Ids>,
    /// What that user may hold. For any other than root that can only be nothing.
    pub keeps: Capabilities,
    /// Where it starts. Entered as that user, so not by the command's own `current_dir`.
    pub directory: CString,
    /// Whether it starts in `/` if that directory can't be entered.
    pub may_start_in_root: bool,
}

/// Makes the program the leader of a new session and process group, with signals as a program expects them: those to the group reach all
/// that it starts, and none to ours reach it.
pub fn lead_new_session(command: &mut Command, spec: SessionSpec) {
    let prepare = move || {
        // std's Command hands the caller's signal mask on: a program that can't be asked to end would be left.
        crate::signal::restore_defaults()?;
        rustix::process::setsid()?;
        if spec.terminal == Terminal::Stdin {
            // SAFETY: TIOCSCTTY takes an integer; 0 is the standard input, which std has put in place before this runs.
            if unsafe { libc::ioctl(0, libc::TIOCSCTTY as libc::Ioctl, 0) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        if let Some(user) = spec.user {
            user.become_for_good(spec.keeps)?;
        }
        // From here on with the rights of the program.
        match rustix::process::chdir(spec.directory.as_c_str()) {
            Err(_) if spec.may_start_in_root => rustix::process::chdir(c"/")?,
            entered => entered?,
        }
        Ok(())
    };
    // SAFETY: `prepare` only makes system calls: it allocates nothing and takes no lock, so it may run between fork and exec.
    unsafe { command.pre_exec(prepare) };
}
