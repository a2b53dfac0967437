//! The system calls on the lists, by what they are for. Arguments are restricted in the module above.
//!
//! x86_64 has old calls that aarch64 lacks; C libraries use either. They are in lists of their own, the one place where the two differ.

use libc as c;

/// What every thread does: memory, locks, time, signals, reading and writing what it has.
pub(super) const EVERYWHERE: &[i64] = &[
    c::SYS_brk,
    c::SYS_clock_gettime,
    c::SYS_clock_nanosleep,
    c::SYS_clone3,
    c::SYS_close,
    c::SYS_exit,
    c::SYS_exit_group,
    c::SYS_fstat,
    c::SYS_futex,
    c::SYS_getpid,
    c::SYS_getrandom,
    c::SYS_gettid,
    c::SYS_lseek,
    c::SYS_madvise,
    c::SYS_mremap,
    c::SYS_munmap,
    c::SYS_nanosleep,
    c::SYS_ppoll,
    // A thread's name, and the names that allocators give to their memory.
    c::SYS_prctl,
    c::SYS_read,
    c::SYS_readv,
    c::SYS_restart_syscall,
    c::SYS_rseq,
    c::SYS_rt_sigaction,
    c::SYS_rt_sigprocmask,
    c::SYS_rt_sigreturn,
    c::SYS_sched_getaffinity,
    c::SYS_sched_yield,
    c::SYS_set_robust_list,
    c::SYS_sigaltstack,
    c::SYS_tgkill,
    // musl signals threads by it.
    c::SYS_tkill,
    c::SYS_write,
    c::SYS_writev,
];

/// What devices do, on the VMM's thread and (when the guest brings one up or resets it) on a vCPU's: KVM, files, taps, Unix sockets, timers.
pub(super) const DEVICES: &[i64] = &[
    c::SYS_accept4,
    c::SYS_connect,
    c::SYS_dup,
    c::SYS_epoll_create1,
    c::SYS_epoll_ctl,
    c::SYS_epoll_pwait,
    c::SYS_eventfd2,
    c::SYS_fallocate,
    c::SYS_fcntl,
    c::SYS_fdatasync,
    c::SYS_fsync,
    c::SYS_getsockopt,
    c::SYS_io_uring_enter,
    c::SYS_io_uring_register,
    c::SYS_io_uring_setup,
    c::SYS_ioctl,
    c::SYS_pread64,
    c::SYS_preadv,
    c::SYS_pwrite64,
    c::SYS_pwritev,
    c::SYS_recvfrom,
    c::SYS_recvmsg,
    c::SYS_sendmsg,
    c::SYS_sendto,
    c::SYS_setsockopt,
    c::SYS_shutdown,
    c::SYS_socket,
    c::SYS_timerfd_create,
    c::SYS_timerfd_settime,
];

/// What starting machines and writing snapshots takes beyond that.
pub(super) const VMM: &[i64] = &[
    c::SYS_bind,
    c::SYS_capget,
    c::SYS_capset,
    c::SYS_ftruncate,
    // The list of threads, to see whether one waits for a page for too long.
    c::SYS_getdents64,
    c::SYS_getsockname,
    // A machine without an API is closed when all of its files are open.
    c::SYS_landlock_add_rule,
    c::SYS_landlock_create_ruleset,
    c::SYS_landlock_restrict_self,
    c::SYS_listen,
    c::SYS_mkdirat,
    c::SYS_newfstatat,
    c::SYS_pipe2,
    c::SYS_openat,
    c::SYS_readlinkat,
    c::SYS_renameat,
    c::SYS_renameat2,
    // vCPUs' threads put on their own filters.
    c::SYS_seccomp,
    c::SYS_statx,
    c::SYS_unlinkat,
    c::SYS_userfaultfd,
];

/// What the API's server does: clients' sockets. It opens nothing; the VMM's thread looks whether the files of a request are there.
pub(super) const API: &[i64] = &[
    c::SYS_accept4,
    c::SYS_fcntl,
    c::SYS_getsockopt,
    c::SYS_ioctl,
    c::SYS_recvfrom,
    c::SYS_sendto,
    c::SYS_shutdown,
];

/// What connects to a path.
pub(super) const CONNECTING: &[i64] = &[c::SYS_connect, c::SYS_socket];

/// What names paths, but for connecting. What only looks whether something is there is left: asking about an open file
/// is the same call.
pub(super) const PATHS: &[i64] = &[
    c::SYS_bind,
    // What a ring is told to do is seen by no filter. Without rings, disks are worked on by threads.
    c::SYS_io_uring_setup,
    c::SYS_mkdirat,
    c::SYS_openat,
    c::SYS_readlinkat,
    c::SYS_renameat,
    c::SYS_renameat2,
    c::SYS_unlinkat,
];

/// What x86_64 has beside [`EVERYWHERE`].
#[cfg(target_arch = "x86_64")]
pub(super) const OLD: &[i64] = &[c::SYS_epoll_wait, c::SYS_poll, c::SYS_time];
/// What x86_64 has beside [`VMM`] and [`PATHS`].
#[cfg(target_arch = "x86_64")]
pub(super) const OLD_PATHS: &[i64] = &[
    // By which musl looks at what may be a link; glibc has newfstatat for that.
    c::SYS_lstat,
    c::SYS_open,
    c::SYS_readlink,
    c::SYS_rename,
    c::SYS_stat,
    c::SYS_unlink,
];
/// There are no old calls.
#[cfg(not(target_arch = "x86_64"))]
pub(super) const OLD: &[i64] = &[];
/// Here neither.
#[cfg(not(target_arch = "x86_64"))]
pub(super) const OLD_PATHS: &[i64] = &[];
