//! Mount calls: the classic ones by path, the new ones by descriptor, and idmapped mounts.
#![expect(unsafe_code, reason = "mount_setattr has no safe wrapper in rustix")]

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::check;

/// `MOUNT_ATTR_*` bits (mount_setattr(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MountAttributes(pub u64);

impl MountAttributes {
    /// Read-only.
    pub const READ_ONLY: MountAttributes = MountAttributes(0x1);
    /// Set-id bits and file capabilities are ignored.
    pub const NO_SUID: MountAttributes = MountAttributes(0x2);
    /// Device nodes can't be opened.
    pub const NO_DEV: MountAttributes = MountAttributes(0x4);
    /// Nothing can be executed.
    pub const NO_EXEC: MountAttributes = MountAttributes(0x8);

    /// Both sets together.
    #[must_use]
    pub const fn and(self, other: MountAttributes) -> Self {
        MountAttributes(self.0 | other.0)
    }
}

/// `MOUNT_ATTR_IDMAP` (mount_setattr(2), Linux 5.12).
const IDMAP: u64 = 0x0010_0000;
/// `OPEN_TREE_CLONE`, `AT_RECURSIVE` (open_tree(2)).
const OPEN_TREE_CLONE: u32 = 1;
const AT_RECURSIVE: u32 = 0x8000;
/// `MOVE_MOUNT_F_EMPTY_PATH` (move_mount(2)).
const MOVE_MOUNT_F_EMPTY_PATH: u32 = 0x4;

#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

fn set_attributes(fd: i32, path: &CStr, flags: u32, attributes: &MountAttr) -> io::Result<()> {
    let size = std::mem::size_of::<MountAttr>();
    // SAFETY: the path is NUL-terminated and the struct is of the size given (MOUNT_ATTR_SIZE_VER0, 32 bytes).
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd,
            path.as_ptr(),
            flags,
            std::ptr::from_ref(attributes),
            size,
        )
    })
    .map(drop)
}

/// Sets and clears attributes of the mount at `path`, and of all below it when `recursive`.
///
/// # Errors
/// What mount_setattr(2) says (Linux 5.12).
pub fn change_attributes(path: &CStr, set: MountAttributes, clear: MountAttributes, recursive: bool) -> io::Result<()> {
    let attributes = MountAttr {
        attr_set: set.0,
        attr_clr: clear.0,
        propagation: 0,
        userns_fd: 0,
    };
    set_attributes(
        libc::AT_FDCWD,
        path,
        if recursive { AT_RECURSIVE } else { 0 },
        &attributes,
    )
}

/// As [`change_attributes`], on a mount held by descriptor.
///
/// # Errors
/// What mount_setattr(2) says.
pub fn change_attributes_at(mount: BorrowedFd<'_>, set: MountAttributes, recursive: bool) -> io::Result<()> {
    let attributes = MountAttr {
        attr_set: set.0,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    let flags = libc::AT_EMPTY_PATH.unsigned_abs() | if recursive { AT_RECURSIVE } else { 0 };
    set_attributes(mount.as_raw_fd(), c"", flags, &attributes)
}

/// Shifts the owners shown by a detached mount by the id map of a user namespace.
///
/// # Errors
/// `EINVAL` where the file system or the kernel has no idmapped mounts; else what mount_setattr(2) says.
pub fn map_ids(mount: BorrowedFd<'_>, user_namespace: BorrowedFd<'_>) -> io::Result<()> {
    let userns_fd = u64::try_from(user_namespace.as_raw_fd()).unwrap_or(u64::MAX);
    let attributes = MountAttr {
        attr_set: IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd,
    };
    set_attributes(mount.as_raw_fd(), c"", libc::AT_EMPTY_PATH.unsigned_abs(), &attributes)
}

/// Clones the mount at an open file or directory as a detached one; with everything mounted below it when `recursive`.
///
/// # Errors
/// What open_tree(2) says.
pub fn clone_tree(source: BorrowedFd<'_>, recursive: bool) -> io::Result<OwnedFd> {
    let flags = OPEN_TREE_CLONE
        | libc::O_CLOEXEC.unsigned_abs()
        | libc::AT_EMPTY_PATH.unsigned_abs()
        | if recursive { AT_RECURSIVE } else { 0 };
    // SAFETY: the path is NUL-terminated; the descriptor is open for the call.
    let fd = check(unsafe { libc::syscall(libc::SYS_open_tree, source.as_raw_fd(), c"".as_ptr(), flags) })?;
    // SAFETY: the kernel has just returned this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).unwrap_or(-1)) })
}

/// Attaches a detached mount at `target`.
///
/// # Errors
/// What move_mount(2) says.
pub fn attach(mount: BorrowedFd<'_>, target: &CStr) -> io::Result<()> {
    // SAFETY: both paths are NUL-terminated; the descriptor is open for the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            target.as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH,
        )
    })
    .map(drop)
}

/// mount(2). `flags` are its `MS_*` bits.
///
/// # Errors
/// What mount(2) says.
pub fn mount(source: &CStr, target: &CStr, kind: &CStr, flags: u64, data: &CStr) -> io::Result<()> {
    // SAFETY: all pointers are to NUL-terminated text; `data` is text for every file system we mount.
    check(libc::c_long::from(unsafe {
        libc::mount(
            source.as_ptr(),
            target.as_ptr(),
            kind.as_ptr(),
            flags,
            data.as_ptr().cast(),
        )
    }))
    .map(drop)
}

/// Bind-mounts `source` at `target`, without what is mounted below it.
///
/// # Errors
/// What mount(2) says.
pub fn bind(source: &CStr, target: &CStr) -> io::Result<()> {
    mount(source, target, c"", libc::MS_BIND, c"")
}

/// Detaches the mount at `target` and everything below it; it ends when its last user does.
///
/// # Errors
/// What umount2(2) says.
pub fn detach(target: &CStr) -> io::Result<()> {
    // SAFETY: the path is NUL-terminated.
    check(libc::c_long::from(unsafe {
        libc::umount2(target.as_ptr(), libc::MNT_DETACH)
    }))
    .map(drop)
}

/// pivot_root(2): makes `new_root` the root and puts the old one at `put_old`.
///
/// # Errors
/// What pivot_root(2) says.
pub fn pivot_root(new_root: &CStr, put_old: &CStr) -> io::Result<()> {
    // SAFETY: both paths are NUL-terminated.
    check(unsafe { libc::syscall(libc::SYS_pivot_root, new_root.as_ptr(), put_old.as_ptr()) }).map(drop)
}
