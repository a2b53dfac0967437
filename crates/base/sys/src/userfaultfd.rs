//! `userfaultfd(2)`: page faults of a range of memory, answered by another process.
#![expect(unsafe_code, reason = "the userfaultfd calls have no safe wrapper")]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

use crate::check;

/// `UFFD_API` (linux/userfaultfd.h).
const API: u64 = 0xaa;
/// `USERFAULTFD_IOC_NEW` of `/dev/userfaultfd`, Linux 6.1 (linux/userfaultfd.h): `_IO(0xaa, 0)`.
const NEW: libc::c_ulong = 0xaa00;
/// `UFFDIO_API`: `_IOWR(0xaa, 0x3f, struct uffdio_api)`.
const HANDSHAKE: libc::c_ulong = 0xc018_aa3f;
/// `UFFDIO_REGISTER`: `_IOWR(0xaa, 0, struct uffdio_register)`.
const REGISTER: libc::c_ulong = 0xc020_aa00;
/// `UFFDIO_REGISTER_MODE_MISSING`: faults of pages that are not there.
const MODE_MISSING: u64 = 1;

/// `UFFD_FEATURE_EVENT_REMOVE`: the reader is told of `madvise(MADV_DONTNEED)` (Linux 4.11).
pub const EVENT_REMOVE: u64 = 1 << 3;
/// `UFFD_FEATURE_MISSING_HUGETLBFS`: also for pages of hugetlbfs (Linux 4.11).
pub const MISSING_HUGETLBFS: u64 = 1 << 4;

/// `struct uffdio_api`.
#[repr(C)]
#[derive(Debug)]
struct Handshake {
    api: u64,
    features: u64,
    ioctls: u64,
}

/// `struct uffdio_register`.
#[repr(C)]
#[derive(Debug)]
struct Register {
    start: u64,
    bytes: u64,
    mode: u64,
    ioctls: u64,
}

fn owned(descriptor: libc::c_long) -> io::Result<OwnedFd> {
    let descriptor = RawFd::try_from(check(descriptor)?).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made it for this call, so nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Makes a descriptor by the system call; not blocking, and closed by exec. It reports faults in the kernel too, which KVM's are, so
/// `UFFD_USER_MODE_ONLY` is not among its flags.
///
/// # Errors
/// What userfaultfd(2) says: `EPERM` without `CAP_SYS_PTRACE` where the sysctl `vm.unprivileged_userfaultfd` is 0.
pub fn create() -> io::Result<OwnedFd> {
    // SAFETY: the call takes flags only.
    owned(unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | libc::O_NONBLOCK) })
}

/// Makes the same descriptor by `/dev/userfaultfd`, whose rights are those of its file.
///
/// # Errors
/// What ioctl(2) says.
pub fn create_by_device(device: &File) -> io::Result<OwnedFd> {
    let flags = libc::c_long::from(libc::O_CLOEXEC | libc::O_NONBLOCK);
    // SAFETY: the call takes flags only.
    let descriptor = unsafe { libc::ioctl(device.as_raw_fd(), crate::request(NEW), flags) };
    owned(libc::c_long::from(descriptor))
}

/// Asks for features; must be the first call on a new descriptor.
///
/// # Errors
/// What ioctl(2) says: `EINVAL` when the kernel lacks one of the features.
pub fn handshake(userfault: BorrowedFd<'_>, features: u64) -> io::Result<()> {
    let mut request = Handshake {
        api: API,
        features,
        ioctls: 0,
    };
    // SAFETY: the pointer is to a live request, which the kernel reads and writes.
    let done = unsafe { libc::ioctl(userfault.as_raw_fd(), crate::request(HANDSHAKE), &raw mut request) };
    check(libc::c_long::from(done))?;
    Ok(())
}

/// Lets whoever reads the descriptor answer the faults of missing pages from `start` on.
///
/// # Errors
/// What ioctl(2) says.
///
/// # Safety
/// The range is of mappings of the caller's that nothing accesses but volatilely: a page that is not there gets the contents that the
/// reader of the descriptor says, and an access waits until it does.
pub unsafe fn register_missing(userfault: BorrowedFd<'_>, start: *mut u8, bytes: u64) -> io::Result<()> {
    let mut request = Register {
        start: start.expose_provenance() as u64,
        bytes,
        mode: MODE_MISSING,
        ioctls: 0,
    };
    // SAFETY: the pointer is to a live request; the caller vouches for the range.
    let done = unsafe { libc::ioctl(userfault.as_raw_fd(), crate::request(REGISTER), &raw mut request) };
    check(libc::c_long::from(done))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd as _;

    #[test]
    fn the_numbers_are_those_of_the_header() {
        // _IOWR(type, number, size) of asm-generic/ioctl.h.
        let code = |number: u64, bytes: usize| 3 << 30 | (bytes as u64) << 16 | API << 8 | number;
        assert_eq!(
            code(0x3f, size_of::<Handshake>()),
            u64::from(u32::try_from(HANDSHAKE).unwrap())
        );
        assert_eq!(
            code(0, size_of::<Register>()),
            u64::from(u32::try_from(REGISTER).unwrap())
        );
    }

    #[test]
    fn features_are_asked_for_once_and_unknown_ones_refused() {
        let made = match create() {
            Ok(made) => made,
            Err(error) if matches!(error.raw_os_error(), Some(libc::EPERM | libc::ENOSYS)) => {
                println!("SKIPPED: this user may not make a userfaultfd: {error}");
                return;
            }
            Err(error) => panic!("{error}"),
        };
        assert_eq!(
            handshake(made.as_fd(), 1 << 63).unwrap_err().raw_os_error(),
            Some(libc::EINVAL)
        );
        handshake(made.as_fd(), EVENT_REMOVE).unwrap();
    }

    #[test]
    fn the_device_makes_them_too() {
        let device = match File::open("/dev/userfaultfd") {
            Ok(device) => device,
            Err(error) => {
                println!("SKIPPED: /dev/userfaultfd: {error}");
                return;
            }
        };
        let made = create_by_device(&device).unwrap();
        handshake(made.as_fd(), EVENT_REMOVE | MISSING_HUGETLBFS).unwrap();
    }
}
