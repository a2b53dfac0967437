//! Raw Linux calls that `rustix` has no safe form of: the home of unsafe code. Each file wraps one family and exposes safe functions.

pub mod capabilities;
pub mod counted;
pub mod exec;
pub mod inherited;
pub mod kick;
pub mod mount;
pub mod notify;
pub mod pass_fd;
pub mod privilege;
pub mod process;
pub mod session;
pub mod signal;
pub mod signal_sender;
pub mod user;
pub mod userfaultfd;

use std::io;

/// One instruction of a seccomp filter (`struct sock_filter`).
pub type Instruction = libc::sock_filter;

/// Turns a libc-style return value into a result.
pub(crate) fn check(value: libc::c_long) -> io::Result<libc::c_long> {
    if value < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(value)
    }
}
