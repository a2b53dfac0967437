//! Other processes, namespaces and privilege.

use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::Proof::{Nowhere, Ordinary, Root};
use crate::calls::{any, call, done, fork, host_pid, planted, reached, succeeded, text, wait};
use crate::files::at_fdcwd;
use crate::{Attempt, Verdict, attempt};

/// Namespace flags (clone(2)).
const NAMESPACES: [(&str, usize); 7] = [
    ("mnt", 0x0002_0000),
    ("cgroup", 0x0200_0000),
    ("uts", 0x0400_0000),
    ("ipc", 0x0800_0000),
    ("user", 0x1000_0000),
    ("pid", 0x2000_0000),
    ("net", 0x4000_0000),
];

pub(crate) const ATTEMPTS: &[Attempt] = &[
    attempt(
        "unshare",
        Root,
        || any(NAMESPACES.map(|(name, flag)| in_child(name, move || call(libc::SYS_unshare, &[flag])))),
        "a namespace of its own gives capabilities",
    ),
    attempt(
        "unshare-user",
        Ordinary,
        || in_child("user", || call(libc::SYS_unshare, &[0x1000_0000])),
        "a user namespace gives capabilities over new kernel surface",
    ),
    attempt(
        "clone-flags",
        Root,
        || any(NAMESPACES.map(|(name, flag)| clone_with(name, flag))),
        "clone makes namespaces too",
    ),
    attempt(
        "clone3-flags",
        Root,
        clone3_flags,
        "and so does clone3, whose flags seccomp can't see",
    ),
    attempt("setns", Root, setns, "joining a namespace of the host"),
    attempt(
        "mount",
        Root,
        || reached("mount", call(libc::SYS_mount, &[0, 0, 0, 0, 0])),
        "mounts change what is visible",
    ),
    attempt(
        "mount-tmpfs",
        Root,
        || {
            succeeded(
                "mount tmpfs",
                call(
                    libc::SYS_mount,
                    &[
                        text("t").as_ptr() as usize,
                        text("/tmp").as_ptr() as usize,
                        text("tmpfs").as_ptr() as usize,
                        0,
                        0,
                    ],
                ),
            )
        },
        "mounts change what is visible",
    ),
    attempt(
        "mount-remount",
        Root,
        || {
            succeeded(
                "remount",
                call(libc::SYS_mount, &[0, text("/usr").as_ptr() as usize, 0, 32 | 4096, 0])
                    .or_else(|_| call(libc::SYS_mount, &[0, text("/").as_ptr() as usize, 0, 32 | 4096, 0])),
            )
        },
        "read-only mounts must stay so",
    ),
    attempt(
        "umount",
        Root,
        || {
            reached(
                "umount2",
                call(libc::SYS_umount2, &[text("/nonexistent").as_ptr() as usize, 0]),
            )
        },
        "what is covered must stay covered",
    ),
    attempt(
        "mount-api",
        Root,
        || {
            any([
                reached(
                    "fsopen",
                    call(libc::SYS_fsopen, &[text("nonexistent").as_ptr() as usize, 0]),
                ),
                reached(
                    "open_tree",
                    call(libc::SYS_open_tree, &[at_fdcwd(), text("/").as_ptr() as usize, 1]),
                ),
                reached("move_mount", call(libc::SYS_move_mount, &[0, 0, 0, 0, 0])),
                reached(
                    "mount_setattr",
                    call(libc::SYS_mount_setattr, &[at_fdcwd(), 0, 0, 0, 0]),
                ),
            ])
        },
        "the newer mount calls do the same",
    ),
    attempt(
        "pivot-root",
        Root,
        || {
            reached(
                "pivot_root",
                call(
                    libc::SYS_pivot_root,
                    &[
                        text("/nonexistent").as_ptr() as usize,
                        text("/nonexistent").as_ptr() as usize,
                    ],
                ),
            )
        },
        "another root",
    ),
    attempt(
        "chroot",
        Root,
        || succeeded("chroot", call(libc::SYS_chroot, &[text("/usr").as_ptr() as usize])),
        "another root",
    ),
    attempt(
        "ptrace-attach",
        Root,
        || {
            succeeded(
                "PTRACE_ATTACH",
                call(libc::SYS_ptrace, &[16, host_pid(), 0, 0]).inspect(|_| {
                    let _ = call(libc::SYS_ptrace, &[17, host_pid(), 0, 0]);
                }),
            )
        },
        "a traced process does as told",
    ),
    attempt(
        "ptrace-seize-init",
        Root,
        || {
            succeeded(
                "PTRACE_SEIZE",
                call(
                    libc::SYS_ptrace,
                    &[
                        0x4206,
                        if std::env::var("RW_UNCONFINED").is_ok() {
                            host_pid()
                        } else {
                            parent()
                        },
                        0,
                        0,
                    ],
                ),
            )
        },
        "the sandbox's own init must not be traced",
    ),
    attempt(
        "process-vm-readv",
        Ordinary,
        || {
            reached(
                "process_vm_readv",
                call(libc::SYS_process_vm_readv, &[host_pid(), 0, 0, 0, 0, 0]),
            )
        },
        "memory of another process",
    ),
    attempt(
        "process-vm-writev",
        Ordinary,
        || {
            reached(
                "process_vm_writev",
                call(libc::SYS_process_vm_writev, &[host_pid(), 0, 0, 0, 0, 0]),
            )
        },
        "memory of another process",
    ),
    attempt(
        "pidfd-getfd",
        Ordinary,
        || reached("pidfd_getfd", call(libc::SYS_pidfd_getfd, &[usize::MAX, 0, 0])),
        "descriptors of another process",
    ),
    attempt(
        "kill-host",
        Ordinary,
        || succeeded("kill", call(libc::SYS_kill, &[host_pid(), 18])),
        "signals to the host",
    ),
    attempt(
        "kill-group",
        Ordinary,
        kill_group,
        "the caller's process group must not be the program's",
    ),
    attempt(
        "kill-init",
        Ordinary,
        || {
            succeeded(
                "kill init",
                call(
                    libc::SYS_kill,
                    &[
                        if std::env::var("RW_UNCONFINED").is_ok() {
                            host_pid()
                        } else {
                            outer_parent()
                        },
                        18,
                    ],
                ),
            )
        },
        "the keeper's side must not be signalled",
    ),
    attempt(
        "tgkill-host",
        Ordinary,
        || succeeded("tgkill", call(libc::SYS_tgkill, &[host_pid(), host_pid(), 0])),
        "signals to the host",
    ),
    attempt(
        "sigqueue-host",
        Ordinary,
        || {
            let info = [
                0_i32, 0, -1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
            ];
            succeeded(
                "rt_sigqueueinfo",
                call(libc::SYS_rt_sigqueueinfo, &[host_pid(), 0, info.as_ptr() as usize]),
            )
        },
        "signals to the host",
    ),
    attempt("pidfd-signal", Ordinary, pidfd_signal, "signals to the host"),
    attempt(
        "sigio-host",
        Ordinary,
        sigio,
        "F_SETOWN sends signals on the owner's behalf",
    ),
    attempt(
        "prlimit-host",
        Ordinary,
        || {
            let mut old = [0_u64; 2];
            succeeded(
                "prlimit64",
                call(libc::SYS_prlimit64, &[host_pid(), 7, 0, old.as_mut_ptr() as usize]),
            )
        },
        "limits of another process",
    ),
    attempt(
        "priority-host",
        Ordinary,
        || succeeded("setpriority", call(libc::SYS_setpriority, &[0, host_pid(), 19])),
        "scheduling of another process",
    ),
    attempt(
        "affinity-host",
        Ordinary,
        || {
            let mask = [1_u64; 16];
            succeeded(
                "sched_setaffinity",
                call(libc::SYS_sched_setaffinity, &[host_pid(), 128, mask.as_ptr() as usize]),
            )
        },
        "scheduling of another process",
    ),
    attempt(
        "setuid",
        Root,
        || any([1_usize, 65534].map(|id| in_child("setresuid", move || call(libc::SYS_setresuid, &[id, id, id])))),
        "another user's rights",
    ),
    attempt(
        "setgroups",
        Root,
        || {
            succeeded("setgroups", {
                let groups = [0_u32, 6];
                call(libc::SYS_setgroups, &[2, groups.as_ptr() as usize])
            })
        },
        "groups give rights (disk, docker)",
    ),
    attempt("capset", Root, capset, "capabilities must be gone for good"),
    attempt(
        "ambient-capability",
        Root,
        || {
            let raised = capset();
            match raised {
                Verdict::Escaped(_) => succeeded("PR_CAP_AMBIENT_RAISE", call(libc::SYS_prctl, &[47, 2, 21, 0, 0])),
                other => other,
            }
        },
        "capabilities must be gone for good",
    ),
    attempt(
        "setuid-binary",
        Ordinary,
        || run_planted("RW_SETUID"),
        "set-id bits must give nothing",
    ),
    attempt(
        "file-capabilities",
        Ordinary,
        || run_planted("RW_FILECAPS"),
        "file capabilities must give nothing",
    ),
    attempt(
        "privileged-parent",
        Nowhere("it looks for what a sandbox has and the host has not"),
        || match std::fs::read("/proc/1/environ") {
            Ok(text) if String::from_utf8_lossy(&text).contains("RW_CANARY_ENV") => {
                Verdict::Escaped("init's environment".to_owned())
            }
            _ => Verdict::Stopped("closed".to_owned()),
        },
        "init holds the caller's environment",
    ),
    attempt(
        "environment",
        Ordinary,
        || match std::env::var("RW_CANARY_ENV") {
            Ok(value) => Verdict::Escaped(value),
            Err(_) => Verdict::Stopped("not passed".to_owned()),
        },
        "the caller's environment holds secrets",
    ),
    attempt(
        "outlive",
        Ordinary,
        outlive,
        "nothing may live on when the run has ended",
    ),
];

