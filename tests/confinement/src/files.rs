//! Files outside: reading, writing, reaching them by detours.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use crate::Proof::{Nowhere, Ordinary, Root};
use crate::calls::{any, call, done, planted, reached, succeeded, text};
use crate::{Attempt, Verdict, attempt};

pub(crate) const ATTEMPTS: &[Attempt] = &[
    attempt(
        "read-shadow",
        Root,
        || done("read /etc/shadow", fs::read("/etc/shadow")),
        "password hashes belong to the host's root",
    ),
    attempt(
        "read-ssh-key",
        Ordinary,
        || secret(&planted("RW_HOME_SECRET")),
        "home directories are not visible",
    ),
    attempt(
        "read-outside-file",
        Ordinary,
        || secret(&planted("RW_SECRET_FILE")),
        "a file outside the view does not exist inside",
    ),
    attempt(
        "read-by-dotdot",
        Ordinary,
        || secret(&format!("../../../../../../../..{}", planted("RW_SECRET_FILE"))),
        "`..` ends at the sandbox's root",
    ),
    attempt(
        "read-by-symlink",
        Ordinary,
        read_by_symlink,
        "a link is resolved inside the sandbox",
    ),
    attempt(
        "hardlink-outside",
        Ordinary,
        || done("link", fs::hard_link(planted("RW_SECRET_FILE"), scratch("hard"))),
        "a name for an outside file would be a way to it",
    ),
    attempt(
        "read-by-proc-root",
        Ordinary,
        || any(pids().map(|pid| secret(&format!("/proc/{pid}/root{}", planted("RW_SECRET_FILE"))))),
        "/proc/*/root of a host process leads out",
    ),
    attempt(
        "read-by-proc-cwd",
        Ordinary,
        || any(pids().map(|pid| secret(&format!("/proc/{pid}/cwd/../outside/secret")))),
        "/proc/*/cwd of a host process leads out",
    ),
    attempt(
        "read-by-proc-fd",
        Ordinary,
        read_by_proc_fd,
        "descriptors of a host process lead out",
    ),
    attempt(
        "inherited-descriptor",
        Ordinary,
        inherited,
        "descriptors the caller leaked must be closed",
    ),
    attempt(
        "proc-mem",
        Ordinary,
        || {
            done(
                "open /proc/PID/mem",
                fs::OpenOptions::new()
                    .write(true)
                    .open(format!("/proc/{}/mem", planted("RW_HOST_PID"))),
            )
        },
        "memory of a host process",
    ),
    attempt(
        "proc-environ",
        Ordinary,
        || {
            done(
                "read environ",
                fs::read(format!("/proc/{}/environ", planted("RW_HOST_PID"))).and_then(nonempty),
            )
        },
        "the environment of a host process holds secrets",
    ),
    attempt(
        "proc-cmdline",
        Ordinary,
        host_cmdline,
        "command lines of host processes are none of its business",
    ),
    attempt(
        "write-outside",
        Ordinary,
        || {
            done(
                "write",
                fs::write(format!("{}/written", planted("RW_OUTSIDE_DIR")), "x"),
            )
        },
        "nothing outside may change",
    ),
    attempt(
        "write-by-dotdot",
        Ordinary,
        || done("write", fs::write("../outside/written", "x")),
        "`..` of the current directory is not the host's",
    ),
    attempt(
        "chmod-outside",
        Ordinary,
        || {
            done(
                "chmod",
                fs::set_permissions(planted("RW_SECRET_FILE"), fs::Permissions::from_mode(0o600)),
            )
        },
        "modes outside may not change (Landlock does not see chmod)",
    ),
    attempt(
        "set-id-shared",
        Ordinary,
        set_id,
        "a set-id file in a directory shared with the host gives its owner's rights to all",
    ),
    attempt(
        "truncate-outside",
        Ordinary,
        || {
            succeeded(
                "truncate",
                call(
                    libc::SYS_truncate,
                    &[text(&planted("RW_VICTIM")).as_ptr() as usize, 100],
                ),
            )
        },
        "files outside may not be cut",
    ),
    attempt(
        "rename-outside",
        Ordinary,
        || {
            done(
                "rename",
                fs::rename(planted("RW_VICTIM"), format!("{}/renamed", planted("RW_OUTSIDE_DIR")))
                    .and_then(|()| fs::rename(format!("{}/renamed", planted("RW_OUTSIDE_DIR")), planted("RW_VICTIM"))),
            )
        },
        "names outside may not change",
    ),
    attempt(
        "utimes-outside",
        Ordinary,
        || {
            succeeded(
                "utimensat",
                call(
                    libc::SYS_utimensat,
                    &[at_fdcwd(), text(&planted("RW_VICTIM")).as_ptr() as usize, 0, 0],
                ),
            )
        },
        "times outside may not change",
    ),
    attempt(
        "setxattr-outside",
        Ordinary,
        || {
            succeeded(
                "setxattr",
                call(
                    libc::SYS_setxattr,
                    &[
                        text(&planted("RW_VICTIM")).as_ptr() as usize,
                        text("user.x").as_ptr() as usize,
                        text("v").as_ptr() as usize,
                        1,
                        0,
                    ],
                ),
            )
        },
        "attributes outside may not change",
    ),
    attempt(
        "write-system",
        Root,
        || {
            done(
                "write",
                fs::write("/usr/ringwall-attempt", "x").and_then(|()| fs::remove_file("/usr/ringwall-attempt")),
            )
        },
        "the system tree is read-only",
    ),
    attempt(
        "write-etc",
        Root,
        || done("write", fs::OpenOptions::new().append(true).open("/etc/ld.so.cache")),
        "so is its configuration",
    ),
    attempt(
        "openat2-outside",
        Ordinary,
        || {
            let how = [0_u64; 3];
            succeeded(
                "openat2",
                call(
                    libc::SYS_openat2,
                    &[
                        at_fdcwd(),
                        text(&planted("RW_SECRET_FILE")).as_ptr() as usize,
                        how.as_ptr() as usize,
                        24,
                    ],
                ),
            )
        },
        "a newer call for opening is no way around",
    ),
    attempt(
        "open-by-handle",
        Root,
        || {
            reached(
                "open_by_handle_at",
                call(libc::SYS_open_by_handle_at, &[at_fdcwd(), 0, 0]),
            )
        },
        "a file handle reaches any file of a file system",
    ),
    attempt(
        "fanotify",
        Root,
        || succeeded("fanotify_init", call(libc::SYS_fanotify_init, &[0, 0])),
        "it watches whole file systems",
    ),
    attempt(
        "state-directory",
        Ordinary,
        || done("list", fs::read_dir(planted("RW_STATE"))),
        "captured changes must not be reachable from inside",
    ),
    attempt(
        "mknod-block",
        Root,
        || {
            succeeded(
                "mknod",
                call(
                    libc::SYS_mknodat,
                    &[at_fdcwd(), text(&scratch("blk")).as_ptr() as usize, 0o060_600, 0x700],
                ),
            )
        },
        "a device node is a way to the disk",
    ),
    attempt(
        "mknod-char",
        Root,
        || {
            succeeded(
                "mknod",
                call(
                    libc::SYS_mknodat,
                    &[at_fdcwd(), text(&scratch("mem")).as_ptr() as usize, 0o020_600, 0x101],
                ),
            )
        },
        "or to memory",
    ),
    attempt(
        "whiteout",
        Root,
        || {
            succeeded(
                "mknod 0:0",
                call(
                    libc::SYS_mknodat,
                    &[at_fdcwd(), text(&scratch("wh")).as_ptr() as usize, 0o020_000, 0],
                ),
            )
        },
        "a forged whiteout would delete on commit",
    ),
    attempt(
        "overlay-xattr",
        Ordinary,
        forged_xattr,
        "a forged overlay attribute would hide or redirect on commit",
    ),
    attempt(
        "trusted-xattr",
        Root,
        || succeeded("setxattr", set_own_xattr("trusted.x")),
        "trusted attributes are the system's",
    ),
    attempt(
        "disk-device",
        Root,
        || {
            any(["/dev/vda", "/dev/sda", "/dev/nvme0n1", "/dev/loop-control"]
                .map(|path| done(path, fs::File::open(path))))
        },
        "disks are not in /dev",
    ),
    attempt(
        "dev-mem",
        Nowhere("kernels here have no /dev/mem"),
        || any(["/dev/mem", "/dev/port"].map(|path| done(path, fs::File::open(path)))),
        "nor is memory",
    ),
    attempt(
        "dev-kvm-fuse-tun",
        Root,
        || any(["/dev/kvm", "/dev/fuse", "/dev/net/tun"].map(|path| done(path, fs::File::open(path)))),
        "nor anything that makes kernel objects",
    ),
    attempt(
        "kmsg",
        Root,
        || done("open /dev/kmsg", fs::File::open("/dev/kmsg")),
        "the kernel log tells of the host",
    ),
    attempt(
        "kcore",
        Root,
        || any(["/proc/kcore", "/proc/kpageflags"].map(|path| done(path, fs::File::open(path)))),
        "kernel memory",
    ),
    attempt("kallsyms", Root, kallsyms, "addresses of kernel symbols help exploits"),
    attempt(
        "sys-write",
        Root,
        || {
            any([
                "/sys/kernel/mm/transparent_hugepage/enabled",
                "/sys/kernel/uevent_seqnum",
                "/sys/fs/cgroup/memory/tasks",
                "/sys/power/state",
                "/sys/module/overlay/parameters/index",
            ]
            .map(|path| done(path, fs::OpenOptions::new().write(true).open(path))))
        },
        "/sys changes the host",
    ),
    attempt(
        "proc-sys-write",
        Root,
        || {
            any([
                "/proc/sys/kernel/core_pattern",
                "/proc/sys/kernel/hostname",
                "/proc/sys/net/ipv4/ip_forward",
                "/proc/sys/vm/overcommit_memory",
                "/proc/sys/kernel/shmmax",
            ]
            .map(|path| done(path, fs::OpenOptions::new().write(true).open(path))))
        },
        "sysctls change the host, or what a sandbox is",
    ),
    attempt(
        "sysrq",
        Root,
        || {
            done(
                "open /proc/sysrq-trigger",
                fs::OpenOptions::new().write(true).open("/proc/sysrq-trigger"),
            )
        },
        "it reboots the host",
    ),
    attempt(
        "cgroup-escape",
        Root,
        cgroup_escape,
        "limits hold only while the process stays in its group",
    ),
    attempt(
        "release-agent",
        Root,
        || {
            any([
                "/sys/fs/cgroup/release_agent",
                "/sys/fs/cgroup/memory/release_agent",
                "/sys/fs/cgroup/pids/release_agent",
                "/sys/fs/cgroup/freezer/release_agent",
            ]
            .map(|path| done(path, fs::OpenOptions::new().write(true).open(path))))
        },
        "it runs a program on the host",
    ),
];

