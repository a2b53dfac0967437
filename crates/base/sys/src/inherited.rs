//! Taking over descriptors that the parent process left open for this one.
#![expect(unsafe_code, reason = "a number becomes a descriptor")]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use crate::check;

/// First number that is not one of the standard streams, which belong to the Rust runtime.
const FIRST_FREE: RawFd = 3;

/// Takes ownership of an inherited descriptor and marks it close-on-exec. To be called once per number, at the start of the program.
///
/// # Errors
/// `EBADF` when it is not open or is a standard stream.
pub fn take(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < FIRST_FREE {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: F_SETFD takes an integer; a number that is not open is an error.
    check(libc::c_long::from(unsafe {
        libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC)
    }))?;
    // SAFETY: the descriptor is open, and the caller takes each number once before anything else has opened it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
