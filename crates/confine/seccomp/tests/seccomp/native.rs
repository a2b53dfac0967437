//! Each profile installed in a forked child that then makes one call.
#![expect(
    unsafe_code,
    reason = "forks, installs filters and makes raw calls; the library does none of that"
)]

use std::io::Error;

use libc::{c_long, sock_filter};
use ringwall_seccomp::{Arch, Network, Options, Profile, compile};

const PROFILES: [Profile; 4] = [
    Profile::Namespace,
    Profile::Landlock {
        abi: 1,
        unique_uid: false,
        network: Network::None,
    },
    Profile::Landlock {
        abi: 6,
        unique_uid: false,
        network: Network::Host,
    },
    Profile::Landlock {
        abi: 7,
        unique_uid: true,
        network: Network::None,
    },
];

/// How a child ended.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    /// Its call failed with this error number; 0 if it didn't fail.
    Errno(i32),
    Signal(i32),
}

/// Installs `program`, if any, in a child and returns how `call` ended there. `call` must not allocate.
fn in_child(program: Option<&[sock_filter]>, call: impl Fn() -> c_long) -> Ended {
    /// Exit code of a child whose filter wasn't installed; no error number of the calls tried.
    const NOT_INSTALLED: i32 = 250;

    // SAFETY: the child makes raw calls only, allocates nothing and leaves with _exit.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "fork: {}", Error::last_os_error());
    if child == 0 {
        if let Some(program) = program {
            let wanted = libc::sock_fprog {
                len: u16::try_from(program.len()).unwrap_or(0),
                filter: program.as_ptr().cast_mut(),
            };
            // SAFETY: no pointers are passed.
            let no_new_privs = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
            // SAFETY: `wanted` describes `program`, which outlives the call; the kernel only reads it.
            let installed =
                unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const wanted) };
            if no_new_privs != 0 || installed != 0 {
                // SAFETY: ends this process.
                unsafe { libc::_exit(NOT_INSTALLED) };
            }
        }
        let code = if call() < 0 {
            Error::last_os_error().raw_os_error().unwrap_or(251)
        } else {
            0
        };
        // SAFETY: ends this process.
        unsafe { libc::_exit(code) };
    }
    let mut status = 0;
    // SAFETY: `status` is valid for writes.
    let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!(waited, child, "waitpid: {}", Error::last_os_error());
    if libc::WIFSIGNALED(status) {
        return Ended::Signal(libc::WTERMSIG(status));
    }
    let code = libc::WEXITSTATUS(status);
    assert_ne!(code, NOT_INSTALLED, "the kernel refused the filter");
    Ended::Errno(code)
}

/// A call with arguments that are no pointers.
fn call(number: c_long, args: [c_long; 3]) -> c_long {
    // SAFETY: only used with calls that take no pointer in these arguments, or that fail before using one.
    unsafe { libc::syscall(number, args[0], args[1], args[2]) }
}

/// Runs `call` under each profile.
#[track_caller]
fn assert_in_all(wanted: &Ended, number: c_long, args: [c_long; 3]) {
    for profile in PROFILES {
        let program = compile(profile, Options::default(), Arch::NATIVE).expect("compiles");
        assert_eq!(
            in_child(Some(&program), || call(number, args)),
            *wanted,
            "{profile:?} call {number}"
        );
    }
}

#[test]
fn the_kernel_takes_each_filter_and_ordinary_calls_work() {
    assert_in_all(&Ended::Errno(0), libc::SYS_getpid, [0; 3]);
    assert_in_all(&Ended::Errno(libc::EBADF), libc::SYS_close, [-1, 0, 0]);
    // A request that is allowed gets as far as the descriptor, which isn't one.
    assert_in_all(&Ended::Errno(libc::EBADF), libc::SYS_ioctl, [-1, 0x5401, 0]);
}

#[test]
fn new_user_namespaces_are_refused() {
    assert_in_all(
        &Ended::Errno(libc::EPERM),
        libc::SYS_clone,
        [c_long::from(libc::CLONE_NEWUSER | libc::SIGCHLD), 0, 0],
    );
    assert_in_all(
        &Ended::Errno(libc::EPERM),
        libc::SYS_unshare,
        [c_long::from(libc::CLONE_NEWUSER), 0, 0],
    );
    // Flags that can't be combined: the kernel's EINVAL shows that the filter let the call through, unlike above.
    let invalid = c_long::from(libc::CLONE_THREAD);
    assert_in_all(&Ended::Errno(libc::EINVAL), libc::SYS_clone, [invalid, 0, 0]);
}

#[test]
fn terminal_injection_is_refused_before_the_kernel_looks() {
    let request = 0x5412; // TIOCSTI
    assert_eq!(
        in_child(None, || call(libc::SYS_ioctl, [-1, request, 0])),
        Ended::Errno(libc::EBADF)
    );
    assert_in_all(&Ended::Errno(libc::EPERM), libc::SYS_ioctl, [-1, request, 0]);
    assert_in_all(&Ended::Errno(libc::EPERM), libc::SYS_ioctl, [-1, request | 1 << 32, 0]);
}

#[test]
fn unknown_and_feigned_calls_are_absent() {
    assert_in_all(&Ended::Errno(libc::ENOSYS), 5000, [0; 3]);
    assert_in_all(&Ended::Errno(libc::ENOSYS), -1, [0; 3]);
    assert_in_all(&Ended::Errno(libc::ENOSYS), libc::SYS_clone3, [0; 3]);
    assert_in_all(&Ended::Errno(libc::ENOSYS), libc::SYS_io_uring_setup, [1, 0, 0]);
}

#[test]
#[cfg(target_arch = "x86_64")]
fn x32_calls_kill() {
    assert_in_all(&Ended::Signal(libc::SIGSYS), 0x4000_0000 | libc::SYS_getpid, [0; 3]);
}

#[test]
#[cfg(target_arch = "x86_64")]
fn i386_calls_kill() {
    /// getpid(2) by the i386 table.
    fn getpid_of_i386() -> c_long {
        let result: i32;
        // SAFETY: getpid touches no memory; int 0x80 clobbers r8 to r11 at most.
        unsafe {
            std::arch::asm!("int 0x80", inlateout("eax") 20 => result, out("r8") _, out("r9") _, out("r10") _, out("r11") _);
        }
        c_long::from(result)
    }

    if in_child(None, getpid_of_i386) != Ended::Errno(0) {
        println!("SKIPPED: this kernel has no i386 calls");
        return;
    }
    for profile in PROFILES {
        let program = compile(profile, Options::default(), Arch::NATIVE).expect("compiles");
        assert_eq!(
            in_child(Some(&program), getpid_of_i386),
            Ended::Signal(libc::SIGSYS),
            "{profile:?}"
        );
    }
}
