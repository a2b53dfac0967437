//! The decisions on arguments: which flags, requests, options and socket kinds are allowed.
//!
//! Values are those of `asm-generic`, which both architectures use for everything here.

use super::{Case, Check, Span, Test};
use crate::verdict::Verdict;
use crate::verdict::errno::{EAFNOSUPPORT, EOPNOTSUPP, EPERM, EPROTONOSUPPORT};

const ZERO: &[Span] = &[(0, 0)];

/// `clone(flags, ...)`: no new namespace, and no child that is the caller's sibling.
///
/// The flags of `linux/sched.h`: NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET. `CLONE_NEWTIME` (0x80) isn't
/// among them: clone(2) can't give it, that bit belongs to the exit signal in the low byte. `CLONE_PARENT` would make
/// the child a child of the sandbox's keeper, which didn't ask for it.
pub(super) static CLONE_FLAGS: Check = {
    const NEW_NAMESPACES: u32 = 0x0002_0000 | 0x7e00_0000;
    const PARENT: u32 = 0x8000;
    Check::new(
        &[Case::allow(&[Test::bits(0, NEW_NAMESPACES | PARENT, ZERO)])],
        Verdict::EPERM,
    )
};

/// `kill(pid, signal)`: to the caller's own process group, or signal 0, which only asks whether the process exists.
pub(super) static KILL_OF_OWN_GROUP: Check = Check::new(
    &[Case::allow(&[Test::any(0, ZERO)]), Case::allow(&[Test::any(1, ZERO)])],
    Verdict::EPERM,
);

/// A call whose first argument is a pid: 0, the caller.
pub(super) static SELF_AS_FIRST: Check = Check::new(&[Case::allow(&[Test::any(0, ZERO)])], Verdict::EPERM);

/// `setpriority(which, who, ...)`: `PRIO_PROCESS` or `PRIO_PGRP` of the caller, not `PRIO_USER`.
pub(super) static PRIORITY_OF_SELF: Check = Check::new(
    &[Case::allow(&[Test::any(0, &[(0, 1)]), Test::any(1, ZERO)])],
    Verdict::EPERM,
);

/// `ioprio_set(which, who, ...)`: `IOPRIO_WHO_PROCESS` or `_PGRP` of the caller, not `_USER` (`linux/ioprio.h`).
pub(super) static IO_PRIORITY_OF_SELF: Check = Check::new(
    &[Case::allow(&[Test::any(0, &[(1, 2)]), Test::any(1, ZERO)])],
    Verdict::EPERM,
);

/// `personality(persona)`: the ordinary one, or 0xffffffff, which only asks.
pub(super) static PERSONALITY: Check = Check::new(
    &[Case::allow(&[Test::any(0, &[(0, 0), (u32::MAX, u32::MAX)])])],
    Verdict::EPERM,
);

/// `seccomp(operation, flags, ...)`: anything but a filter with a listener.
///
/// If two filters of a process ask a supervisor about the same call, the one installed last wins (seccomp_unotify(2)):
/// a listener inside could answer what ours should, "continue" included.
pub(super) static SECCOMP_OPERATION: Check = {
    /// `SECCOMP_SET_MODE_STRICT`, `SECCOMP_GET_ACTION_AVAIL`, `SECCOMP_GET_NOTIF_SIZES`.
    const HARMLESS: &[Span] = &[(0, 0), (2, 3)];
    const SET_MODE_FILTER: &[Span] = &[(1, 1)];
    const NEW_LISTENER: u32 = 1 << 3;
    Check::new(
        &[
            Case::allow(&[Test::any(0, HARMLESS)]),
            Case::allow(&[Test::any(0, SET_MODE_FILTER), Test::bits(1, NEW_LISTENER, ZERO)]),
        ],
        Verdict::EPERM,
    )
};

