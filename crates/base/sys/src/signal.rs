//! Signals as events: blocked, then taken one at a time.
#![expect(unsafe_code, reason = "sigset_t has no safe wrapper")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::check;

/// Every signal number that can be blocked and is not a fault of our own code.
fn full_set() -> libc::sigset_t {
    // SAFETY: a sigset_t is plain bits; sigfillset and sigdelset below make it well-formed.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live set.
    unsafe { libc::sigfillset(&raw mut set) };
    for fault in [
        libc::SIGSEGV,
        libc::SIGBUS,
        libc::SIGILL,
        libc::SIGFPE,
        libc::SIGABRT,
        libc::SIGSYS,
        libc::SIGTRAP,
    ] {
        // SAFETY: the pointer is to a live set, the number is a signal.
        unsafe { libc::sigdelset(&raw mut set, fault) };
    }
    set
}

fn change_mask(how: i32, set: &libc::sigset_t) -> io::Result<()> {
    // SAFETY: the set is live; the old mask is not asked for.
    check(libc::c_long::from(unsafe {
        libc::sigprocmask(how, set, std::ptr::null_mut())
    }))
    .map(drop)
}

/// Blocks all signals, so that they are only taken by [`take`] or a [`descriptor`].
///
/// # Errors
/// What sigprocmask(2) says.
pub fn block_all() -> io::Result<()> {
    change_mask(libc::SIG_BLOCK, &full_set())
}

/// Gives a child the state that a program expects: nothing blocked, nothing ignored, everything default.
///
/// # Errors
/// What sigprocmask(2) says.
pub fn restore_defaults() -> io::Result<()> {
    // Rust's runtime ignores SIGPIPE, and ignored stays ignored over exec.
    // SAFETY: SIG_DFL is a valid disposition for SIGPIPE.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    // SAFETY: an all-zero set is made well-formed by sigemptyset.
    let mut none: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live set.
    unsafe { libc::sigemptyset(&raw mut none) };
    change_mask(libc::SIG_SETMASK, &none)
}

/// One signal received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Its number.
    pub signal: i32,
    /// The sender's pid as this pid namespace sees it: 0 for one outside.
    pub sender: i32,
    /// Whether the kernel itself sent it (a terminal key, a child's end).
    pub from_kernel: bool,
}

/// Waits for the next blocked signal.
///
/// # Errors
/// What rt_sigtimedwait(2) says, other than an interruption.
pub fn take() -> io::Result<Received> {
    let set = full_set();
    loop {
        // SAFETY: siginfo_t is plain data; all zeros is valid.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: both pointers are to live values.
        let signal = unsafe { libc::sigwaitinfo(&raw const set, &raw mut info) };
        if signal > 0 {
            // SAFETY: the kernel has filled the structure; for every way a signal is sent si_pid is set or zero.
            let sender = unsafe { info.si_pid() };
            return Ok(Received {
                signal,
                sender,
                from_kernel: info.si_code > 0,
            });
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EINTR) {
            return Err(error);
        }
    }
}

/// Makes a descriptor that blocked signals are read from (signalfd(2)), non-blocking and close-on-exec.
///
/// # Errors
/// What signalfd(2) says.
pub fn descriptor() -> io::Result<OwnedFd> {
    let set = full_set();
    // SAFETY: the set is live.
    let fd = check(libc::c_long::from(unsafe {
        libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
    }))?;
    // SAFETY: the kernel has just returned this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).unwrap_or(-1)) })
}

/// Reads the next signal from a [`descriptor`]; `None` when none is waiting.
#[must_use]
pub fn next(descriptor: BorrowedFd<'_>) -> Option<i32> {
    // SAFETY: signalfd_siginfo is plain data; all zeros is valid.
    let mut info: libc::signalfd_siginfo = unsafe { std::mem::zeroed() };
    let size = std::mem::size_of::<libc::signalfd_siginfo>();
    // SAFETY: the buffer is `size` bytes, live and writable.
    let read = unsafe { libc::read(descriptor.as_raw_fd(), (&raw mut info).cast(), size) };
    if usize::try_from(read) == Ok(size) {
        i32::try_from(info.ssi_signo).ok()
    } else {
        None
    }
}

/// Stops the calling process as the terminal's Ctrl-Z would have.
pub fn stop_self() {
    // SAFETY: raise takes any signal; SIGSTOP can't be blocked.
    unsafe { libc::raise(libc::SIGSTOP) };
}