pub(crate) fn at_fdcwd() -> usize {
    (libc::AT_FDCWD as isize).cast_unsigned()
}

/// A path for what an attempt makes: in a directory that the sandbox may write to.
pub(crate) fn scratch(name: &str) -> String {
    let directory = std::env::var("TMPDIR").unwrap_or_else(|_| "/tmp".to_owned());
    format!("{directory}/rw-{}-{name}", std::process::id())
}

fn nonempty(bytes: Vec<u8>) -> std::io::Result<()> {
    if bytes.is_empty() {
        Err(std::io::Error::other("empty"))
    } else {
        Ok(())
    }
}

/// Only the planted text counts: a file of the same name that is not it proves nothing.
fn secret(path: &str) -> Verdict {
    match fs::read_to_string(path) {
        Ok(text) if text.contains(&planted("RW_SECRET_TEXT")) => Verdict::Escaped(format!("read the secret at {path}")),
        Ok(_) => Verdict::Stopped(format!("{path} is another file")),
        Err(error) => Verdict::Stopped(format!("{path}: {error}")),
    }
}

fn pids() -> impl Iterator<Item = String> {
    [planted("RW_HOST_PID"), "1".to_owned(), "self".to_owned()].into_iter()
}

fn read_by_symlink() -> Verdict {
    let link = scratch("link");
    match symlink(planted("RW_SECRET_FILE"), &link) {
        Ok(()) => {
            let verdict = secret(&link);
            drop(fs::remove_file(&link));
            verdict
        }
        Err(error) => Verdict::Stopped(error.to_string()),
    }
}

