//! Kernel interfaces that have no place in a sandbox, foreign system call tables, terminals.

use crate::Proof::{Nowhere, Ordinary, Root};
use crate::calls::{any, call, fork, reached, succeeded, text, wait};
use crate::files::{at_fdcwd, scratch};
use crate::{Attempt, Verdict, attempt};

/// A descriptor that is none: a call that gets as far as looking at it says EBADF.
const NO_FD: usize = 999_999;

pub(crate) const ATTEMPTS: &[Attempt] = &[
    attempt(
        "bpf",
        Root,
        || reached("bpf", call(libc::SYS_bpf, &[0xffff, 0, 0])),
        "programs in the kernel",
    ),
    attempt(
        "perf",
        Root,
        || {
            reached(
                "perf_event_open",
                call(libc::SYS_perf_event_open, &[0, 0, usize::MAX, usize::MAX, 0]),
            )
        },
        "it watches the whole machine",
    ),
    attempt(
        "keyring",
        Ordinary,
        || {
            any([
                reached("keyctl", call(libc::SYS_keyctl, &[0, usize::MAX - 2, 0])),
                reached("request_key", call(libc::SYS_request_key, &[0, 0, 0, 0])),
                reached("add_key", call(libc::SYS_add_key, &[0, 0, 0, 0, 0])),
            ])
        },
        "keyrings are shared with the host",
    ),
    attempt(
        "io-uring",
        Ordinary,
        || reached("io_uring_setup", call(libc::SYS_io_uring_setup, &[0, 0])),
        "it makes calls that seccomp does not see",
    ),
    attempt(
        "userfaultfd",
        Root,
        || reached("userfaultfd", call(libc::SYS_userfaultfd, &[0xffff_0000])),
        "it stops the kernel at a chosen point",
    ),
    attempt(
        "kexec",
        Root,
        || reached("kexec_load", call(libc::SYS_kexec_load, &[0, 0, 0, 0xff])),
        "another kernel",
    ),
    attempt(
        "module-init",
        Root,
        || {
            any([
                reached("init_module", call(libc::SYS_init_module, &[0, 0, 0])),
                reached("finit_module", call(libc::SYS_finit_module, &[NO_FD, 0, 0])),
            ])
        },
        "code in the kernel",
    ),
    attempt(
        "module-delete",
        Root,
        || {
            reached(
                "delete_module",
                call(
                    libc::SYS_delete_module,
                    &[text("nonexistent").as_ptr() as usize, 0o4000],
                ),
            )
        },
        "code out of the kernel",
    ),
    attempt(
        "syslog",
        Root,
        || reached("syslog", call(libc::SYS_syslog, &[10, 0, 0])),
        "the kernel log tells of the host",
    ),
    attempt(
        "clock-settime",
        Root,
        || {
            let time = [0_i64, -1];
            reached(
                "clock_settime",
                call(libc::SYS_clock_settime, &[0, time.as_ptr() as usize]),
            )
        },
        "the host's clock",
    ),
    attempt(
        "settimeofday",
        Root,
        || {
            let time = [0_i64, -1];
            reached(
                "settimeofday",
                call(libc::SYS_settimeofday, &[time.as_ptr() as usize, 0]),
            )
        },
        "the host's clock",
    ),
    attempt(
        "adjtimex",
        Root,
        || reached("adjtimex", call(libc::SYS_adjtimex, &[0])),
        "the host's clock",
    ),
    attempt(
        "sethostname",
        Root,
        || {
            succeeded(
                "sethostname",
                call(libc::SYS_sethostname, &[text("x").as_ptr() as usize, 1]),
            )
        },
        "the name of the machine",
    ),
    attempt(
        "reboot",
        Root,
        || reached("reboot", call(libc::SYS_reboot, &[1, 2, 3, 0])),
        "the host's power",
    ),
    attempt(
        "swap",
        Root,
        || {
            any([
                reached(
                    "swapon",
                    call(libc::SYS_swapon, &[text("/nonexistent").as_ptr() as usize, 0]),
                ),
                reached(
                    "swapoff",
                    call(libc::SYS_swapoff, &[text("/nonexistent").as_ptr() as usize]),
                ),
            ])
        },
        "the host's memory",
    ),
    attempt(
        "quotactl",
        Root,
        || reached("quotactl", call(libc::SYS_quotactl, &[0x80_0001 << 8, 0, 0, 0])),
        "the host's quotas",
    ),
    attempt(
        "acct",
        Root,
        || reached("acct", call(libc::SYS_acct, &[text("/nonexistent").as_ptr() as usize])),
        "process accounting writes files as the kernel",
    ),
    attempt(
        "vhangup",
        Nowhere("it would hang up the terminal of whoever proves it"),
        || reached("vhangup", call(libc::SYS_vhangup, &[])),
        "the caller's terminal",
    ),
    attempt(
        "personality",
        Ordinary,
        || succeeded("personality", call(libc::SYS_personality, &[0x0040_0000])),
        "READ_IMPLIES_EXEC and friends weaken the program's own protections",
    ),
    attempt(
        "memfd-secret",
        Ordinary,
        || reached("memfd_secret", call(libc::SYS_memfd_secret, &[0xffff])),
        "memory that nobody can account for",
    ),
    attempt(
        "process-madvise",
        Ordinary,
        || reached("process_madvise", call(libc::SYS_process_madvise, &[NO_FD, 0, 0, 0, 0])),
        "memory of other processes",
    ),
    attempt(
        "kcmp",
        Ordinary,
        || reached("kcmp", call(libc::SYS_kcmp, &[0, 0, 99, 0, 0])),
        "it compares kernel pointers",
    ),
    attempt(
        "immutable-flag",
        Ordinary,
        || reached("FS_IOC_SETFLAGS", call(libc::SYS_ioctl, &[NO_FD, 0x4008_6602, 0])),
        "file flags outlive the sandbox",
    ),
    attempt(
        "seccomp-listener",
        Ordinary,
        || reached("SECCOMP_FILTER_FLAG_NEW_LISTENER", call(libc::SYS_seccomp, &[1, 8, 0])),
        "a listener answers for other processes",
    ),
    attempt(
        "tiocsti",
        Ordinary,
        || reached("TIOCSTI", call(libc::SYS_ioctl, &[NO_FD, 0x5412, 0])),
        "it types into the caller's terminal",
    ),
    attempt(
        "tiocsti-upper-bits",
        Ordinary,
        || reached("TIOCSTI", call(libc::SYS_ioctl, &[NO_FD, 0x1_0000_5412, 0])),
        "the kernel looks at 32 bits of an ioctl, and so must the filter",
    ),
    attempt(
        "tioclinux",
        Ordinary,
        || reached("TIOCLINUX", call(libc::SYS_ioctl, &[NO_FD, 0x541c, 0])),
        "it pastes into a console",
    ),
    attempt(
        "tiocsetd",
        Ordinary,
        || reached("TIOCSETD", call(libc::SYS_ioctl, &[NO_FD, 0x5423, 0])),
        "line disciplines load modules",
    ),
    attempt("x86-ports", Root, ports, "the machine's ports"),
    attempt(
        "i386-calls",
        Ordinary,
        i386,
        "another table of calls, which the filter's numbers don't fit",
    ),
    attempt(
        "x32-calls",
        Nowhere("kernels here have no x32 table"),
        x32,
        "another table of calls, which the filter's numbers don't fit",
    ),
    attempt(
        "unknown-call",
        Nowhere("no kernel has it"),
        || match call(9999, &[]) {
            Err(libc::ENOSYS) => Verdict::Stopped("ENOSYS".to_owned()),
            other => Verdict::Escaped(format!("{other:?}")),
        },
        "calls of later kernels are not allowed by being unknown",
    ),
    attempt(
        "core-dump",
        Ordinary,
        core_dump,
        "a dump holds memory, and core_pattern runs programs on the host",
    ),
    attempt(
        "mknodat-socket-file",
        Nowhere("a socket file is no escape; it is here to show that making one works"),
        || match call(
            libc::SYS_mknodat,
            &[at_fdcwd(), text(&scratch("fifo")).as_ptr() as usize, 0o010_600, 0],
        ) {
            Ok(_) => Verdict::Stopped("a pipe can be made".to_owned()),
            Err(error) => Verdict::Escaped(format!("making a pipe failed: errno {error}")),
        },
        "the filter must look at the mode, not refuse the call",
    ),
];

