//! Making processes with namespaces, and waiting for them.
#![expect(unsafe_code, reason = "clone, wait4 and close_range have no safe wrapper that fits")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use crate::check;

/// `CLONE_NEW*` bits (clone(2)); a set of namespaces to create.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Namespaces(pub u64);

impl Namespaces {
    /// User, mount, pid, ipc, uts and cgroup namespaces: what every sandbox of the namespace tier has.
    pub const BASE: Namespaces = Namespaces(
        (libc::CLONE_NEWUSER
            | libc::CLONE_NEWNS
            | libc::CLONE_NEWPID
            | libc::CLONE_NEWIPC
            | libc::CLONE_NEWUTS
            | libc::CLONE_NEWCGROUP) as u64,
    );
    /// No new namespace.
    pub const NONE: Namespaces = Namespaces(0);

    /// Adds a network namespace.
    #[must_use]
    pub fn with_network(self) -> Self {
        Namespaces(self.0 | libc::CLONE_NEWNET as u64)
    }
}

/// Which side of a fork the caller is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fork {
    /// The new process.
    Child,
    /// The calling process, with the child's pid in its own pid namespace.
    Parent(i32),
}

/// Forks, the child in new namespaces. The child gets a copy of the address space, as with fork(2).
///
/// # Errors
/// What clone(2) says, or `EBUSY` when the process has more than one thread (the child could then deadlock on a lock held elsewhere).
pub fn fork(namespaces: Namespaces) -> io::Result<Fork> {
    let flags = namespaces.0 | libc::SIGCHLD as u64;
    // SAFETY: without CLONE_VM, with a null stack, this is fork(2): the child goes on with a copy of everything. Nothing in this
    // workspace starts threads in a process that calls it (the keeper is single-threaded by design), so no lock is held elsewhere.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone, flags, 0_usize, 0_usize, 0_usize, 0_usize) })?;
    Ok(if pid == 0 {
        Fork::Child
    } else {
        Fork::Parent(i32::try_from(pid).unwrap_or(i32::MAX))
    })
}

/// Forks as [`fork`] does, the child a member of a control group (v2) from its first instruction on. Moving a process later makes the kernel
/// wait for all of its readers of a lock: tens of milliseconds.
///
/// # Errors
/// What clone3(2) says: `ENOSYS` before Linux 5.3 and in containers whose filter does not know it, `EINVAL` before 5.7, `EACCES` for a group
/// that the caller may not use.
pub fn fork_into(namespaces: Namespaces, group: BorrowedFd<'_>) -> io::Result<Fork> {
    /// `CLONE_INTO_CGROUP` (linux/sched.h).
    const INTO_GROUP: u64 = 1 << 33;
    let descriptor = u64::try_from(group.as_raw_fd()).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    // struct clone_args, version 2 (linux/sched.h): flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid,
    // set_tid_size, cgroup.
    let mut arguments = [0_u64; 11];
    arguments[0] = namespaces.0 | INTO_GROUP;
    arguments[4] = libc::SIGCHLD as u64;
    arguments[10] = descriptor;
    let size = size_of_val(&arguments);
    // SAFETY: as in `fork`: no CLONE_VM, no stack; the kernel reads `size` bytes of the array and writes nothing.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone3, arguments.as_ptr(), size) })?;
    Ok(if pid == 0 {
        Fork::Child
    } else {
        Fork::Parent(i32::try_from(pid).unwrap_or(i32::MAX))
    })
}

/// Ends the process at once, running no destructors and flushing nothing: for the child of a fork.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit(2) takes any value and does not return.
    unsafe { libc::_exit(code) }
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It called exit with this code.
    Exited(i32),
    /// This signal killed it.
    Signaled(i32),
}

/// What a child used, from wait4(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// CPU time in user mode, microseconds.
    pub user_us: u64,
    /// CPU time in kernel mode, microseconds.
    pub system_us: u64,
    /// Largest resident set of any one process, in KiB.
    pub max_rss_kib: u64,
}