/// Makes a call in a child, so that what it changes ends with it.
fn in_child(what: &str, make: impl FnOnce() -> Result<i64, i32>) -> Verdict {
    match fork(|| make().err().unwrap_or(0)) {
        Ok(pid) => match wait(pid) >> 8 {
            0 => Verdict::Escaped(format!("{what} worked")),
            error => Verdict::Stopped(format!("{what}: errno {error}")),
        },
        Err(error) => Verdict::Stopped(format!("fork: errno {error}")),
    }
}

fn clone_with(name: &str, flag: usize) -> Verdict {
    match call(libc::SYS_clone, &[flag | 17, 0, 0, 0, 0]) {
        Ok(0) => std::process::exit(0),
        Ok(pid) => {
            wait(i32::try_from(pid).unwrap_or(0));
            Verdict::Escaped(format!("clone with a new {name} namespace"))
        }
        Err(error) => Verdict::Stopped(format!("clone: errno {error}")),
    }
}

fn clone3_flags() -> Verdict {
    let args: [u64; 8] = [0x1000_0000, 0, 0, 0, 17, 0, 0, 0];
    match call(libc::SYS_clone3, &[args.as_ptr() as usize, 64]) {
        Ok(0) => std::process::exit(0),
        Ok(pid) => {
            wait(i32::try_from(pid).unwrap_or(0));
            Verdict::Escaped("clone3 with a new user namespace".to_owned())
        }
        Err(error) => Verdict::Stopped(format!("clone3: errno {error}")),
    }
}