/// `prctl(option, ...)`, from `linux/prctl.h`.
///
/// Not among them: 28 `SET_SECUREBITS`, 31-32 `TASK_PERF_EVENTS_*`, 35 `SET_MM`, 53 `SET_SPECULATION_CTRL`,
/// 57 `SET_IO_FLUSHER`, 62 `SCHED_CORE`, 67 `SET_MEMORY_MERGE` (page merging tells others' pages by timing),
/// 77 `TIMER_CREATE_RESTORE_IDS`, and those of other architectures.
pub(super) static PRCTL_OPTION: Check = Check::new(
    &[Case::allow(&[Test::any(
        0,
        &[
            (1, 8),                     // SET/GET_PDEATHSIG, _DUMPABLE, _UNALIGN, _KEEPCAPS
            (13, 16),                   // GET/SET_TIMING, SET/GET_NAME
            (21, 27),                   // GET/SET_SECCOMP, CAPBSET_READ/DROP, GET/SET_TSC, GET_SECUREBITS
            (29, 30),                   // SET/GET_TIMERSLACK
            (33, 34),                   // MCE_KILL, MCE_KILL_GET
            (36, 42),                   // CHILD_SUBREAPER, NO_NEW_PRIVS, GET_TID_ADDRESS, THP_DISABLE
            (47, 47),                   // CAP_AMBIENT
            (50, 52),                   // SVE_SET/GET_VL, GET_SPECULATION_CTRL
            (54, 56),                   // PAC_RESET_KEYS, SET/GET_TAGGED_ADDR_CTRL
            (58, 61),                   // GET_IO_FLUSHER, SET_SYSCALL_USER_DISPATCH, PAC_SET/GET_ENABLED_KEYS
            (63, 66),                   // SME_SET/GET_VL, SET/GET_MDWE
            (68, 68),                   // GET_MEMORY_MERGE
            (74, 76),                   // GET/SET/LOCK_SHADOW_STACK_STATUS
            (78, 78),                   // FUTEX_HASH
            (0x4155_5856, 0x4155_5856), // GET_AUXV
            (0x5356_4d41, 0x5356_4d41), // SET_VMA: names for mappings
            (0x5961_6d61, 0x5961_6d61), // SET_PTRACER: who may trace the caller
        ],
    )])],
    Verdict::EPERM,
);

/// `ioctl(fd, request, ...)`: terminals, descriptors, file extents, and the getters for network interfaces
/// (`asm-generic/ioctls.h`, `linux/fs.h`, `linux/sockios.h`). The kernel takes the request as an `unsigned int`.
///
/// Never: `TIOCSTI` 0x5412 and `TIOCLINUX` 0x541c (type into the terminal), `TIOCCONS` 0x541d, `TIOCSETD` 0x5423 (loads
/// line disciplines), `TIOCEXCL` 0x540c (locks the user out of their own terminal), `FIOSETOWN`, `SIOCSPGRP` (aim
/// signals), namespaces' and pidfds' requests (hand out descriptors to namespaces).
pub(super) static IOCTL_REQUEST: Check = Check::new(
    &[Case::allow(&[Test::any(
        1,
        &[
            (0x0000_0002, 0x0000_0002), // FIGETBSZ
            (0x0000_5401, 0x0000_540b), // TCGETS, TCSETS*, TCGETA, TCSETA*, TCSBRK, TCXONC, TCFLSH
            (0x0000_540e, 0x0000_5411), // TIOCSCTTY, TIOCGPGRP, TIOCSPGRP, TIOCOUTQ (SIOCOUTQ)
            (0x0000_5413, 0x0000_5414), // TIOCGWINSZ, TIOCSWINSZ
            (0x0000_541b, 0x0000_541b), // FIONREAD (SIOCINQ)
            (0x0000_5420, 0x0000_5422), // TIOCPKT, FIONBIO, TIOCNOTTY
            (0x0000_5424, 0x0000_5425), // TIOCGETD, TCSBRKP
            (0x0000_5429, 0x0000_5429), // TIOCGSID
            (0x0000_5441, 0x0000_5441), // TIOCGPTPEER
            (0x0000_5450, 0x0000_5452), // FIONCLEX, FIOCLEX, FIOASYNC
            (0x0000_5460, 0x0000_5460), // FIOQSIZE
            (0x0000_8905, 0x0000_8905), // SIOCATMARK
            (0x0000_8910, 0x0000_8910), // SIOCGIFNAME
            (0x0000_8912, 0x0000_8913), // SIOCGIFCONF, SIOCGIFFLAGS
            (0x0000_8915, 0x0000_8915), // SIOCGIFADDR
            (0x0000_8917, 0x0000_8917), // SIOCGIFDSTADDR
            (0x0000_8919, 0x0000_8919), // SIOCGIFBRDADDR
            (0x0000_891b, 0x0000_891b), // SIOCGIFNETMASK
            (0x0000_8921, 0x0000_8921), // SIOCGIFMTU
            (0x0000_8927, 0x0000_8927), // SIOCGIFHWADDR
            (0x0000_8933, 0x0000_8933), // SIOCGIFINDEX
            (0x4004_5431, 0x4004_5431), // TIOCSPTLCK
            (0x4004_9409, 0x4004_9409), // FICLONE
            (0x4020_940d, 0x4020_940d), // FICLONERANGE
            (0x402c_542b, 0x402c_542d), // TCSETS2, TCSETSW2, TCSETSF2
            (0x8004_5430, 0x8004_5430), // TIOCGPTN
            (0x8004_5438, 0x8004_5439), // TIOCGPKT, TIOCGPTLCK
            (0x8008_6601, 0x8008_6601), // FS_IOC_GETFLAGS
            (0x801c_581f, 0x801c_581f), // FS_IOC_FSGETXATTR
            (0x802c_542a, 0x802c_542a), // TCGETS2
            (0xc020_660b, 0xc020_660b), // FS_IOC_FIEMAP
        ],
    )])],
    Verdict::EPERM,
);

