//! What the rules must say, call by call: the promises that would be missed most. Independent of how rules are written.

use crate::tables::rows;
use crate::{Arch, Network, Options, Profile, Verdict, decide, number_of};

const LANDLOCK_OLD: Profile = Profile::Landlock {
    abi: 2,
    unique_uid: false,
    network: Network::None,
};
const LANDLOCK_NEW: Profile = Profile::Landlock {
    abi: 6,
    unique_uid: false,
    network: Network::Host,
};
const LANDLOCK_UNIQUE: Profile = Profile::Landlock {
    abi: 2,
    unique_uid: true,
    network: Network::None,
};
const PROFILES: [Profile; 4] = [Profile::Namespace, LANDLOCK_OLD, LANDLOCK_NEW, LANDLOCK_UNIQUE];

const EPERM: Option<u16> = Some(1);
const ENOSYS: Option<u16> = Some(38);
const EAFNOSUPPORT: Option<u16> = Some(97);

/// The error number of a call where it exists, or `None` if it is allowed.
#[track_caller]
fn assert_call(profile: Profile, name: &str, args: &[u64], wanted: Option<u16>) {
    let mut six = [0; 6];
    six[..args.len()].copy_from_slice(args);
    for arch in Arch::ALL {
        let Some(number) = number_of(arch, name) else {
            assert!(number_of(Arch::X86_64, name).is_some(), "{name} is no call");
            continue;
        };
        let got = decide(profile, Options::default(), arch, number, &six);
        assert_eq!(got.errno(), wanted, "{profile:?} {arch:?} {name} {args:x?}: {got:?}");
        assert_ne!(got, Verdict::Kill);
    }
}

#[test]
fn dangerous_calls_are_denied_in_every_profile() {
    for profile in PROFILES {
        for name in [
            "mount",
            "umount2",
            "pivot_root",
            "chroot",
            "open_tree",
            "move_mount",
            "fsopen",
            "fsconfig",
            "fsmount",
            "fspick",
            "mount_setattr",
            "open_tree_attr",
            "setns",
            "unshare",
            "bpf",
            "perf_event_open",
            "keyctl",
            "add_key",
            "request_key",
            "userfaultfd",
            "ptrace",
            "process_vm_readv",
            "process_vm_writev",
            "process_madvise",
            "kcmp",
            "pidfd_getfd",
            "kexec_load",
            "kexec_file_load",
            "init_module",
            "finit_module",
            "delete_module",
            "reboot",
            "swapon",
            "swapoff",
            "acct",
            "quotactl",
            "quotactl_fd",
            "syslog",
            "settimeofday",
            "clock_settime",
            "clock_adjtime",
            "adjtimex",
            "sethostname",
            "setdomainname",
            "iopl",
            "ioperm",
            "modify_ldt",
            "open_by_handle_at",
            "fanotify_init",
            "vhangup",
        ] {
            assert_call(profile, name, &[], EPERM);
        }
        for name in [
            "clone3",
            "io_uring_setup",
            "io_uring_enter",
            "io_uring_register",
            "nfsservctl",
            "memfd_secret",
        ] {
            assert_call(profile, name, &[], ENOSYS);
        }
    }
}

#[test]
fn everyday_calls_are_allowed_in_every_profile() {
    for profile in PROFILES {
        for name in [
            "read",
            "write",
            "openat",
            "open",
            "close",
            "mmap",
            "mprotect",
            "brk",
            "execve",
            "execveat",
            "exit_group",
            "fork",
            "vfork",
            "wait4",
            "futex",
            "rseq",
            "set_robust_list",
            "getrandom",
            "epoll_pwait",
            "pipe2",
            "dup3",
            "statx",
            "newfstatat",
            "getdents64",
            "renameat2",
            "unlinkat",
            "mkdirat",
            "linkat",
            "symlinkat",
            "flock",
            "prlimit64",
            "sched_getaffinity",
            "sched_yield",
            "rt_sigaction",
            "clock_nanosleep",
            "timerfd_create",
            "eventfd2",
            "setpgid",
            "membarrier",
            "madvise",
            "mremap",
            "copy_file_range",
            "fallocate",
            "ftruncate",
            "landlock_restrict_self",
            "arch_prctl",
            "sysinfo",
            "uname",
            "capget",
            "capset",
            "setresuid",
        ] {
            assert_call(profile, name, &[], None);
        }
        const THREAD: u64 = 0x003d_0f00; // what glibc's pthread_create gives
        assert_call(profile, "clone", &[THREAD], None);
        assert_call(profile, "clone", &[0x0120_0011], None); // fork: CHILD_SETTID | CHILD_CLEARTID | SIGCHLD
        assert_call(profile, "socketpair", &[1, 0x8_0001, 0], None); // AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC
        assert_call(profile, "ioctl", &[1, 0x5401], None); // TCGETS
        assert_call(profile, "prctl", &[15], None); // PR_SET_NAME
        assert_call(profile, "mknodat", &[0, 0, 0o010_644], None);
        assert_call(profile, "kill", &[0, 15], None);
    }
}

