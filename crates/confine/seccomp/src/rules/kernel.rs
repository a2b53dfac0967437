//! The machine itself: time, mounts, modules, keys, tracing, hardware; and calls that exist in name only.

use super::{ABSENT, ALLOW, Group, REFUSE};

pub(super) const GROUPS: &[Group] = &[
    Group {
        rule: ALLOW,
        names: &[
            "clock_getres",
            "clock_gettime",
            "clock_nanosleep",
            "getitimer",
            "getrandom",
            "gettimeofday",
            "nanosleep",
            "setitimer",
            "sysinfo",
            "time",
            "timer_create",
            "timer_delete",
            "timer_getoverrun",
            "timer_gettime",
            "timer_settime",
            "uname",
        ],
    },
    Group {
        rule: REFUSE,
        names: &[
            // Mounts and roots.
            "chroot",
            "fsconfig",
            "fsmount",
            "fsopen",
            "fspick",
            "mount",
            "mount_setattr",
            "move_mount",
            "open_tree",
            "open_tree_attr",
            "pivot_root",
            "umount2",
            // Time and names of the machine.
            "adjtimex",
            "clock_adjtime",
            "clock_settime",
            "setdomainname",
            "sethostname",
            "settimeofday",
            // The running kernel.
            "acct",
            "delete_module",
            "finit_module",
            "init_module",
            "kexec_file_load",
            "kexec_load",
            "reboot",
            "swapoff",
            "swapon",
            "syslog",
            "vhangup",
            // Keyrings: not namespaced, and the session's may hold the user's secrets.
            "add_key",
            "keyctl",
            "request_key",
            // Programs in the kernel, and counters that see through it.
            "bpf",
            "perf_event_open",
            // Hardware ports and segment descriptors (x86).
            "ioperm",
            "iopl",
            "modify_ldt",
        ],
    },
    // Lists mounts without a path; new in 6.8, callers fall back to /proc/self/mountinfo.
    Group {
        rule: ABSENT,
        names: &["listmount", "statmount"],
    },
    // Without an implementation in 6.18, or obsolete: what a kernel built without them says.
    Group {
        rule: ABSENT,
        names: &[
            "_sysctl",
            "afs_syscall",
            "create_module",
            "get_kernel_syms",
            "getpmsg",
            "lookup_dcookie",
            "nfsservctl",
            "putpmsg",
            "query_module",
            "security",
            "sysfs",
            "tuxcall",
            "uselib",
            "ustat",
            "vserver",
        ],
    },
];
