//! Making a user namespace whose processes are counted together.
//!
//! The kernel counts processes by user id in each user namespace, and once more, all of a namespace, by the id that made it in the one above
//! (kernel/ucount.c, `is_rlimit_overlimit`). The limit of that sum is the maker's RLIMIT_NPROC at that moment, if the maker's real id is not
//! the host's root (kernel/fork.c, `enforced_nproc_rlimit`). So root becomes, for the length of a clone, an id that nobody else has.
#![expect(unsafe_code, reason = "setresuid, setfsuid, prctl and setrlimit by raw call")]

use std::io;

use crate::privilege::set_dumpable;
use crate::{check, process};

/// `SECBIT_NO_SETUID_FIXUP` (linux/securebits.h): a change of user changes no capability.
const NO_SETUID_FIXUP: libc::c_ulong = 1 << 2;
/// Exit code of a process that can't get its own ids back.
const LOST: i32 = 125;

/// While root is counted as another user. Ended by [`CountedAs::leave`], or in the child of a fork by [`CountedAs::stay`].
#[derive(Debug)]
#[must_use = "root stays that user until it leaves"]
pub struct CountedAs {
    securebits: libc::c_ulong,
    limit: libc::rlimit,
}

impl CountedAs {
    /// Makes the calling process, which must have one thread and be root with all capabilities, be counted as `id`, with room for `processes`.
    /// It keeps its capabilities and opens files as root.
    ///
    /// # Errors
    /// What the calls say; then nothing has changed.
    pub fn enter(id: u32, processes: u64) -> io::Result<Self> {
        let before = CountedAs {
            securebits: securebits()?,
            limit: limit()?,
        };
        set_securebits(before.securebits | NO_SETUID_FIXUP)?;
        let lowered = libc::rlimit {
            rlim_cur: processes.min(before.limit.rlim_max),
            ..before.limit
        };
        let entered = set_limit(&lowered).and_then(|()| set_user(id, id, 0));
        if let Err(error) = entered {
            before.leave()?;
            return Err(error);
        }
        // The change of ids made files opened from now on that id's; and the process not dumpable, so that /proc/self would be closed to the child.
        // SAFETY: a plain integer. It reports no failure; what is opened says so.
        unsafe { libc::syscall(libc::SYS_setfsuid, 0_u32) };
        match set_dumpable(true) {
            Ok(()) => Ok(before),
            Err(error) => {
                before.leave()?;
                Err(error)
            }
        }
    }

    /// Is root again.
    ///
    /// # Errors
    /// What the calls say. When not even the ids come back, the process ends.
    pub fn leave(self) -> io::Result<()> {
        if set_user(0, 0, 0).is_err() {
            process::exit_now(LOST);
        }
        set_limit(&self.limit)?;
        set_securebits(self.securebits)?;
        set_dumpable(true)
    }

    /// Leaves the child of a fork as it is: in its user namespace it takes on ids anyway.
    pub fn stay(self) {}
}

fn securebits() -> io::Result<libc::c_ulong> {
    // SAFETY: PR_GET_SECUREBITS takes no pointer.
    let bits = check(libc::c_long::from(unsafe {
        libc::prctl(
            libc::PR_GET_SECUREBITS,
            0 as libc::c_ulong,
            0 as libc::c_ulong,
            0 as libc::c_ulong,
            0 as libc::c_ulong,
        )
    }))?;
    Ok(libc::c_ulong::try_from(bits).unwrap_or(0))
}

fn set_securebits(bits: libc::c_ulong) -> io::Result<()> {
    // SAFETY: PR_SET_SECUREBITS takes an integer.
    check(libc::c_long::from(unsafe {
        libc::prctl(
            libc::PR_SET_SECUREBITS,
            bits,
            0 as libc::c_ulong,
            0 as libc::c_ulong,
            0 as libc::c_ulong,
        )
    }))
    .map(drop)
}

fn set_user(real: u32, effective: u32, saved: u32) -> io::Result<()> {
    // SAFETY: plain integers. By raw call, for this thread: there is no other.
    check(unsafe { libc::syscall(libc::SYS_setresuid, real, effective, saved) }).map(drop)
}

fn limit() -> io::Result<libc::rlimit> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the pointer is to a live, writable rlimit.
    check(libc::c_long::from(unsafe {
        libc::getrlimit(libc::RLIMIT_NPROC, &raw mut limit)
    }))?;
    Ok(limit)
}

fn set_limit(limit: &libc::rlimit) -> io::Result<()> {
    // SAFETY: the pointer is to a live rlimit.
    check(libc::c_long::from(unsafe {
        libc::setrlimit(libc::RLIMIT_NPROC, std::ptr::from_ref(limit))
    }))
    .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capabilities::Sets;

    #[test]
    fn root_is_another_for_a_while_and_keeps_its_capabilities() {
        // Ids and capabilities are of a thread; the limit, which is of the process, is left far above what other tests need.
        let check = || {
            let before = Sets::of_this_thread().unwrap();
            let Ok(counted) = CountedAs::enter(1_879_048_193, 1 << 20) else {
                // Only root can be counted as somebody else.
                assert_ne!(rustix::process::geteuid().as_raw(), 0);
                return;
            };
            assert_eq!(rustix::process::getuid().as_raw(), 1_879_048_193);
            assert_eq!(Sets::of_this_thread().unwrap(), before);
            std::fs::File::open("/etc/shadow").unwrap();
            counted.leave().unwrap();
            assert_eq!(rustix::process::getuid().as_raw(), 0);
            assert_eq!(Sets::of_this_thread().unwrap(), before);
        };
        std::thread::spawn(check).join().unwrap();
    }
}