#[test]
fn clone_gives_no_namespace_and_keeps_every_exit_signal() {
    for profile in PROFILES {
        for flag in [
            0x0002_0000,
            0x0200_0000,
            0x0400_0000,
            0x0800_0000,
            0x1000_0000,
            0x2000_0000,
            0x4000_0000,
            0x8000,
        ] {
            assert_call(profile, "clone", &[flag | 17], EPERM);
            assert_call(profile, "clone", &[0xffff_ffff_0000_0000 | flag | 17], EPERM);
        }
        for signal in 0..=255 {
            assert_call(profile, "clone", &[signal], None);
        }
    }
}

#[test]
fn no_terminal_injection_whatever_the_upper_half() {
    for profile in PROFILES {
        for request in [0x5412, 0x541c, 0x541d, 0x5423, 0x8901, 0x8902, 0x540c, 0xb703, 0xff05] {
            assert_call(profile, "ioctl", &[0, request], EPERM);
            assert_call(profile, "ioctl", &[0, request | 1 << 32], EPERM);
        }
        assert_call(profile, "ioctl", &[0, 0x5413 | 0xffff_ffff_0000_0000], None);
    }
}

#[test]
fn sockets_are_of_few_kinds() {
    const RAW: u64 = 3;
    for profile in PROFILES {
        for family in [17, 40, 38, 29, 31, 44, 21, 30, 4, 5, 9, 0, 45] {
            assert_call(profile, "socket", &[family, 1, 0], EAFNOSUPPORT); // packet, vsock, alg, can, bluetooth, xdp, ...
        }
        assert_call(profile, "socket", &[2, RAW, 1], EPERM);
        assert_call(profile, "socket", &[2, 1, 132], EPERM); // SCTP
        assert_call(profile, "socketpair", &[30, 1, 0], Some(95));
    }
    let [namespace, none, host, _] = PROFILES;
    for (family, kind) in [(2, 1), (10, 2), (2, 0x8_0802), (16, 3)] {
        assert_call(namespace, "socket", &[family, kind, 0], None);
        assert_call(host, "socket", &[family, kind, 0], None);
    }
    assert_call(namespace, "socket", &[16, 3, 9], Some(93)); // NETLINK_AUDIT
    for kind in [1, 2, 5] {
        assert_call(namespace, "socket", &[1, kind, 0], None);
        assert_call(none, "socket", &[1, kind, 0], EPERM);
        assert_call(host, "socket", &[1, kind, 0], EPERM);
    }
    for family in [2, 10] {
        assert_call(none, "socket", &[family, 1, 0], EPERM);
    }
    assert_call(none, "socket", &[16, 3, 0], EAFNOSUPPORT);
    assert_call(none, "socketpair", &[1, 2, 0], EPERM);
    assert_call(none, "socketpair", &[1, 5, 0], None);
    for name in ["connect", "bind", "listen", "accept", "accept4"] {
        assert_call(none, name, &[3], EPERM);
        assert_call(host, name, &[3], None);
    }
}