/// `fcntl(fd, command, ...)`: anything but `F_SETOWN` 8, `F_SETSIG` 10 and `F_SETOWN_EX` 15.
pub(super) static OWNED_BY_SIGNALS: Check = Check::new(
    &[Case::allow(&[Test::any(
        1,
        &[(0, 7), (9, 9), (11, 14), (16, u32::MAX)],
    )])],
    Verdict::EPERM,
);

/// `chmod(path, mode)`, `fchmod(fd, mode)`, `creat(path, mode)`: no set-id bits.
pub(super) static MODE_1: Check = Check::new(&[Case::allow(&[Test::bits(1, SET_ID, ZERO)])], Verdict::EPERM);

/// `fchmodat(dirfd, path, mode)`: the same.
pub(super) static MODE_2: Check = Check::new(&[Case::allow(&[Test::bits(2, SET_ID, ZERO)])], Verdict::EPERM);

/// `S_ISUID`, `S_ISGID` (inode(7)).
const SET_ID: u32 = 0o6000;
/// `O_CREAT`, `__O_TMPFILE`: only with one of them is the mode looked at (open(2)); without, the register holds anything.
const CREATING: u32 = 0o100 | 0o20_000_000;

/// `open(path, flags, mode)`: nothing made with set-id bits.
pub(super) static OPEN_MODE: Check = Check::new(
    &[
        Case::allow(&[Test::bits(1, CREATING, ZERO)]),
        Case::allow(&[Test::bits(2, SET_ID, ZERO)]),
    ],
    Verdict::EPERM,
);

/// `openat(dirfd, path, flags, mode)`: the same.
pub(super) static OPENAT_MODE: Check = Check::new(
    &[
        Case::allow(&[Test::bits(2, CREATING, ZERO)]),
        Case::allow(&[Test::bits(3, SET_ID, ZERO)]),
    ],
    Verdict::EPERM,
);

/// `open(path, flags, mode)`: the same, and no `O_TRUNC` unless opened for writing.
///
/// Access mode 3 ("neither", open(2)) counts as not for writing: Landlock demands nothing for it.
pub(super) static OPEN_FLAGS: Check = Check::new(
    &[
        Case::allow(&[Test::bits(1, O_TRUNC | CREATING, ZERO)]),
        Case::allow(&[Test::bits(1, O_ACCMODE, WRITING), Test::bits(1, CREATING, ZERO)]),
        Case::allow(&[Test::bits(1, O_TRUNC, ZERO), Test::bits(2, SET_ID, ZERO)]),
        Case::allow(&[Test::bits(1, O_ACCMODE, WRITING), Test::bits(2, SET_ID, ZERO)]),
    ],
    Verdict::EPERM,
);

/// `openat(dirfd, path, flags, mode)`: the same.
pub(super) static OPENAT_FLAGS: Check = Check::new(
    &[
        Case::allow(&[Test::bits(2, O_TRUNC | CREATING, ZERO)]),
        Case::allow(&[Test::bits(2, O_ACCMODE, WRITING), Test::bits(2, CREATING, ZERO)]),
        Case::allow(&[Test::bits(2, O_TRUNC, ZERO), Test::bits(3, SET_ID, ZERO)]),
        Case::allow(&[Test::bits(2, O_ACCMODE, WRITING), Test::bits(3, SET_ID, ZERO)]),
    ],
    Verdict::EPERM,
);

const O_TRUNC: u32 = 0o1000;
const O_ACCMODE: u32 = 0o3;
/// `O_WRONLY`, `O_RDWR`.
const WRITING: &[Span] = &[(1, 2)];

/// `mknod(path, mode, ...)`: a regular file, a pipe or a socket, without set-id bits.
pub(super) static MKNOD_MODE: Check = Check::new(
    &[Case::allow(&[
        Test::bits(1, S_IFMT, NO_DEVICE),
        Test::bits(1, SET_ID, ZERO),
    ])],
    Verdict::EPERM,
);