/// What [`wait`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waited {
    /// This child has ended and is reaped.
    Child(i32, Ended, Usage),
    /// Children exist, none has ended (only with `block == false`).
    Running,
    /// There are no children.
    NoChildren,
}

/// Reaps one child: `pid`, or any when `None`.
///
/// # Errors
/// What wait4(2) says, other than `ECHILD` (which is [`Waited::NoChildren`]).
pub fn wait(pid: Option<i32>, block: bool) -> io::Result<Waited> {
    let options = if block { 0 } else { libc::WNOHANG } | libc::__WALL;
    let mut status = 0;
    // SAFETY: rusage is plain integers; all zeros is a valid value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    let found = loop {
        // SAFETY: both pointers are to live, writable values of the right type.
        let found = unsafe { libc::wait4(pid.unwrap_or(-1), &raw mut status, options, &raw mut usage) };
        if found >= 0 {
            break found;
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EINTR) => {}
            Some(libc::ECHILD) => return Ok(Waited::NoChildren),
            _ => return Err(error),
        }
    };
    if found == 0 {
        return Ok(Waited::Running);
    }
    let ended = if libc::WIFSIGNALED(status) {
        Ended::Signaled(libc::WTERMSIG(status))
    } else {
        Ended::Exited(libc::WEXITSTATUS(status))
    };
    let micros = |time: libc::timeval| {
        u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000 + u64::try_from(time.tv_usec).unwrap_or(0)
    };
    let usage = Usage {
        user_us: micros(usage.ru_utime),
        system_us: micros(usage.ru_stime),
        max_rss_kib: u64::try_from(usage.ru_maxrss).unwrap_or(0),
    };
    Ok(Waited::Child(found, ended, usage))
}

/// Marks every descriptor from `first` up close-on-exec.
///
/// # Errors
/// What close_range(2) says (Linux 5.11 for the flag).
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    /// `CLOSE_RANGE_CLOEXEC`, linux/close_range.h.
    const CLOEXEC: u32 = 1 << 2;
    // SAFETY: only flags change; no descriptor is closed here.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, CLOEXEC) }).map(drop)
}

/// Lets a descriptor survive an exec.
///
/// # Errors
/// What fcntl(2) says; `EBADF` when it is not open.
pub fn keep_on_exec(fd: i32) -> io::Result<()> {
    // SAFETY: only a flag of the descriptor changes.
    check(libc::c_long::from(unsafe { libc::fcntl(fd, libc::F_SETFD, 0) })).map(drop)
}

/// Sends a signal to a process, or with a negative pid to a process group (kill(2)).
///
/// # Errors
/// What kill(2) says.
pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: kill(2) takes any values.
    check(libc::c_long::from(unsafe { libc::kill(pid, signal) })).map(drop)
}

/// Sets one resource limit of the calling process, soft and hard, never above the hard limit it has.
///
/// # Errors
/// What setrlimit(2) says.
pub fn set_rlimit(resource: Rlimit, value: u64) -> io::Result<()> {
    let resource = match resource {
        Rlimit::Core => libc::RLIMIT_CORE,
        Rlimit::Data => libc::RLIMIT_DATA,
        Rlimit::FileSize => libc::RLIMIT_FSIZE,
        Rlimit::OpenFiles => libc::RLIMIT_NOFILE,
        Rlimit::Processes => libc::RLIMIT_NPROC,
        Rlimit::MessageQueues => libc::RLIMIT_MSGQUEUE,
    };
    let mut now = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the pointer is to a live, writable rlimit.
    check(libc::c_long::from(unsafe { libc::getrlimit(resource, &raw mut now) }))?;
    let value = value.min(now.rlim_max);
    let wanted = libc::rlimit {
        rlim_cur: value,
        rlim_max: value,
    };
    // SAFETY: the pointer is to a live rlimit.
    check(libc::c_long::from(unsafe {
        libc::setrlimit(resource, &raw const wanted)
    }))
    .map(drop)
}