fn setns() -> Verdict {
    any(["1".to_owned(), planted("RW_HOST_PID"), "self".to_owned()]
        .into_iter()
        .flat_map(|pid| {
            ["mnt", "net", "uts"].map(|kind| match std::fs::File::open(format!("/proc/{pid}/ns/{kind}")) {
                Ok(file) => {
                    use std::os::fd::AsRawFd;
                    let fd = usize::try_from(file.as_raw_fd()).unwrap_or(0);
                    in_child(kind, move || call(libc::SYS_setns, &[fd, 0]))
                }
                Err(error) => Verdict::Stopped(error.to_string()),
            })
        }))
}

fn parent() -> usize {
    usize::try_from(std::os::unix::process::parent_id()).unwrap_or(0)
}

/// The process above init as far as it can be named: in a pid namespace there is none, elsewhere it is the keeper.
fn outer_parent() -> usize {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", parent())).unwrap_or_default();
    stat.rsplit(')')
        .next()
        .and_then(|rest| rest.split_ascii_whitespace().nth(1)?.parse().ok())
        .filter(|pid| *pid != 0)
        .unwrap_or(host_pid())
}

/// Signals the caller's own process group; the suite put the canary into the group that ringwall was started in.
fn kill_group() -> Verdict {
    if std::env::var("RW_UNCONFINED").is_ok() {
        return succeeded("kill the group", call(libc::SYS_kill, &[host_pid().wrapping_neg(), 18]));
    }
    // With a real signal: the suite sees whether the canary lives.
    let _ = call(libc::SYS_kill, &[0, 28]);
    let canary = call(libc::SYS_kill, &[host_pid().wrapping_neg(), 18]);
    succeeded("kill the group", canary)
}

