//! Capability sets of the calling thread (capabilities(7)): read, reduced, and passed on over an exec. Nothing here can add to what is held.
#![expect(unsafe_code, reason = "capget, capset and prctl by raw call")]

use std::io;

use crate::check;

/// `_LINUX_CAPABILITY_VERSION_3` (linux/capability.h): two words a set.
const VERSION_3: u32 = 0x2008_0522;
/// Last capability probed: the kernel may know fewer (it then says EINVAL) but not, today, more than 41 (`CAP_LAST_CAP`).
const LAST_BIT: u32 = 63;
/// `PR_CAP_AMBIENT_*` (linux/prctl.h).
const AMBIENT_IS_SET: libc::c_ulong = 1;
const AMBIENT_RAISE: libc::c_ulong = 2;
const AMBIENT_CLEAR_ALL: libc::c_ulong = 4;

/// A set of capabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities(u64);

impl Capabilities {
    /// None.
    pub const NONE: Capabilities = Capabilities(0);
    /// `CAP_SETGID` and `CAP_SETUID` (6 and 7, linux/capability.h): to act as any user of the user namespace.
    pub const ACT_AS_USERS: Capabilities = Capabilities(1 << 6 | 1 << 7);
    /// What it takes to look after programs of several users: [`Self::ACT_AS_USERS`], and `CAP_CHOWN` (0) and `CAP_KILL` (5) to give them
    /// their terminals and pipes, and to end them.
    pub const LOOK_AFTER_USERS: Capabilities = Capabilities(Self::ACT_AS_USERS.0 | 1 | 1 << 5);

    /// `CAP_SETPCAP` (8): to take capabilities out of the bounding set.
    pub const REDUCE_BOUNDS: Capabilities = Capabilities(1 << 8);
    /// What `root` of a sandbox with many users gets, all within its user namespace: `CAP_CHOWN` (0), `CAP_DAC_OVERRIDE` (1), `CAP_FOWNER` (3),
    /// `CAP_KILL` (5), `CAP_SETGID` (6), `CAP_SETUID` (7) and `CAP_NET_BIND_SERVICE` (10). They are what package managers, `su` and `chown`
    /// need, and reach only files, processes and ports of the sandbox. Of what containers usually have there are not: `CAP_FSETID`, since no
    /// set-id bit can be made; `CAP_SETFCAP`, `CAP_SETPCAP`, `CAP_MKNOD`, `CAP_SYS_CHROOT`, `CAP_NET_RAW`, since each opens kernel code that
    /// nothing of the above needs.
    pub const OF_ROOT: Capabilities = Capabilities(0b1110_1011 | 1 << 10);
    /// [`Self::OF_ROOT`], and what it takes to hand that on to root's programs alone. It is more than those hold, so that they can't trace who
    /// has it (ptrace(2), "Ptrace access mode checking").
    pub const LOOK_AFTER_ROOT: Capabilities = Capabilities(Self::OF_ROOT.0 | Self::REDUCE_BOUNDS.0);
    /// What a thread that works on files needs to do for root what root's programs may; the kernel puts all but [`Self::ACT_AS_USERS`] out of
    /// effect while the thread has another user's file system id (capabilities(7), "Effect of user ID changes on capabilities").
    pub const FILES_OF_ANYBODY: Capabilities = Capabilities(Self::ACT_AS_USERS.0 | 0b1011);

    /// Returns whether all of `others` are in this set.
    #[must_use]
    pub fn contains(self, others: Capabilities) -> bool {
        self.0 & others.0 == others.0
    }

    fn numbers(self) -> impl Iterator<Item = libc::c_ulong> {
        (0..=LAST_BIT)
            .filter(move |bit| self.0 >> bit & 1 == 1)
            .map(libc::c_ulong::from)
    }
}

/// The three sets that capset(2) knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sets {
    /// What the kernel checks.
    pub effective: Capabilities,
    /// What can be made effective.
    pub permitted: Capabilities,
    /// What an exec may keep; needed for the ambient set.
    pub inheritable: Capabilities,
}

impl Sets {
    /// No capability in any of them.
    pub const NONE: Sets = Sets {
        effective: Capabilities::NONE,
        permitted: Capabilities::NONE,
        inheritable: Capabilities::NONE,
    };

    /// Reads those of the calling thread.
    ///
    /// # Errors
    /// What capget(2) says.
    pub fn of_this_thread() -> io::Result<Self> {
        let header: [u32; 2] = [VERSION_3, 0];
        let mut words = [0_u32; 6];
        // SAFETY: the header and the two 3-word data structs have the layout of version 3.
        check(unsafe { libc::syscall(libc::SYS_capget, header.as_ptr(), words.as_mut_ptr()) })?;
        let [
            effective,
            permitted,
            inheritable,
            effective_high,
            permitted_high,
            inheritable_high,
        ] = words;
        let join = |low: u32, high: u32| Capabilities(u64::from(low) | u64::from(high) << 32);
        Ok(Sets {
            effective: join(effective, effective_high),
            permitted: join(permitted, permitted_high),
            inheritable: join(inheritable, inheritable_high),
        })
    }