fn read_by_proc_fd() -> Verdict {
    // The canary holds the secret open as descriptor 7.
    secret(&format!("/proc/{}/fd/7", planted("RW_HOST_PID")))
}

fn inherited() -> Verdict {
    for fd in 3..256 {
        let Ok(target) = fs::read_link(format!("/proc/self/fd/{fd}")) else {
            continue;
        };
        if target.to_string_lossy().contains("outside") {
            return Verdict::Escaped(format!("descriptor {fd} is {}", target.display()));
        }
    }
    Verdict::Stopped("no inherited descriptor".to_owned())
}

fn host_cmdline() -> Verdict {
    match fs::read(format!("/proc/{}/cmdline", planted("RW_HOST_PID"))) {
        Ok(text) if String::from_utf8_lossy(&text).contains("100000") => {
            Verdict::Escaped("the canary's command line".to_owned())
        }
        Ok(_) => Verdict::Stopped("another process".to_owned()),
        Err(error) => Verdict::Stopped(error.to_string()),
    }
}

fn set_own_xattr(name: &str) -> Result<i64, i32> {
    let file = scratch("xattr");
    drop(fs::write(&file, "x"));
    let result = call(
        libc::SYS_setxattr,
        &[
            text(&file).as_ptr() as usize,
            text(name).as_ptr() as usize,
            text("y").as_ptr() as usize,
            1,
            0,
        ],
    );
    drop(fs::remove_file(&file));
    result
}