fn pidfd_signal() -> Verdict {
    match call(libc::SYS_pidfd_open, &[host_pid(), 0]) {
        Ok(fd) => succeeded(
            "pidfd_send_signal",
            call(
                libc::SYS_pidfd_send_signal,
                &[usize::try_from(fd).unwrap_or(0), 0, 0, 0],
            ),
        ),
        Err(error) => Verdict::Stopped(format!("pidfd_open: errno {error}")),
    }
}

fn sigio() -> Verdict {
    let mut pair = [0_i32; 2];
    if let Err(error) = call(libc::SYS_socketpair, &[1, 1, 0, pair.as_mut_ptr() as usize]) {
        return Verdict::Stopped(format!("socketpair: errno {error}"));
    }
    let fd = usize::try_from(pair[0]).unwrap_or(0);
    // SIGIO ends a process that does not expect it: the suite sees whether the canary lives.
    let owned = call(libc::SYS_fcntl, &[fd, 8, host_pid()]);
    let asynchronous = call(libc::SYS_fcntl, &[fd, 4, 0o20_000]);
    let _ = call(
        libc::SYS_write,
        &[usize::try_from(pair[1]).unwrap_or(0), b"x".as_ptr() as usize, 1],
    );
    std::thread::sleep(std::time::Duration::from_millis(50));
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", host_pid())).unwrap_or_default();
    if stat.contains(") Z ") {
        Verdict::Escaped("the canary is dead".to_owned())
    } else {
        Verdict::Stopped(format!("{owned:?} {asynchronous:?}"))
    }
}

fn capset() -> Verdict {
    let header = [0x2008_0522_u32, 0];
    let all = [1 << 21, 1 << 21, 1 << 21, 0_u32, 0, 0];
    succeeded(
        "capset",
        call(libc::SYS_capset, &[header.as_ptr() as usize, all.as_ptr() as usize]),
    )
}

/// Runs a planted copy of this program that has a set-id bit or file capabilities; it says whether they took effect.
fn run_planted(variable: &str) -> Verdict {
    let path = planted(variable);
    if !std::path::Path::new(&path).exists() {
        return Verdict::Skipped(format!("{variable} is not planted (that needs root)"));
    }
    match Command::new(&path).arg("privilege-of-file").arg0("attempts").output() {
        Ok(output) if output.status.code() == Some(0) => {
            Verdict::Escaped(String::from_utf8_lossy(&output.stdout).into_owned())
        }
        Ok(output) => Verdict::Stopped(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
        Err(error) => Verdict::Stopped(error.to_string()),
    }
}

/// What the planted copy does.
pub(crate) fn privilege_of_file() -> Verdict {
    let id = |number| call(number, &[]).unwrap_or(-1);
    let (real, effective) = (id(libc::SYS_getuid), id(libc::SYS_geteuid));
    let header = [0x2008_0522_u32, 0];
    let mut sets = [0_u32; 6];
    let _ = call(
        libc::SYS_capget,
        &[header.as_ptr() as usize, sets.as_mut_ptr() as usize],
    );
    if real != effective {
        Verdict::Escaped(format!("uid {real} became {effective}"))
    } else if sets.iter().any(|word| *word != 0) {
        Verdict::Escaped("capabilities were gained".to_owned())
    } else {
        Verdict::Stopped("nothing was gained".to_owned())
    }
}

/// Leaves a process behind that does everything to live on; the suite looks for it.
fn outlive() -> Verdict {
    let name = planted("RW_OUTLIVE");
    if std::env::var("RW_UNCONFINED").is_ok() {
        return done("start", Command::new("true").status());
    }
    let child = fork(|| {
        let _ = call(libc::SYS_setsid, &[]);
        let _ = call(libc::SYS_prctl, &[1, 0, 0, 0, 0]);
        let _ = fork(|| {
            let _ = call(libc::SYS_setsid, &[]);
            drop(Command::new("sleep").arg0(&name).arg("987654").exec());
            1
        });
        0
    });
    if let Ok(pid) = child {
        wait(pid);
    }
    std::thread::sleep(std::time::Duration::from_millis(50));
    Verdict::Stopped("left behind; the suite looks".to_owned())
}