    /// Makes these the calling thread's. Fit for use between fork and exec. The ambient set loses what is no longer in both the permitted
    /// and the inheritable one.
    ///
    /// # Errors
    /// What capset(2) says; `EPERM` for more than is held.
    pub fn apply(self) -> io::Result<()> {
        let header: [u32; 2] = [VERSION_3, 0];
        let low = |set: Capabilities| u32::try_from(set.0 & u64::from(u32::MAX)).unwrap_or(0);
        let high = |set: Capabilities| low(Capabilities(set.0 >> 32));
        let sets = [self.effective, self.permitted, self.inheritable];
        let [effective, permitted, inheritable] = sets.map(low);
        let [effective_high, permitted_high, inheritable_high] = sets.map(high);
        let words = [
            effective,
            permitted,
            inheritable,
            effective_high,
            permitted_high,
            inheritable_high,
        ];
        // SAFETY: the header and the two 3-word data structs have the layout of version 3; the kernel only reads them.
        check(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), words.as_ptr()) }).map(drop)
    }
}

/// Empties the bounding set but for `kept`, so that no exec can give another. To be called while `CAP_SETPCAP` is still held.
///
/// # Errors
/// What prctl(2) says; `EPERM` without `CAP_SETPCAP`.
pub fn reduce_bounding_set(kept: Capabilities) -> io::Result<()> {
    for bit in 0..=LAST_BIT {
        if kept.0 >> bit & 1 == 1 {
            continue;
        }
        match prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(bit), 0) {
            Ok(_) => {}
            // The first number that the kernel does not know ends the list.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Adds to the ambient set: an exec then keeps them, `no_new_privs` or not.
///
/// # Errors
/// What prctl(2) says; `EPERM` for what is not permitted and inheritable, or when securebits forbid it.
pub fn raise_ambient(raised: Capabilities) -> io::Result<()> {
    raised
        .numbers()
        .try_for_each(|number| prctl(libc::PR_CAP_AMBIENT, AMBIENT_RAISE, number).map(drop))
}

/// Empties the ambient set.
///
/// # Errors
/// What prctl(2) says.
pub fn clear_ambient() -> io::Result<()> {
    prctl(libc::PR_CAP_AMBIENT, AMBIENT_CLEAR_ALL, 0).map(drop)
}

/// Reads the ambient set of the calling thread.
///
/// # Errors
/// What prctl(2) says.
pub fn ambient() -> io::Result<Capabilities> {
    let mut found = 0;
    for bit in 0..=LAST_BIT {
        match prctl(libc::PR_CAP_AMBIENT, AMBIENT_IS_SET, libc::c_ulong::from(bit)) {
            Ok(is_set) => found |= u64::from(is_set != 0) << bit,
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(Capabilities(found))
}

fn prctl(option: libc::c_int, second: libc::c_ulong, third: libc::c_ulong) -> io::Result<libc::c_long> {
    // SAFETY: the options used in this file take integers only.
    check(libc::c_long::from(unsafe {
        libc::prctl(option, second, third, 0 as libc::c_ulong, 0 as libc::c_ulong)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_read_as_proc_shows_them_and_reduced() {
        // On a thread of its own: what is given up stays given up.
        let check = || {
            let field = |name: &str| {
                let text = std::fs::read_to_string("/proc/thread-self/status").unwrap();
                let line = text.lines().find(|line| line.starts_with(name)).unwrap();
                u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap()
            };
            let sets = Sets::of_this_thread().unwrap();
            assert_eq!(sets.permitted.0, field("CapPrm"));
            assert_eq!(sets.effective.0, field("CapEff"));
            assert_eq!(ambient().unwrap().0, field("CapAmb"));
            Sets::NONE.apply().unwrap();
            assert_eq!(Sets::of_this_thread().unwrap(), Sets::NONE);
            assert_eq!((field("CapPrm"), field("CapEff")), (0, 0));
            assert!(raise_ambient(Capabilities::LOOK_AFTER_USERS).is_err());
        };
        std::thread::spawn(check).join().unwrap();
    }

    #[test]
    fn the_agents_set_has_four() {
        let numbers: Vec<_> = Capabilities::LOOK_AFTER_USERS.numbers().collect();
        assert_eq!(numbers, [0, 5, 6, 7]);
        assert!(Capabilities::LOOK_AFTER_USERS.contains(Capabilities::ACT_AS_USERS));
        let numbers: Vec<_> = Capabilities::OF_ROOT.numbers().collect();
        assert_eq!(numbers, [0, 1, 3, 5, 6, 7, 10]);
        assert!(!Capabilities::OF_ROOT.contains(Capabilities::LOOK_AFTER_ROOT));
        assert!(Capabilities::LOOK_AFTER_ROOT.contains(Capabilities::LOOK_AFTER_USERS));
        assert!(Capabilities::LOOK_AFTER_ROOT.contains(Capabilities::FILES_OF_ANYBODY));
        assert!(!Capabilities::NONE.contains(Capabilities::ACT_AS_USERS));
    }
}