/// Resource limits a sandbox sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rlimit {
    /// Bytes of a core dump.
    Core,
    /// Bytes of private writable memory of one process (Linux 4.7: anonymous mappings too).
    Data,
    /// Bytes of one file.
    FileSize,
    /// Open files of one process.
    OpenFiles,
    /// Processes of this user in this user namespace (counted per namespace since Linux 5.14).
    Processes,
    /// Bytes in POSIX message queues.
    MessageQueues,
}

/// Limits the calling process to the first `count` CPUs of those it may use now. Returns how many it has then.
///
/// # Errors
/// What sched_setaffinity(2) says.
pub fn pin_to_cpus(count: usize) -> io::Result<usize> {
    // SAFETY: cpu_set_t is an array of integers; all zeros is the empty set.
    let mut allowed: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    let size = std::mem::size_of::<libc::cpu_set_t>();
    // SAFETY: the pointer is to a live, writable set of the size given.
    check(libc::c_long::from(unsafe {
        libc::sched_getaffinity(0, size, &raw mut allowed)
    }))?;
    let mut kept = 0;
    for cpu in 0..libc::CPU_SETSIZE as usize {
        // SAFETY: `cpu` is below CPU_SETSIZE.
        if unsafe { libc::CPU_ISSET(cpu, &allowed) } {
            if kept < count {
                kept += 1;
            } else {
                // SAFETY: as above.
                unsafe { libc::CPU_CLR(cpu, &mut allowed) };
            }
        }
    }
    // SAFETY: the pointer is to a live set of the size given.
    check(libc::c_long::from(unsafe {
        libc::sched_setaffinity(0, size, &raw const allowed)
    }))?;
    Ok(kept)
}

/// Brings the loopback device of the current network namespace up (netdevice(7), SIOCSIFFLAGS).
///
/// # Errors
/// What socket(2) or ioctl(2) says.
pub fn loopback_up() -> io::Result<()> {
    // SAFETY: socket(2) takes any values.
    let socket = check(libc::c_long::from(unsafe {
        libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0)
    }))?;
    let socket = i32::try_from(socket).unwrap_or(-1);
    // SAFETY: ifreq is plain data; all zeros is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = libc::c_char::try_from(b'l').unwrap_or(0);
    request.ifr_name[1] = libc::c_char::try_from(b'o').unwrap_or(0);
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(libc::IFF_UP | libc::IFF_RUNNING).unwrap_or(0);
    // SAFETY: the pointer is to a live ifreq, which is what SIOCSIFFLAGS reads.
    let result = check(libc::c_long::from(unsafe {
        libc::ioctl(socket, crate::request(libc::SIOCSIFFLAGS), &raw mut request)
    }))
    .map(drop);
    // SAFETY: the descriptor is ours and used nowhere else.
    unsafe { libc::close(socket) };
    result
}

/// Waits for at most `timeout` until one of `fds` is ready; returns which are (readable, hung up or in error).
///
/// # Errors
/// What poll(2) says; an interrupted wait is an empty answer.
pub fn poll_readable(fds: &[i32], timeout: Option<Duration>) -> io::Result<Vec<bool>> {
    let mut set: Vec<libc::pollfd> = fds
        .iter()
        .map(|&fd| libc::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        })
        .collect();
    // Rounded up: a wait cut short by rounding would spin until the deadline.
    let timeout = timeout.map_or(-1, |time| {
        i32::try_from(time.as_micros().div_ceil(1000)).unwrap_or(i32::MAX)
    });
    let count = libc::nfds_t::try_from(set.len()).unwrap_or(0);
    // SAFETY: the pointer and the count describe `set`.
    match check(libc::c_long::from(unsafe {
        libc::poll(set.as_mut_ptr(), count, timeout)
    })) {
        Err(error) if error.raw_os_error() != Some(libc::EINTR) => Err(error),
        _ => Ok(set.iter().map(|entry| entry.revents != 0).collect()),
    }
}
