//! A signal that does nothing but interrupt a thread's system call.
#![expect(unsafe_code, reason = "signal handlers have no safe wrapper")]

use std::io;

use crate::check;

extern "C" fn nothing(_: libc::c_int) {}

/// The signal: the first real-time one that libc leaves free.
#[must_use]
pub fn signal() -> i32 {
    libc::SIGRTMIN()
}

/// Makes [`signal`] interrupt system calls (without SA_RESTART) and nothing else.
///
/// # Errors
/// What sigaction(2) says.
pub fn install() -> io::Result<()> {
    let handler: extern "C" fn(libc::c_int) = nothing;
    // SAFETY: a sigaction of zeroes is valid: no flags, an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as libc::sighandler_t;
    // SAFETY: the handler does nothing, so it is safe at any moment; the old action is not asked for.
    let done = unsafe { libc::sigaction(signal(), &raw const action, std::ptr::null_mut()) };
    check(libc::c_long::from(done)).map(drop)
}
