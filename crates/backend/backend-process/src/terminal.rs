//! The caller's terminal and the sandbox's: raw mode, window size, bytes both ways.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::termios::{self, OptionalActions, Termios};

/// Bytes copied at a time.
const CHUNK: usize = 16 * 1024;

/// The caller's terminal in raw mode; back as it was on drop.
#[derive(Debug)]
pub(crate) struct RawMode {
    saved: Option<Termios>,
}

impl RawMode {
    /// Puts standard input into raw mode, if it is a terminal.
    pub(crate) fn enter() -> Self {
        let stdin = rustix::stdio::stdin();
        let saved = termios::tcgetattr(stdin).ok();
        if let Some(saved) = &saved {
            let mut raw = saved.clone();
            raw.make_raw();
            // A terminal that can't be set stays as it is: lines are then cooked twice, nothing worse.
            let _ = termios::tcsetattr(stdin, OptionalActions::Now, &raw);
        }
        RawMode { saved }
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        if let Some(saved) = &self.saved {
            let _ = termios::tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, saved);
        }
    }
}

/// Gives the sandbox's terminal the size of the caller's.
pub(crate) fn copy_window_size(to: BorrowedFd<'_>) {
    if let Ok(size) =
        termios::tcgetwinsize(rustix::stdio::stdin()).or_else(|_| termios::tcgetwinsize(rustix::stdio::stdout()))
    {
        let _ = termios::tcsetwinsize(to, size);
    }
}

/// Makes a pair in the devpts mounted at /dev/pts. Returns master and slave.
pub(crate) fn open_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    unlockpt(&master)?;
    let slave = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    Ok((master, slave))
}

/// One direction of bytes.
#[derive(Debug)]
pub(crate) struct Relay<'a> {
    /// Where they come from.
    pub(crate) from: BorrowedFd<'a>,
    /// Where they go.
    pub(crate) to: BorrowedFd<'a>,
    /// Where a copy goes.
    pub(crate) copy: Option<BorrowedFd<'a>>,
}

impl Relay<'_> {
    /// Moves what is there now, at most one chunk. Returns whether more may come.
    pub(crate) fn pump(&self) -> bool {
        let mut buffer = [0_u8; CHUNK];
        match rustix::io::read(self.from, &mut buffer) {
            Ok(0) => false,
            Ok(count) => {
                let bytes = &buffer[..count.min(CHUNK)];
                if let Some(copy) = self.copy {
                    // A log that can't be written must not end the run.
                    let _written = write_all(copy, bytes);
                }
                write_all(self.to, bytes)
            }
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => true,
            // A terminal whose last user is gone reads as EIO.
            Err(_) => false,
        }
    }
}

/// Writes everything; a full non-blocking pipe is waited for. Returns whether it worked.
fn write_all(to: BorrowedFd<'_>, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        match rustix::io::write(to, bytes) {
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => {
                let mut set = [rustix::event::PollFd::from_borrowed_fd(
                    to.as_fd(),
                    rustix::event::PollFlags::OUT,
                )];
                if rustix::event::poll(&mut set, None).is_err() {
                    return false;
                }
            }
            Err(_) => return false,
        }
    }
    true
}
