//! What a filter is made for: the tier, what else confines the program there, and what becomes of a denied call.

/// The tier that the filter is a part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Profile {
    /// Namespaces of its own around the program: user, mount, pid, net, ipc, uts, cgroup. What the program reaches by
    /// path, pid, socket or IPC key is the sandbox's own, so the filter only takes away kernel surface.
    ///
    /// There is no switch for the network: the network namespace decides that.
    Namespace,
    /// Nothing but Landlock beside the filter, so the filter also has to stop what Landlock doesn't see.
    Landlock {
        /// The Landlock ABI whose rights are all *enforced* on the program. Below 3, truncating is denied by the filter;
        /// below 6, signals are; from 6 on the caller must have set `LANDLOCK_SCOPE_SIGNAL`.
        abi: u32,
        /// Whether the program's user id owns nothing on this machine but the sandbox: no file, no process.
        unique_uid: bool,
        /// The network that the program may use.
        network: Network,
    },
}

/// The network of a program that has no network namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Network {
    /// No sockets but connected pairs.
    #[default]
    None,
    /// The host's IPv4 and IPv6. Still no Unix sockets: Landlock doesn't mediate connecting to one by path, and a
    /// session bus or a container engine behind one is a way out.
    Host,
}

/// What the kernel does with a call that is known and denied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Denied {
    /// It fails with its error number.
    #[default]
    Errno,
    /// It is handed to the supervisor (`SECCOMP_RET_USER_NOTIF`), who records it and fails it with what
    /// [`crate::decide()`] gives. Calls that are feigned absent ([`crate::Verdict::Absent`]) still fail on their own:
    /// programs probe for these all the time, `clone3` at every thread.
    ///
    /// The filter must then be installed with `SECCOMP_FILTER_FLAG_NEW_LISTENER`; without a listener every denied call
    /// fails with `ENOSYS` (seccomp_unotify(2)).
    Notify,
}

/// Choices beside the profile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Options {
    /// What the kernel does with a denied call.
    pub denied: Denied,
    /// Whether the program is kept from changing its CPU affinity, because that is what holds a limit on CPUs.
    pub deny_setting_affinity: bool,
}