fn ports() -> Verdict {
    #[cfg(target_arch = "x86_64")]
    return any([
        reached("iopl", call(libc::SYS_iopl, &[99])),
        reached("ioperm", call(libc::SYS_ioperm, &[70_000, 1, 1])),
    ]);
    #[cfg(not(target_arch = "x86_64"))]
    Verdict::Skipped("only x86 has ports".to_owned())
}

fn i386() -> Verdict {
    #[cfg(target_arch = "x86_64")]
    {
        let child = fork(|| i32::from(crate::calls::i386_getpid() <= 0));
        match child.map(wait) {
            Ok(0) => Verdict::Escaped("getpid by int 0x80 worked".to_owned()),
            other => Verdict::Stopped(format!("{other:?}")),
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        Verdict::Skipped("only x86 has this entry".to_owned())
    }
}

fn x32() -> Verdict {
    if cfg!(not(target_arch = "x86_64")) {
        return Verdict::Skipped("only x86 has this table".to_owned());
    }
    let child = fork(|| i32::from(call(0x4000_0000 + 39, &[]).is_err()));
    match child.map(wait) {
        Ok(0) => Verdict::Escaped("getpid of the x32 table worked".to_owned()),
        other => Verdict::Stopped(format!("{other:?}")),
    }
}

fn core_dump() -> Verdict {
    let mut limit = [0_u64; 2];
    let _ = call(libc::SYS_prlimit64, &[0, 4, 0, limit.as_mut_ptr() as usize]);
    let want = [u64::MAX, u64::MAX];
    let raised = call(libc::SYS_prlimit64, &[0, 4, want.as_ptr() as usize, 0]);
    let child = fork(|| {
        let _ = call(libc::SYS_prctl, &[4, 1, 0, 0, 0]);
        let _ = call(
            libc::SYS_tgkill,
            &[
                usize::try_from(std::process::id()).unwrap_or(0),
                usize::try_from(std::process::id()).unwrap_or(0),
                6,
            ],
        );
        std::process::abort()
    });
    let status = child.map_or(0, wait);
    // Bit 7 of the status says that a core was dumped (wait(2)); a limit that could be raised from 0 would be as bad.
    if status & 0x80 != 0 || (limit[1] == 0 && raised.is_ok()) {
        return Verdict::Escaped("a core was, or could be, dumped".to_owned());
    }
    if limit[1] == 0 {
        Verdict::Stopped("the limit is 0 and stays".to_owned())
    } else {
        Verdict::Escaped("the limit is not 0".to_owned())
    }
}