#[test]
fn landlock_leaves_other_files_and_processes_alone() {
    let [namespace, old, new, unique] = PROFILES;
    for name in [
        "chmod",
        "fchmod",
        "fchmodat2",
        "lchown",
        "utimensat",
        "setxattr",
        "removexattrat",
        "file_setattr",
    ] {
        assert_call(namespace, name, &[], None);
        assert_call(unique, name, &[], None);
        assert_call(old, name, &[], EPERM);
        assert_call(new, name, &[], EPERM);
    }
    const TRUNC: u64 = 0o1000;
    for (name, flags_at) in [("open", 1), ("openat", 2)] {
        for (flags, denied) in [
            (TRUNC, true),
            (TRUNC | 3, true),
            (TRUNC | 1, false),
            (TRUNC | 2, false),
            (0o100, false),
            (3, false),
        ] {
            let mut args = [0; 6];
            args[flags_at] = flags;
            assert_call(old, name, &args, EPERM.filter(|_| denied));
            assert_call(new, name, &args, None);
        }
    }
    assert_call(old, "openat2", &[], ENOSYS);
    assert_call(new, "openat2", &[], ENOSYS);
    for name in ["open", "openat"] {
        let mode_at = if name == "open" { 2 } else { 3 };
        for (flags, mode, denied) in [
            (0o101, 0o4755, true),
            (0o101, 0o2755, true),
            (0o101, 0o644, false),
            (1, 0o6755, false),
        ] {
            let mut args = [0; 6];
            args[mode_at - 1] = flags;
            args[mode_at] = mode;
            for profile in [old, new] {
                assert_call(profile, name, &args, EPERM.filter(|_| denied));
            }
        }
    }
    assert_call(old, "truncate", &[], EPERM);
    assert_call(new, "truncate", &[], None);
    for name in [
        "tkill",
        "tgkill",
        "rt_sigqueueinfo",
        "rt_tgsigqueueinfo",
        "pidfd_send_signal",
    ] {
        assert_call(old, name, &[1, 9], EPERM);
        assert_call(new, name, &[1, 9], None);
        assert_call(unique, name, &[1, 9], None);
    }
    assert_call(old, "kill", &[u64::from(u32::MAX), 9], EPERM);
    assert_call(old, "kill", &[1 << 32 | 5, 9], EPERM);
    assert_call(old, "kill", &[5, 0], None);
    for command in [8, 10, 15] {
        assert_call(old, "fcntl", &[0, command], EPERM);
        assert_call(old, "fcntl", &[0, 1 << 32 | command], EPERM);
        assert_call(new, "fcntl", &[0, command], None);
    }
    for name in [
        "shmget",
        "semop",
        "msgrcv",
        "mq_open",
        "inotify_add_watch",
        "setsid",
        "name_to_handle_at",
    ] {
        assert_call(namespace, name, &[], None);
        for profile in [old, new, unique] {
            assert_call(profile, name, &[], EPERM);
        }
    }
    for name in ["prlimit64", "sched_setaffinity", "sched_setscheduler", "sched_setattr"] {
        assert_call(old, name, &[77], EPERM);
        assert_call(old, name, &[0], None);
        assert_call(namespace, name, &[77], None);
    }
    assert_call(old, "setpriority", &[2, 0], EPERM);
    assert_call(old, "setpriority", &[0, 5], EPERM);
    assert_call(old, "setpriority", &[0, 0], None);
    assert_call(old, "ioprio_set", &[3, 0], EPERM);
    assert_call(old, "ioprio_set", &[1, 0], None);
}

#[test]
fn no_listener_no_device_no_other_personality() {
    for profile in PROFILES {
        assert_call(profile, "seccomp", &[1, 0], None);
        assert_call(profile, "seccomp", &[1, 1 | 4], None);
        assert_call(profile, "seccomp", &[1, 8], EPERM);
        assert_call(profile, "seccomp", &[1, 1 << 32 | 9], EPERM);
        assert_call(profile, "mknodat", &[0, 0, 0o020_666], EPERM);
        assert_call(profile, "mknod", &[0, 0o060_666], EPERM);
        assert_call(profile, "personality", &[0xffff_ffff], None);
        assert_call(profile, "personality", &[0], None);
        assert_call(profile, "personality", &[0x0040_0000], EPERM);
        assert_call(profile, "prctl", &[35], EPERM); // PR_SET_MM
    }
}

#[test]
fn affinity_is_held_when_asked_in_every_profile() {
    let options = Options {
        deny_setting_affinity: true,
        ..Options::default()
    };
    for profile in PROFILES {
        for arch in Arch::ALL {
            let number = number_of(arch, "sched_setaffinity").expect("known");
            assert_eq!(decide(profile, options, arch, number, &[0; 6]).errno(), EPERM);
        }
    }
}

#[test]
fn a_better_kernel_only_allows_more() {
    // Whatever ABI 1 allows, ABI 7 must allow: else an upgrade breaks programs.
    for arch in Arch::ALL {
        for &(name, number) in rows(arch) {
            let at = |abi| {
                let profile = Profile::Landlock {
                    abi,
                    unique_uid: false,
                    network: Network::None,
                };
                decide(profile, Options::default(), arch, u32::from(number), &[0; 6])
            };
            assert!(at(1) != Verdict::Allow || at(7) == Verdict::Allow, "{name}");
        }
    }
}
