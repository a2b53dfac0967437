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

/// Takes ownership of every open descriptor with a number from 3 to `last`, lowest first, and marks them close-on-exec. To be called once, at
/// the start of the program, before it has opened anything itself; [`take`] must not be called for these numbers then.
///
/// # Errors
/// What poll(2) and fcntl(2) say.
pub fn take_all(last: u16) -> io::Result<Vec<OwnedFd>> {
    /// Descriptors of one call: few, since poll(2) takes no more than the limit of open files.
    const AT_ONCE: usize = 64;
    let numbers: Vec<RawFd> = (FIRST_FREE..=RawFd::from(last)).collect();
    let mut found = Vec::new();
    for part in numbers.chunks(AT_ONCE) {
        let mut polled: Vec<libc::pollfd> = part
            .iter()
            .map(|&fd| libc::pollfd {
                fd,
                events: 0,
                revents: 0,
            })
            .collect();
        let count = libc::nfds_t::try_from(polled.len()).unwrap_or(0);
        // SAFETY: the pointer is to `count` live, writable structures; the call does not wait.
        let asked = check(libc::c_long::from(unsafe { libc::poll(polled.as_mut_ptr(), count, 0) }));
        if asked.is_err_and(|error| error.raw_os_error() == Some(libc::EINVAL)) {
            // A process that may not have so many open files: each by itself.
            found.extend(part.iter().filter_map(|&fd| take(fd).ok()));
            continue;
        }
        // One call says it of many: asking for each by itself would be a thousand calls at every start.
        for open in polled.iter().filter(|polled| polled.revents & libc::POLLNVAL == 0) {
            found.push(take(open.fd)?);
        }
    }
    Ok(found)
}
