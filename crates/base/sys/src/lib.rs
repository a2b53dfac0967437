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

/// An ioctl's request as the C library wants it: glibc as the number that it is, musl as a signed one of the 32 bits that it has
/// (Documentation/userspace-api/ioctl/ioctl-decoding.rst).
#[cfg_attr(
    target_env = "musl",
    expect(clippy::cast_possible_truncation, reason = "it has 32 bits")
)]
pub(crate) const fn request(number: libc::c_ulong) -> libc::Ioctl {
    number as libc::Ioctl
}
