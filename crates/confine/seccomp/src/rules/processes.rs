//! Processes: making, ending and waiting for them, signals, identity, scheduling, limits, and looking into others.
//!
//! In the namespace profile a pid names a process of the sandbox. Elsewhere it names one of the host's, and what a user
//! may do to their own processes (signal, slow down, limit) must be kept from reaching those outside.

use super::arguments::{
    CLONE_FLAGS, IO_PRIORITY_OF_SELF, KILL_OF_OWN_GROUP, PERSONALITY, PRCTL_OPTION, PRIORITY_OF_SELF,
    SECCOMP_OPERATION, SELF_AS_FIRST,
};
use super::{ABSENT, ALLOW, Group, Need, REFUSE, Rule};

/// Calls on a process by id, 0 for the caller.
const SELF_ONLY: Rule = Rule::Where(Need::UniqueUid, &ALLOW, &Rule::Arguments(&SELF_AS_FIRST));

pub(super) const GROUPS: &[Group] = &[
    Group {
        rule: ALLOW,
        names: &[
            "execve",
            "execveat",
            "exit",
            "exit_group",
            "fork",
            "pidfd_open",
            "restart_syscall",
            "vfork",
            "wait4",
            "waitid",
            // Signals to itself.
            "alarm",
            "pause",
            "rt_sigaction",
            "rt_sigpending",
            "rt_sigprocmask",
            "rt_sigreturn",
            "rt_sigsuspend",
            "rt_sigtimedwait",
            "sigaltstack",
            // Identity. Without capabilities the setters only choose among the ids already held.
            "capget",
            "capset",
            "getegid",
            "geteuid",
            "getgid",
            "getgroups",
            "getpgid",
            "getpgrp",
            "getpid",
            "getppid",
            "getresgid",
            "getresuid",
            "getsid",
            "gettid",
            "getuid",
            "setfsgid",
            "setfsuid",
            "setgid",
            "setgroups",
            "setpgid",
            "setregid",
            "setresgid",
            "setresuid",
            "setreuid",
            "setuid",
            // Scheduling and limits, reading or of itself.
            "getcpu",
            "getpriority",
            "getrlimit",
            "getrusage",
            "ioprio_get",
            "sched_get_priority_max",
            "sched_get_priority_min",
            "sched_getaffinity",
            "sched_getattr",
            "sched_getparam",
            "sched_getscheduler",
            "sched_rr_get_interval",
            "sched_yield",
            "setrlimit",
            "times",
            // Threads.
            "arch_prctl",
            "futex",
            "futex_requeue",
            "futex_wait",
            "futex_waitv",
            "futex_wake",
            "membarrier",
            "rseq",
            "set_robust_list",
            "set_tid_address",
            // Restricting itself further. Nested Landlock only takes away.
            "landlock_add_rule",
            "landlock_create_ruleset",
            "landlock_restrict_self",
            // Made by the kernel's own trampolines for a probe that the host's administrator set; refusing them kills
            // the probed program. From elsewhere they
            // fail (SIGILL and ENXIO on 6.18).
            "uprobe",
            "uretprobe",
        ],
    },
    Group {
        rule: Rule::Arguments(&CLONE_FLAGS),
        names: &["clone"],
    },
    // Its flags are behind a pointer, out of a filter's sight. Every libc falls back to clone on ENOSYS, and only then.
    Group {
        rule: ABSENT,
        names: &["clone3"],
    },
    Group {
        rule: Rule::Arguments(&PERSONALITY),
        names: &["personality"],
    },
    Group {
        rule: Rule::Arguments(&PRCTL_OPTION),
        names: &["prctl"],
    },
    Group {
        rule: Rule::Arguments(&SECCOMP_OPERATION),
        names: &["seccomp"],
    },
    Group {
        rule: Rule::Where(Need::ScopedSignals, &ALLOW, &Rule::Arguments(&KILL_OF_OWN_GROUP)),
        names: &["kill"],
    },
    Group {
        rule: Rule::Where(Need::ScopedSignals, &ALLOW, &REFUSE),
        names: &[
            "pidfd_send_signal",
            "rt_sigqueueinfo",
            "rt_tgsigqueueinfo",
            "tgkill",
            "tkill",
        ],
    },
    // Without a pid namespace the session is what a keeper finds its processes by.
    Group {
        rule: Rule::Where(Need::Namespaces, &ALLOW, &REFUSE),
        names: &["setsid"],
    },
    Group {
        rule: SELF_ONLY,
        names: &["prlimit64", "sched_setattr", "sched_setparam", "sched_setscheduler"],
    },
    Group {
        rule: Rule::Where(Need::FreeAffinity, &SELF_ONLY, &REFUSE),
        names: &["sched_setaffinity"],
    },
    Group {
        rule: Rule::Where(Need::UniqueUid, &ALLOW, &Rule::Arguments(&PRIORITY_OF_SELF)),
        names: &["setpriority"],
    },
    Group {
        rule: Rule::Where(Need::UniqueUid, &ALLOW, &Rule::Arguments(&IO_PRIORITY_OF_SELF)),
        names: &["ioprio_set"],
    },
    // Into other processes and other namespaces.
    Group {
        rule: REFUSE,
        names: &[
            "get_robust_list",
            "kcmp",
            "pidfd_getfd",
            "process_madvise",
            "process_mrelease",
            "process_vm_readv",
            "process_vm_writev",
            "ptrace",
            "setns",
            "unshare",
        ],
    },
    // The labels of security modules; set_self could ask for another profile. New in 6.8.
    Group {
        rule: ABSENT,
        names: &["lsm_get_self_attr", "lsm_list_modules", "lsm_set_self_attr"],
    },
    // 32-bit only; `sys_ni_syscall` in x86_64's table.
    Group {
        rule: ABSENT,
        names: &["get_thread_area", "set_thread_area"],
    },
];
