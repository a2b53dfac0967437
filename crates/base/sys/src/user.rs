//! Being another user: a child for good before its exec, or a thread for the files it touches meanwhile.
#![expect(unsafe_code, reason = "setfsuid and setfsgid by raw call: they are of one thread")]

use std::io;
use std::marker::PhantomData;

use crate::capabilities::{Capabilities, Sets, reduce_bounding_set};
use crate::{privilege, process};

/// Exit code of a process that can't get its own rights back.
const LOST: i32 = 125;
/// No id: setfsuid(2) and setfsgid(2) then change nothing and return what is.
const ASK: u32 = u32::MAX;

/// Ids of a user, in the user namespace of the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ids {
    /// User id.
    pub uid: u32,
    /// Group id, the only group.
    pub gid: u32,
}

impl Ids {
    /// Makes the calling process this user, without any capability but `kept` or way back. For the child of a fork: it only makes system calls.
    ///
    /// # Errors
    /// What the calls say.
    pub(crate) fn become_for_good(self, kept: Capabilities) -> io::Result<()> {
        let held = Sets::of_this_thread()?;
        if held.permitted.contains(Capabilities::REDUCE_BOUNDS) {
            let all = Sets {
                effective: held.permitted,
                ..held
            };
            all.apply()?;
            reduce_bounding_set(kept)?;
        }
        privilege::become_user(self.uid, self.gid)?;
        // The child still is a copy of its parent, secrets and all. Changing the user sets what fs.suid_dumpable says, which may be yes;
        // the exec makes the program dumpable again.
        privilege::set_dumpable(false)?;
        let left = Sets {
            effective: kept,
            permitted: kept,
            inheritable: Capabilities::NONE,
        };
        left.apply()
    }
}

/// While it lives, the calling thread touches files with the rights of a user, and what it makes belongs to that user.
///
/// Not for a thread that has asked for a signal when its parent dies: the kernel forgets that when the ids change (prctl(2),
/// PR_SET_PDEATHSIG).
#[derive(Debug)]
pub struct FileRightsGuard {
    own: Ids,
    /// Ids of a thread: not to be dropped on another.
    thread: PhantomData<*const ()>,
}

impl FileRightsGuard {
    /// Takes the user's rights. The thread's supplementary groups are not touched; there should be none.
    ///
    /// # Errors
    /// `EPERM` when the kernel did not do it; the thread then has its own rights.
    pub fn take(user: Ids) -> io::Result<Self> {
        let guard = FileRightsGuard {
            own: Ids {
                uid: set_file_uid(ASK),
                gid: set_file_gid(ASK),
            },
            thread: PhantomData,
        };
        set_file_gid(user.gid);
        set_file_uid(user.uid);
        // These calls report no failure: they return what was before.
        if set_file_uid(ASK) == user.uid && set_file_gid(ASK) == user.gid {
            Ok(guard)
        } else {
            Err(io::Error::from_raw_os_error(libc::EPERM))
        }
    }
}

impl Drop for FileRightsGuard {
    fn drop(&mut self) {
        set_file_uid(self.own.uid);
        set_file_gid(self.own.gid);
        if set_file_uid(ASK) != self.own.uid || set_file_gid(ASK) != self.own.gid {
            // A thread's own real ids are always allowed; going on with the wrong ones would be worse than ending.
            process::exit_now(LOST);
        }
    }
}

/// Sets the thread's file system user id; returns the one before.
fn set_file_uid(uid: u32) -> u32 {
    // SAFETY: a plain integer.
    let before = unsafe { libc::syscall(libc::SYS_setfsuid, uid) };
    u32::try_from(before & 0xffff_ffff).unwrap_or(ASK)
}

/// Sets the thread's file system group id; returns the one before.
fn set_file_gid(gid: u32) -> u32 {
    // SAFETY: a plain integer.
    let before = unsafe { libc::syscall(libc::SYS_setfsgid, gid) };
    u32::try_from(before & 0xffff_ffff).unwrap_or(ASK)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn files_belong_to_the_user_while_the_guard_lives() {
        let own = Ids {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
        };
        drop(FileRightsGuard::take(own).unwrap());
        let other = Ids { uid: 54321, gid: 54322 };
        if own.uid != 0 {
            assert!(FileRightsGuard::take(other).is_err());
            assert_eq!(set_file_uid(ASK), own.uid);
            return;
        }
        let path = std::env::temp_dir().join(format!("rw-file-rights-{}", std::process::id()));
        {
            let _guard = FileRightsGuard::take(other).unwrap();
            std::fs::write(&path, "").unwrap();
        }
        let made = std::fs::metadata(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!((made.uid(), made.gid()), (54321, 54322));
        assert_eq!((set_file_uid(ASK), set_file_gid(ASK)), (own.uid, own.gid));
    }
}
