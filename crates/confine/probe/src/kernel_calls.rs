//! The raw calls of this crate, one function each, answering `0` or an `errno`. Those that [`crate::trial`]'s child makes neither
//! allocate nor take locks.
#![expect(unsafe_code, reason = "calls that have no safe wrapper; each is one unsafe block")]

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::atomic::AtomicI32;

/// The answer of a call as `0` or its `errno`. Allocates nothing: the error holds the number only.
fn errno(result: libc::c_long) -> i32 {
    if result >= 0 {
        0
    } else {
        std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
    }
}

/// unshare(2).
pub(crate) fn unshare(flags: i32) -> i32 {
    // SAFETY: only called in a child with one thread; CLONE_FILES is never among the flags.
    errno(unsafe { libc::unshare(flags) }.into())
}

/// mount(2).
pub(crate) fn mount(source: &CStr, target: &CStr, kind: &CStr, flags: libc::c_ulong, data: &CStr) -> i32 {
    let (source, target, kind) = (source.as_ptr(), target.as_ptr(), kind.as_ptr());
    // SAFETY: all are NUL-terminated strings that outlive the call.
    errno(unsafe { libc::mount(source, target, kind, flags, data.as_ptr().cast()) }.into())
}

/// pivot_root(2).
pub(crate) fn pivot_root(new: &CStr, old: &CStr) -> i32 {
    // SAFETY: both are NUL-terminated strings that outlive the call.
    errno(unsafe { libc::syscall(libc::SYS_pivot_root, new.as_ptr(), old.as_ptr()) })
}

/// mkdir(2), for the caller alone.
pub(crate) fn mkdir(path: &CStr) -> i32 {
    // SAFETY: the path is a NUL-terminated string that outlives the call.
    errno(unsafe { libc::mkdir(path.as_ptr(), 0o700) }.into())
}

/// unlink(2).
pub(crate) fn unlink(path: &CStr) -> i32 {
    // SAFETY: the path is a NUL-terminated string that outlives the call.
    errno(unsafe { libc::unlink(path.as_ptr()) }.into())
}

/// chdir(2).
pub(crate) fn chdir(path: &CStr) -> i32 {
    // SAFETY: the path is a NUL-terminated string that outlives the call.
    errno(unsafe { libc::chdir(path.as_ptr()) }.into())
}

/// Opens a file for writing (`flags` may add `O_CREAT`) and writes the bytes in one go.
pub(crate) fn write_file(path: &CStr, flags: i32, bytes: &[u8]) -> i32 {
    // SAFETY: the path is a NUL-terminated string that outlives the call; a mode is given for O_CREAT.
    let fd = unsafe { libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC | flags, 0o600) };
    if fd < 0 {
        return errno(fd.into());
    }
    // SAFETY: the pointer and the length are those of a live slice.
    let written = unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) };
    let result = errno(i64::try_from(written).unwrap_or(-1));
    // SAFETY: fd was opened above and nobody else has it.
    unsafe { libc::close(fd) };
    result
}

/// fork(2): 0 in the child, the child's pid in the parent, negative on failure.
///
/// The child has one thread and must call nothing but this module's functions until [`exit_now`]: another thread may have
/// held any lock, the allocator's too, at the moment of the fork.
pub(crate) fn fork() -> i32 {
    // SAFETY: the rule above keeps the child to async-signal-safe calls; trial.rs, the only caller, obeys it.
    unsafe { libc::fork() }
}

/// Ends this process without running anything.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: no preconditions.
    unsafe { libc::_exit(code) }
}

/// Has the kernel kill this process when the thread that forked it ends.
pub(crate) fn die_with_parent() {
    // SAFETY: PR_SET_PDEATHSIG takes one integer.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
}

/// Waits for a child to end.
pub(crate) fn wait_for(pid: i32) {
    // SAFETY: a null status pointer is allowed.
    while unsafe { libc::waitpid(pid, ptr::null_mut(), 0) } < 0 {
        if errno(-1) != libc::EINTR {
            return;
        }
    }
}

/// Kills a child that was not reaped yet, so that its pid can't be another's.
pub(crate) fn kill(pid: i32) {
    // SAFETY: no preconditions.
    unsafe { libc::kill(pid, libc::SIGKILL) };
}

/// Writes one byte to a pipe.
pub(crate) fn signal_pipe(fd: RawFd) {
    // SAFETY: the pointer is to one live byte; a bad descriptor only fails.
    unsafe { libc::write(fd, [1_u8].as_ptr().cast(), 1) };
}

