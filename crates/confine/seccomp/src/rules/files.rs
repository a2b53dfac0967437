//! Files: by path, by descriptor, their metadata, and waiting for them.
//!
//! In the namespace profile the sandbox's mounts decide what a path reaches. Landlock decides what may be opened, made,
//! renamed and removed, but sees no change of metadata (Linux Documentation/userspace-api/landlock.rst, "Filesystem
//! flags"), so there metadata of whatever the user owns is protected here.

use super::arguments::{
    IOCTL_REQUEST, MKNOD_MODE, MKNODAT_MODE, MODE_1, MODE_2, OPEN_FLAGS, OPEN_MODE, OPENAT_FLAGS, OPENAT_MODE,
    OWNED_BY_SIGNALS,
};
use super::{ABSENT, ALLOW, Group, Need, REFUSE, Rule};

pub(super) const GROUPS: &[Group] = &[
    Group {
        rule: ALLOW,
        names: &[
            // By path.
            "access",
            "chdir",
            "faccessat",
            "faccessat2",
            "fchdir",
            "getcwd",
            "link",
            "linkat",
            "lstat",
            "mkdir",
            "mkdirat",
            "newfstatat",
            "readlink",
            "readlinkat",
            "rename",
            "renameat",
            "renameat2",
            "rmdir",
            "stat",
            "statfs",
            "statx",
            "symlink",
            "symlinkat",
            "umask",
            "unlink",
            "unlinkat",
            // By descriptor.
            "close",
            "close_range",
            "copy_file_range",
            "dup",
            "dup2",
            "dup3",
            "fadvise64",
            "fallocate",
            "fdatasync",
            "flock",
            "fstat",
            "fstatfs",
            "fsync",
            "ftruncate",
            "getdents",
            "getdents64",
            "lseek",
            "memfd_create",
            "pipe",
            "pipe2",
            "pread64",
            "preadv",
            "preadv2",
            "pwrite64",
            "pwritev",
            "pwritev2",
            "read",
            "readahead",
            "readv",
            "sendfile",
            "splice",
            "sync",
            "sync_file_range",
            "syncfs",
            "tee",
            "vmsplice",
            "write",
            "writev",
            // Attributes, reading.
            "fgetxattr",
            "file_getattr",
            "flistxattr",
            "getxattr",
            "getxattrat",
            "lgetxattr",
            "listxattr",
            "listxattrat",
            "llistxattr",
            // Waiting, and asynchronous I/O of the old kind.
            "epoll_create",
            "epoll_create1",
            "epoll_ctl",
            "epoll_pwait",
            "epoll_pwait2",
            "epoll_wait",
            "eventfd",
            "eventfd2",
            "inotify_init",
            "inotify_init1",
            "inotify_rm_watch",
            "io_cancel",
            "io_destroy",
            "io_getevents",
            "io_pgetevents",
            "io_setup",
            "io_submit",
            "poll",
            "ppoll",
            "pselect6",
            "select",
            "signalfd",
            "signalfd4",
            "timerfd_create",
            "timerfd_gettime",
            "timerfd_settime",
        ],
    },
    // What a program may open it may open for writing or not at all; but opening read-only with O_TRUNC empties a file
    // that Landlock before ABI 3 only checks for reading.
    Group {
        rule: Rule::Where(
            Need::MediatedTruncation,
            &Rule::Arguments(&OPEN_MODE),
            &Rule::Arguments(&OPEN_FLAGS),
        ),
        names: &["open"],
    },
    Group {
        rule: Rule::Where(
            Need::MediatedTruncation,
            &Rule::Arguments(&OPENAT_MODE),
            &Rule::Arguments(&OPENAT_FLAGS),
        ),
        names: &["openat"],
    },
    Group {
        rule: Rule::Arguments(&MODE_1),
        names: &["creat"],
    },
    // Flags and mode are behind a pointer, out of a filter's sight; callers fall back to openat.
    Group {
        rule: ABSENT,
        names: &["openat2"],
    },
    Group {
        rule: Rule::Where(Need::MediatedTruncation, &ALLOW, &REFUSE),
        names: &["truncate"],
    },
    // Set-id bits on a file that is shared with the host would be a way to its owner's rights, for anybody who can run it.
    Group {
        rule: Rule::Where(Need::UniqueUid, &Rule::Arguments(&MODE_1), &REFUSE),
        names: &["chmod", "fchmod"],
    },
    Group {
        rule: Rule::Where(Need::UniqueUid, &Rule::Arguments(&MODE_2), &REFUSE),
        names: &["fchmodat", "fchmodat2"],
    },
    // Modes, owners, times and attributes of files that Landlock doesn't protect from their owner.
    Group {
        rule: Rule::Where(Need::UniqueUid, &ALLOW, &REFUSE),
        names: &[
            "chown",
            "fchown",
            "fchownat",
            "file_setattr",
            "fremovexattr",
            "fsetxattr",
            "futimesat",
            "lchown",
            "lremovexattr",
            "lsetxattr",
            "removexattr",
            "removexattrat",
            "setxattr",
            "setxattrat",
            "utime",
            "utimensat",
            "utimes",
        ],
    },
    // Unmediated by Landlock: tells when which file outside is used.
    Group {
        rule: Rule::Where(Need::Namespaces, &ALLOW, &REFUSE),
        names: &["inotify_add_watch", "name_to_handle_at"],
    },
    Group {
        rule: Rule::Arguments(&MKNOD_MODE),
        names: &["mknod"],
    },
    Group {
        rule: Rule::Arguments(&MKNODAT_MODE),
        names: &["mknodat"],
    },
    Group {
        rule: Rule::Arguments(&IOCTL_REQUEST),
        names: &["ioctl"],
    },
    // F_SETOWN and its kin aim SIGIO at any process of the same user.
    Group {
        rule: Rule::Where(Need::ScopedSignals, &ALLOW, &Rule::Arguments(&OWNED_BY_SIGNALS)),
        names: &["fcntl"],
    },
    // Opening by inode number goes past every path; the fanotify
    // calls watch whole file systems.
    Group {
        rule: REFUSE,
        names: &[
            "fanotify_init",
            "fanotify_mark",
            "open_by_handle_at",
            "quotactl",
            "quotactl_fd",
        ],
    },
    // Tells what of a file is in the page cache, which is shared with the host. New in 6.5, so nobody relies on it.
    Group {
        rule: ABSENT,
        names: &["cachestat"],
    },
    // Large, young, and a way around filters: its requests are calls that no filter sees. Callers fall back to epoll.
    Group {
        rule: ABSENT,
        names: &["io_uring_enter", "io_uring_register", "io_uring_setup"],
    },
    // Never there on x86_64 (`sys_ni_syscall` in its table).
    Group {
        rule: ABSENT,
        names: &["epoll_ctl_old", "epoll_wait_old"],
    },
];
