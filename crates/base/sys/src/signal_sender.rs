//! Reading a signal together with where it came from: PID 1 of a sandbox must not obey the programs inside.
#![expect(unsafe_code, reason = "signalfd_siginfo is read as raw bytes")]

use std::os::fd::{AsRawFd, BorrowedFd};

/// One signal, and whether to believe it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// Its number.
    pub signal: i32,
    /// Whether the kernel or a process outside this pid namespace sent it. A program inside can't forge this: the kernel lets it choose
    /// the sender only together with a negative code (rt_sigqueueinfo(2)).
    pub from_outside: bool,
}

/// Reads the next signal from a [`crate::signal::descriptor`]; `None` when none is waiting.
#[must_use]
pub fn next(descriptor: BorrowedFd<'_>) -> Option<Sent> {
    // SAFETY: signalfd_siginfo is plain data; all zeros is valid.
    let mut info: libc::signalfd_siginfo = unsafe { std::mem::zeroed() };
    let size = std::mem::size_of::<libc::signalfd_siginfo>();
    // SAFETY: the buffer is `size` bytes, live and writable.
    let read = unsafe { libc::read(descriptor.as_raw_fd(), (&raw mut info).cast(), size) };
    if usize::try_from(read) != Ok(size) {
        return None;
    }
    Some(Sent {
        signal: i32::try_from(info.ssi_signo).ok()?,
        from_outside: info.ssi_code >= 0 && info.ssi_pid == 0,
    })
}
