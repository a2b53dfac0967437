//! Seccomp user notification (seccomp_unotify(2)): taking a notice and answering it with an error.
#![expect(unsafe_code, reason = "the notification ioctls have no safe wrapper")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::check;

/// `struct seccomp_notif` (linux/seccomp.h), 80 bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct Notice {
    id: u64,
    pid: u32,
    flags: u32,
    nr: i32,
    arch: u32,
    instruction_pointer: u64,
    args: [u64; 6],
}

/// `struct seccomp_notif_resp` (linux/seccomp.h), 24 bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Answer {
    id: u64,
    val: i64,
    error: i32,
    flags: u32,
}

/// `SECCOMP_IOCTL_NOTIF_RECV` and `_SEND` (linux/seccomp.h): `_IOWR('!', 0 or 1, …)`.
const RECEIVE: libc::c_ulong = 0xC050_2100;
const SEND: libc::c_ulong = 0xC018_2101;

/// A trapped system call. Its arguments are numbers as they were at the call; what they point to may change at any time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trapped {
    /// The kernel's cookie for it.
    pub id: u64,
    /// The system call's number.
    pub number: i32,
    /// The arguments.
    pub args: [u64; 6],
}

/// Takes the next notice; `None` when the caller died in between.
///
/// # Errors
/// What ioctl(2) says.
pub fn receive(listener: BorrowedFd<'_>) -> io::Result<Option<Trapped>> {
    let mut notice = Notice::default();
    // SAFETY: the pointer is to a live, zeroed notice, as the call demands.
    match check(libc::c_long::from(unsafe {
        libc::ioctl(listener.as_raw_fd(), crate::request(RECEIVE), &raw mut notice)
    })) {
        Ok(_) => Ok(Some(Trapped {
            id: notice.id,
            number: notice.nr,
            args: notice.args,
        })),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINTR)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Answers a trapped call with an error number.
///
/// # Errors
/// What ioctl(2) says, other than that the caller died.
pub fn refuse(listener: BorrowedFd<'_>, trapped: &Trapped, errno: i32) -> io::Result<()> {
    let answer = Answer {
        id: trapped.id,
        val: 0,
        error: -errno,
        flags: 0,
    };
    // SAFETY: the pointer is to a live answer.
    match check(libc::c_long::from(unsafe {
        libc::ioctl(listener.as_raw_fd(), crate::request(SEND), &raw const answer)
    })) {
        Err(error) if error.raw_os_error() != Some(libc::ENOENT) => Err(error),
        _ => Ok(()),
    }
}
