//! Who the program is to the host: user and group ids of a sandbox.
//!
//! Run by an ordinary user, the program is that user, the only one in its user namespace. Run by root, it sees itself as root and
//! owns what root owns (through idmapped mounts), but to the host it is one of 65,536 ids that nothing else uses.

use std::fs;
use std::io;

/// First host id of the ranges for sandboxes of root: above systemd's last container id (1,879,048,191; systemd's UIDS-GIDS document),
/// below the ids whose sign bit some programs mistake.
pub(crate) const FIRST_ROOT_RANGE: u32 = 1_879_048_192;
/// Ids in one range: what file systems of ordinary distributions use.
pub(crate) const RANGE: u32 = 65_536;
/// Ranges there are.
const RANGES: u32 = (i32::MAX as u32 - FIRST_ROOT_RANGE) / RANGE;

/// Ids of a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Identity {
    /// The caller itself.
    Caller {
        /// Its user id.
        uid: u32,
        /// Its group id.
        gid: u32,
    },
    /// A range of ids of its own, for a run by root; inside they are 0 and up.
    Range {
        /// First host id.
        start: u32,
    },
}

/// Returns the host id by which the kernel counts all processes of the calling keeper's sandbox together: that of no other sandbox that lives,
/// and below the end of the ranges (the largest pid is 2^22, kernel include/linux/threads.h). It is odd, and so never the first of a range,
/// with which programs of the landlock tier run.
pub(crate) fn counting_id() -> u32 {
    FIRST_ROOT_RANGE + rustix::process::getpid().as_raw_nonzero().get().unsigned_abs() % (1 << 22) * 2 + 1
}

impl Identity {
    /// Chooses for the calling process.
    pub(crate) fn choose() -> Self {
        let uid = rustix::process::geteuid().as_raw();
        if uid == 0 {
            // Two live sandboxes may share a range when their keepers' pids are 4,096 apart: their pid namespaces still part them.
            let slot = rustix::process::getpid().as_raw_nonzero().get().unsigned_abs() % RANGES;
            Identity::Range {
                start: FIRST_ROOT_RANGE + slot * RANGE,
            }
        } else {
            Identity::Caller {
                uid,
                gid: rustix::process::getegid().as_raw(),
            }
        }
    }

    /// Returns whether this is a run by root.
    pub(crate) fn is_range(self) -> bool {
        matches!(self, Identity::Range { .. })
    }

    /// Returns the program's user and group id as it sees them in its user namespace.
    pub(crate) fn inside(self) -> (u32, u32) {
        match self {
            Identity::Caller { uid, gid } => (uid, gid),
            Identity::Range { .. } => (0, 0),
        }
    }

    /// Returns the program's user and group id as the host sees them.
    pub(crate) fn outside(self) -> (u32, u32) {
        match self {
            Identity::Caller { uid, gid } => (uid, gid),
            Identity::Range { start } => (start, start),
        }
    }

    /// Writes the id maps of a process in a new user namespace (user_namespaces(7)). `process` is its /proc directory name.
    ///
    /// # Errors
    /// What the kernel says; `EPERM` where user namespaces are restricted.
    pub(crate) fn write_maps(self, process: &str) -> io::Result<()> {
        let write = |file: &str, text: String| fs::write(format!("/proc/{process}/{file}"), text);
        match self {
            Identity::Caller { uid, gid } => {
                write("uid_map", format!("{uid} {uid} 1"))?;
                // An unprivileged group map needs this first; it also keeps a group that takes rights away from being dropped.
                write("setgroups", "deny".to_owned())?;
                write("gid_map", format!("{gid} {gid} 1"))
            }
            Identity::Range { start } => {
                write("uid_map", format!("0 {start} {RANGE}"))?;
                write("gid_map", format!("0 {start} {RANGE}"))
            }
        }
    }
}