/// `mknodat(dirfd, path, mode, ...)`: the same.
pub(super) static MKNODAT_MODE: Check = Check::new(
    &[Case::allow(&[
        Test::bits(2, S_IFMT, NO_DEVICE),
        Test::bits(2, SET_ID, ZERO),
    ])],
    Verdict::EPERM,
);

const S_IFMT: u32 = 0o170_000;
/// 0 and `S_IFREG` mean a regular file; `S_IFIFO`; `S_IFSOCK`.
const NO_DEVICE: &[Span] = &[
    (0, 0),
    (0o010_000, 0o010_000),
    (0o100_000, 0o100_000),
    (0o140_000, 0o140_000),
];

// The arguments of `socket(family, type, protocol)` and of `socketpair`, which has the same.
const AF_UNIX: &[Span] = &[(1, 1)];
/// `AF_INET`, `AF_INET6`.
const AF_INET: &[Span] = &[(2, 2), (10, 10)];
const AF_NETLINK: &[Span] = &[(16, 16)];
/// `SOCK_TYPE_MASK` (`linux/net.h`): the rest of the type is `SOCK_NONBLOCK` and `SOCK_CLOEXEC`.
const TYPE: u32 = 0xf;
/// `SOCK_STREAM`, `SOCK_DGRAM`.
const STREAM_OR_DATAGRAM: &[Span] = &[(1, 2)];
/// Those, and `SOCK_SEQPACKET`.
const UNIX_TYPES: &[Span] = &[(1, 2), (5, 5)];
/// `SOCK_STREAM`, `SOCK_SEQPACKET`: connected for good, unlike `SOCK_DGRAM`, which can send to any path.
const CONNECTED: &[Span] = &[(1, 1), (5, 5)];
/// `SOCK_DGRAM`, `SOCK_RAW`: the same for netlink.
const NETLINK_TYPES: &[Span] = &[(2, 3)];
/// The default, ICMP, TCP, UDP, ICMPv6. Not SCTP, DCCP, MPTCP, L2TP and UDP-Lite, which load modules of their own.
const INTERNET_PROTOCOLS: &[Span] = &[(0, 1), (6, 6), (17, 17), (58, 58)];
const NETLINK_ROUTE: &[Span] = ZERO;

const UNIX: Case = Case::allow(&[Test::any(0, AF_UNIX), Test::bits(1, TYPE, UNIX_TYPES)]);
const INTERNET: Case = Case::allow(&[
    Test::any(0, AF_INET),
    Test::bits(1, TYPE, STREAM_OR_DATAGRAM),
    Test::any(2, INTERNET_PROTOCOLS),
]);
const ROUTES: Case = Case::allow(&[
    Test::any(0, AF_NETLINK),
    Test::bits(1, TYPE, NETLINK_TYPES),
    Test::any(2, NETLINK_ROUTE),
]);
/// Of the families above, but of another kind: what the kernel says to a raw socket without `CAP_NET_RAW`.
const OTHER_KIND: Case = Case::refuse(&[Test::any(0, &[(1, 2), (10, 10)])], EPERM);
/// What a kernel without that netlink protocol says; libaudit takes it for "no audit here" and goes on.
const OTHER_NETLINK: Case = Case::refuse(&[Test::any(0, AF_NETLINK)], EPROTONOSUPPORT);
/// What a kernel without a family says.
const NO_FAMILY: Verdict = Verdict::Refuse { errno: EAFNOSUPPORT };

/// `socket` inside a network namespace.
pub(super) static SOCKET: Check = Check::new(&[UNIX, INTERNET, ROUTES, OTHER_KIND, OTHER_NETLINK], NO_FAMILY);

/// `socket` on the host's network, without Unix sockets.
pub(super) static SOCKET_OF_HOST: Check = Check::new(&[INTERNET, ROUTES, OTHER_KIND, OTHER_NETLINK], NO_FAMILY);

/// `socket` without any network.
pub(super) static SOCKET_REFUSED: Check = Check::new(&[OTHER_KIND], NO_FAMILY);

/// `socketpair` of Unix sockets, the only family that has pairs beside TIPC.
pub(super) static SOCKETPAIR: Check = Check::new(
    &[Case::allow(&[Test::any(0, AF_UNIX)])],
    Verdict::Refuse { errno: EOPNOTSUPP },
);

/// `socketpair` of sockets that can't be aimed elsewhere.
pub(super) static SOCKETPAIR_CONNECTED: Check = Check::new(
    &[
        Case::allow(&[Test::any(0, AF_UNIX), Test::bits(1, TYPE, CONNECTED)]),
        Case::refuse(&[Test::any(0, AF_UNIX)], EPERM),
    ],
    Verdict::Refuse { errno: EOPNOTSUPP },
);