/// Waits for one byte or the end of a pipe for at most `timeout_ms`; returns whether a byte came.
pub(crate) fn await_pipe(fd: RawFd, timeout_ms: i32) -> bool {
    let mut poll = libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: the pointer is to one live pollfd.
    if unsafe { libc::poll(&raw mut poll, 1, timeout_ms) } != 1 {
        return false;
    }
    let mut byte = 0_u8;
    // SAFETY: the pointer is to one live, writable byte.
    unsafe { libc::read(fd, (&raw mut byte).cast(), 1) == 1 }
}

/// A page of numbers that a child shares with its parent.
#[derive(Debug)]
pub(crate) struct SharedNumbers<const N: usize> {
    page: ptr::NonNull<[AtomicI32; N]>,
}

impl<const N: usize> SharedNumbers<N> {
    /// Maps the page, all zeros; `None` where memory is short.
    pub(crate) fn map() -> Option<Self> {
        let (access, flags) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS,
        );
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no existing memory.
        let page = unsafe { libc::mmap(ptr::null_mut(), size_of::<[AtomicI32; N]>(), access, flags, -1, 0) };
        (page != libc::MAP_FAILED)
            .then(|| ptr::NonNull::new(page.cast()))
            .flatten()
            .map(|page| SharedNumbers { page })
    }

    /// The numbers.
    pub(crate) fn numbers(&self) -> &[AtomicI32; N] {
        // SAFETY: the page is mapped, aligned and zeroed, which is a valid array of atomics, for as long as `self` lives.
        unsafe { self.page.as_ref() }
    }
}

impl<const N: usize> Drop for SharedNumbers<N> {
    fn drop(&mut self) {
        // SAFETY: mapped in `map` with the same size; no reference outlives `self`.
        unsafe { libc::munmap(self.page.as_ptr().cast(), size_of::<[AtomicI32; N]>()) };
    }
}

/// landlock_create_ruleset(2) with `LANDLOCK_CREATE_RULESET_VERSION`: the ABI, or an errno.
pub(crate) fn landlock_abi() -> Result<u32, i32> {
    const VERSION: u32 = 1;
    let no_attributes = ptr::null::<libc::c_void>();
    // SAFETY: with this flag the kernel wants a null pointer and size 0, and only returns a number.
    let abi = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, no_attributes, 0_usize, VERSION) };
    u32::try_from(abi).map_err(|_| errno(-1))
}

/// seccomp(2) without a filter: `EFAULT` means that the kernel knows filters and all these flags.
pub(crate) fn seccomp_filter_flags(flags: libc::c_ulong) -> i32 {
    let no_filter = ptr::null::<libc::c_void>();
    // SAFETY: the kernel checks the flags, then fails to read the null pointer; no filter is installed.
    errno(unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, no_filter) })
}

/// `KVM_GET_API_VERSION` (`_IO(0xAE, 0)`, kernel `include/uapi/linux/kvm.h`).
pub(crate) fn kvm_api_version(kvm: &File) -> i32 {
    const KVM_GET_API_VERSION: libc::Ioctl = 0xae00;
    // SAFETY: the request takes no argument and only returns a number.
    unsafe { libc::ioctl(kvm.as_raw_fd(), KVM_GET_API_VERSION, 0) }
}

/// Clones the mount of a directory and maps its owners through a user namespace: `0` if that works, else the errno.
pub(crate) fn try_idmapped_mount(dir: &CStr, user_namespace: impl AsFd) -> i32 {
    const OPEN_TREE_CLONE: libc::c_uint = 1;
    const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;
    let flags = OPEN_TREE_CLONE | libc::O_CLOEXEC.cast_unsigned();
    // SAFETY: the path is a NUL-terminated string that outlives the call.
    let tree = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, dir.as_ptr(), flags) };
    let Some(tree) = i32::try_from(tree).ok().filter(|tree| *tree >= 0) else {
        return errno(-1);
    };
    // SAFETY: the descriptor is new and nobody else has it. Closing it undoes the cloned mount, which was never attached.
    let tree = unsafe { OwnedFd::from_raw_fd(tree) };
    // attr_set, attr_clr, propagation, userns_fd (mount_setattr(2)).
    let attributes: [u64; 4] = [
        MOUNT_ATTR_IDMAP,
        0,
        0,
        u64::from(user_namespace.as_fd().as_raw_fd().unsigned_abs()),
    ];
    let (fd, size) = (tree.as_raw_fd(), size_of_val(&attributes));
    let empty = c"".as_ptr();
    // SAFETY: the array has the layout and size of `struct mount_attr` and outlives the call.
    errno(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd,
            empty,
            libc::AT_EMPTY_PATH,
            attributes.as_ptr(),
            size,
        )
    })
}