/// In the captured directory: there the attribute would mean something.
fn forged_xattr() -> Verdict {
    let file = "forged-directory";
    if let Err(error) = fs::create_dir(file) {
        return Verdict::Stopped(error.to_string());
    }
    let set = call(
        libc::SYS_setxattr,
        &[
            text(file).as_ptr() as usize,
            text("user.overlay.opaque").as_ptr() as usize,
            text("y").as_ptr() as usize,
            1,
            0,
        ],
    );
    drop(fs::remove_dir(file));
    // overlayfs stores such a name escaped (Linux 6.7) or refuses it: what counts is whether the plain name reached the layer, which
    // only the suite can see. Unconfined the call just works.
    match set {
        Ok(_) if std::env::var("RW_UNCONFINED").is_ok() => Verdict::Escaped("the attribute was set".to_owned()),
        Ok(_) => Verdict::Stopped("stored escaped".to_owned()),
        Err(error) => Verdict::Stopped(format!("errno {error}")),
    }
}

fn kallsyms() -> Verdict {
    let text = fs::read_to_string("/proc/kallsyms").unwrap_or_default();
    match text.lines().next() {
        Some(line) if !line.starts_with("0000000000000000") => Verdict::Escaped("addresses are shown".to_owned()),
        _ => Verdict::Stopped("no addresses".to_owned()),
    }
}

fn cgroup_escape() -> Verdict {
    let own = std::process::id().to_string();
    any([
        "/sys/fs/cgroup/cgroup.procs",
        "/sys/fs/cgroup/memory/cgroup.procs",
        "/sys/fs/cgroup/pids/cgroup.procs",
        "/sys/fs/cgroup/unified/cgroup.procs",
    ]
    .map(|path| done(path, fs::write(path, &own))))
}

/// Tries every call that can leave set-id bits on a file.
fn set_id() -> Verdict {
    let file = scratch("set-id");
    drop(fs::write(&file, "x"));
    let path = text(&file);
    let (path, mode) = (path.as_ptr() as usize, 0o6755);
    let created = text(&scratch("set-id-made"));
    let how = [0o102_u64, 0o6755, 0];
    let verdict = any([
        succeeded("fchmodat", call(libc::SYS_fchmodat, &[at_fdcwd(), path, mode])),
        succeeded("fchmodat2", call(452, &[at_fdcwd(), path, mode, 0])),
        succeeded(
            "openat",
            call(libc::SYS_openat, &[at_fdcwd(), created.as_ptr() as usize, 0o102, mode]),
        ),
        succeeded(
            "openat2",
            call(
                libc::SYS_openat2,
                &[at_fdcwd(), created.as_ptr() as usize, how.as_ptr() as usize, 24],
            ),
        ),
        succeeded(
            "mknodat",
            call(
                libc::SYS_mknodat,
                &[at_fdcwd(), created.as_ptr() as usize, 0o106_755, 0],
            ),
        ),
    ]);
    drop(fs::remove_file(&file));
    drop(fs::remove_file(scratch("set-id-made")));
    verdict
}
