//! Giving up privilege: ids, capabilities, `no_new_privs`, seccomp.
#![expect(unsafe_code, reason = "prctl, capset, set*id and seccomp by raw call")]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use crate::capabilities::{Sets, clear_ambient};
use crate::check;

/// Last capability probed: the kernel may know fewer (it then says EINVAL) but not, today, more than 41 (`CAP_LAST_CAP`).
const LAST_CAPABILITY_BIT: u32 = 63;
/// `SECBIT_*` with their locks (capabilities(7)): root gets no capabilities by exec or set*id, none are kept or raised ambiently.
const SECUREBITS_LOCKED: libc::c_ulong = 0b1110_1111;

/// As above, with uid 0 as everywhere (capabilities(7)): it keeps over an exec what it has, and loses all by becoming somebody else for good,
/// or if it asks otherwise (`setpriv` does, PR_SET_KEEPCAPS), by the next exec: none can be made ambient.
const SECUREBITS_OF_ROOT: libc::c_ulong = 0b1100_0000;

fn prctl(option: libc::c_int, argument: libc::c_ulong) -> io::Result<libc::c_long> {
    // SAFETY: every option used in this file takes integers only.
    check(libc::c_long::from(unsafe {
        libc::prctl(
            option,
            argument,
            0 as libc::c_ulong,
            0 as libc::c_ulong,
            0 as libc::c_ulong,
        )
    }))
}

/// Sets all group ids, then all user ids, of the calling thread; no supplementary groups are left. Order matters: groups first, while it is
/// still allowed. Only makes system calls, so that the child of a fork may call it.
///
/// # Errors
/// What the calls say.
pub fn become_user(uid: u32, gid: u32) -> io::Result<()> {
    // SAFETY: an empty list needs no pointer. By raw call, as the others: libc's would look for threads, which a fork's child has not.
    check(unsafe { libc::syscall(libc::SYS_setgroups, 0_usize, std::ptr::null::<u32>()) })?;
    // SAFETY: plain integers.
    check(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) })?;
    // SAFETY: plain integers.
    check(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) }).map(drop)
}

/// Drops every capability from every set, the bounding and ambient ones too, and locks them out for good.
///
/// # Errors
/// What prctl(2) or capset(2) says.
pub fn drop_all_capabilities() -> io::Result<()> {
    drop_bounding_set()?;
    match lock_securebits() {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {}
        Err(error) => return Err(error),
    }
    clear_ambient()?;
    Sets::NONE.apply()
}

/// Sets and locks the securebits: from now on uid 0 and changes of user give no capability and take none, and none can be made ambient.
///
/// # Errors
/// What prctl(2) says; `EPERM` without `CAP_SETPCAP`.
pub fn lock_securebits() -> io::Result<()> {
    prctl(libc::PR_SET_SECUREBITS, SECUREBITS_LOCKED).map(drop)
}

/// Sets the securebits so that uid 0, and no other user's program, keeps the capabilities that it has; who lacks `CAP_SETPCAP` can't change them.
///
/// # Errors
/// What prctl(2) says; `EPERM` without `CAP_SETPCAP`.
pub fn leave_capabilities_to_root() -> io::Result<()> {
    prctl(libc::PR_SET_SECUREBITS, SECUREBITS_OF_ROOT).map(drop)
}

/// Empties the capability bounding set, so that no exec can give a capability. To be called while `CAP_SETPCAP` is still held; without
/// it nothing changes, and `no_new_privs` makes that moot.
///
/// # Errors
/// What prctl(2) says.
pub fn drop_bounding_set() -> io::Result<()> {
    for capability in 0..=LAST_CAPABILITY_BIT {
        match prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(capability)) {
            Ok(_) => {}
            // The first number that the kernel does not know ends the list.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => break,
            // Without CAP_SETPCAP (no user namespace, not root) the bounding set can't shrink: `no_new_privs` makes it moot.
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Returns whether the calling thread has a capability in its effective, permitted or inheritable set.
///
/// # Errors
/// What capget(2) says.
pub fn has_any_capability() -> io::Result<bool> {
    Ok(Sets::of_this_thread()? != Sets::NONE)
}

/// Sets `no_new_privs`: from now on exec gives no privilege.
///
/// # Errors
/// What prctl(2) says.
pub fn no_new_privileges() -> io::Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1).map(drop)
}

/// Says whether the process may be traced by its own user and dump core; when not, its /proc files are root's.
///
/// # Errors
/// What prctl(2) says.
pub fn set_dumpable(dumpable: bool) -> io::Result<()> {
    prctl(libc::PR_SET_DUMPABLE, libc::c_ulong::from(dumpable)).map(drop)
}

/// Asks for `signal` when the parent dies.
///
/// # Errors
/// What prctl(2) says.
pub fn die_with_parent(signal: i32) -> io::Result<()> {
    prctl(libc::PR_SET_PDEATHSIG, libc::c_ulong::try_from(signal).unwrap_or(9)).map(drop)
}

/// Makes orphaned descendants children of the calling process (prctl(2), PR_SET_CHILD_SUBREAPER).
///
/// # Errors
/// What prctl(2) says.
pub fn adopt_orphans() -> io::Result<()> {
    prctl(libc::PR_SET_CHILD_SUBREAPER, 1).map(drop)
}

/// Names the calling thread (at most 15 bytes show).
pub fn set_name(name: &std::ffi::CStr) {
    // SAFETY: the pointer is to NUL-terminated text; the kernel copies at most 16 bytes of it.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr(), 0, 0, 0) };
}

/// Installs a seccomp filter on the calling thread; with `listen`, returns the notification descriptor.
///
/// # Errors
/// What seccomp(2) says; `EINVAL` for a malformed program.
pub fn install_filter(program: &[crate::Instruction], listen: bool) -> io::Result<Option<OwnedFd>> {
    /// `SECCOMP_FILTER_FLAG_NEW_LISTENER` (linux/seccomp.h).
    const NEW_LISTENER: libc::c_ulong = 1 << 3;
    let length = u16::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let program = libc::sock_fprog {
        len: length,
        filter: program.as_ptr().cast_mut(),
    };
    let flags = if listen { NEW_LISTENER } else { 0 };
    // SAFETY: `program` points to `length` instructions that live past the call; the kernel only reads them.
    let fd = check(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const program,
        )
    })?;
    if !listen {
        return Ok(None);
    }
    // SAFETY: with NEW_LISTENER the return value is a descriptor given to us alone.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).unwrap_or(-1)) }))
}

/// Returns the Landlock ABI version of the running kernel; 0 where there is none or it is switched off (landlock(7)).
#[must_use]
pub fn landlock_abi() -> u32 {
    /// `LANDLOCK_CREATE_RULESET_VERSION` (linux/landlock.h).
    const VERSION: u32 = 1;
    // SAFETY: with this flag the call takes no attribute and only returns a number.
    let abi = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<u8>(),
            0_usize,
            VERSION,
        )
    };
    u32::try_from(abi).unwrap_or(0)
}
