//! Tries what can't be read anywhere: the calls that the namespace tier makes at its start, in a child that ends at once.
//!
//! The parent prepares a scratch directory, forks; the child makes one call after the other and notes each `errno` in a shared
//! page; a grandchild, being PID 1 of a new pid namespace, tries `/proc` and `pivot_root`. All mounts are in the child's mount
//! namespace and go with it. The child calls nothing but [`crate::kernel_calls`]: see [`kernel_calls::fork`].

use std::ffi::{CStr, CString};
use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicI32, Ordering};

use crate::kernel_calls::{self, SharedNumbers};

/// Longest time that the child may take: it makes two dozen calls.
const MAX_TIME_MS: i32 = 10_000;

/// The steps, in the order in which they are tried. A step that fails ends those that build on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// unshare(CLONE_NEWUSER).
    UserNamespace,
    /// Writing setgroups, uid_map and gid_map.
    IdMap,
    /// unshare(CLONE_NEWNS) and making all mounts private.
    MountNamespace,
    /// Mounting a tmpfs: what AppArmor denies where unshare works.
    Mount,
    /// Mounting an overlayfs with `userxattr`.
    Overlay,
    /// Creating and deleting files in it.
    OverlayWrites,
    /// unshare of ipc, uts and cgroup.
    SmallNamespaces,
    /// unshare(CLONE_NEWNET).
    NetNamespace,
    /// unshare(CLONE_NEWPID) and a first process.
    PidNamespace,
    /// Mounting /proc in it.
    Proc,
    /// pivot_root.
    PivotRoot,
    /// Mapping the owners of a mount, from outside; by root only.
    IdmappedMount,
}

/// How many steps there are.
const STEPS: usize = Step::IdmappedMount as usize + 1;

/// What came of each step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trial {
    outcomes: [Outcome; STEPS],
}

/// What came of one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Not reached.
    NotTried,
    /// It works.
    Works,
    /// The call failed with this errno.
    Failed(i32),
}

impl Trial {
    /// A trial that could not take place.
    pub(crate) fn not_tried() -> Trial {
        Trial {
            outcomes: [Outcome::NotTried; STEPS],
        }
    }

    /// What came of a step.
    pub(crate) fn of(&self, step: Step) -> Outcome {
        self.outcomes[step as usize]
    }

    /// Replaces the outcome of a step, for tests.
    #[cfg(test)]
    pub(crate) fn with(mut self, step: Step, outcome: Outcome) -> Trial {
        self.outcomes[step as usize] = outcome;
        self
    }
}

/// Everything that the child needs, made before the fork.
struct Script {
    scratch: CString,
    uid_map: Vec<u8>,
    gid_map: Vec<u8>,
    ready: RawFd,
    done: RawFd,
}

/// Runs the trial below `scratch`, an empty directory of the caller's.
pub(crate) fn run(scratch: &Path) -> Trial {
    try_run(scratch).unwrap_or_else(Trial::not_tried)
}

fn try_run(scratch: &Path) -> Option<Trial> {
    for name in ["lower", "upper", "work", "merged", "tmp", "proc"] {
        std::fs::create_dir(scratch.join(name)).ok()?;
    }
    std::fs::write(scratch.join("lower/old"), "old").ok()?;
    let shared = SharedNumbers::<STEPS>::map()?;
    let (ready_read, ready) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).ok()?;
    let (done, done_write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).ok()?;
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let script = Script {
        scratch: CString::new(scratch.as_os_str().as_bytes()).ok()?,
        uid_map: format!("0 {uid} 1\n").into_bytes(),
        gid_map: format!("0 {gid} 1\n").into_bytes(),
        ready: ready.as_raw_fd(),
        done: done.as_raw_fd(),
    };
    let child = kernel_calls::fork();
    if child == 0 {
        kernel_calls::die_with_parent();
        child_main(&script, shared.numbers());
        kernel_calls::exit_now(0);
    }
    if child < 0 {
        return None;
    }
    // Only the child may hold this end, so that its death ends the wait below.
    drop(ready);
    if kernel_calls::await_pipe(ready_read.as_raw_fd(), MAX_TIME_MS) {
        if uid == 0 && shared.numbers()[Step::IdMap as usize].load(Ordering::SeqCst) == WORKS {
            let outcome = File::open(format!("/proc/{child}/ns/user")).map_or_else(
                |error| error.raw_os_error().unwrap_or(libc::EIO),
                |ns| kernel_calls::try_idmapped_mount(&script.scratch, ns),
            );
            note(shared.numbers(), Step::IdmappedMount, outcome);
        }
        kernel_calls::signal_pipe(done_write.as_raw_fd());
    } else {
        kernel_calls::kill(child);
    }
    kernel_calls::wait_for(child);
    let mut trial = Trial::not_tried();
    for (outcome, number) in trial.outcomes.iter_mut().zip(shared.numbers()) {
        *outcome = match number.load(Ordering::SeqCst) {
            0 => Outcome::NotTried,
            WORKS => Outcome::Works,
            errno => Outcome::Failed(errno),
        };
    }
    Some(trial)
}

/// How success is written in the shared page, in which 0 means not reached.
const WORKS: i32 = -1;

/// Notes the answer of a step; returns whether it worked.
fn note(numbers: &[AtomicI32; STEPS], step: Step, errno: i32) -> bool {
    numbers[step as usize].store(if errno == 0 { WORKS } else { errno }, Ordering::SeqCst);
    errno == 0
}

/// The first of some answers that is an error, else 0. The later ones were made in vain, which does no harm.
fn first_error<const N: usize>(answers: [i32; N]) -> i32 {
    answers.into_iter().find(|answer| *answer != 0).unwrap_or(0)
}

/// The child: every step, then waits until the parent is done with its namespace.
fn child_main(script: &Script, numbers: &[AtomicI32; STEPS]) {
    try_steps(script, numbers);
    kernel_calls::signal_pipe(script.ready);
    kernel_calls::await_pipe(script.done, MAX_TIME_MS);
}

fn try_steps(script: &Script, numbers: &[AtomicI32; STEPS]) {
    const NONE: &CStr = c"";
    if kernel_calls::chdir(&script.scratch) != 0 {
        return;
    }
    if !note(numbers, Step::UserNamespace, kernel_calls::unshare(libc::CLONE_NEWUSER)) {
        return;
    }
    // Entering the namespace changed the credentials, which makes the kernel forget it (kernel/cred.c, commit_creds).
    kernel_calls::die_with_parent();
    // An unprivileged writer of gid_map must give up setgroups first (user_namespaces(7)).
    let answers = [
        kernel_calls::write_file(c"/proc/self/setgroups", 0, b"deny"),
        kernel_calls::write_file(c"/proc/self/uid_map", 0, &script.uid_map),
        kernel_calls::write_file(c"/proc/self/gid_map", 0, &script.gid_map),
    ];
    if !note(numbers, Step::IdMap, first_error(answers)) {
        return;
    }
    let private = libc::MS_REC | libc::MS_PRIVATE;
    let answers = [
        kernel_calls::unshare(libc::CLONE_NEWNS),
        kernel_calls::mount(c"none", c"/", NONE, private, NONE),
    ];
    if note(numbers, Step::MountNamespace, first_error(answers))
        && note(
            numbers,
            Step::Mount,
            kernel_calls::mount(c"tmpfs", c"tmp", c"tmpfs", libc::MS_NODEV, NONE),
        )
    {
        let options = c"lowerdir=lower,upperdir=upper,workdir=work,userxattr";
        if note(
            numbers,
            Step::Overlay,
            kernel_calls::mount(c"overlay", c"merged", c"overlay", libc::MS_NODEV, options),
        ) {
            // Deleting makes a whiteout, writing to the old file's directory an xattr: what a poor upper layer can't do.
            let create = libc::O_CREAT | libc::O_EXCL;
            let answers = [
                kernel_calls::write_file(c"merged/new", create, b"x"),
                kernel_calls::unlink(c"merged/old"),
            ];
            note(numbers, Step::OverlayWrites, first_error(answers));
        }
    }
    let small = libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWCGROUP;
    note(numbers, Step::SmallNamespaces, kernel_calls::unshare(small));
    note(numbers, Step::NetNamespace, kernel_calls::unshare(libc::CLONE_NEWNET));
    if note(numbers, Step::PidNamespace, kernel_calls::unshare(libc::CLONE_NEWPID)) {
        let first = kernel_calls::fork();
        if first == 0 {
            kernel_calls::die_with_parent();
            let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
            note(
                numbers,
                Step::Proc,
                kernel_calls::mount(c"proc", c"proc", c"proc", flags, NONE),
            );
            if numbers[Step::Mount as usize].load(Ordering::SeqCst) == WORKS {
                let answers = [
                    kernel_calls::mkdir(c"tmp/old"),
                    kernel_calls::pivot_root(c"tmp", c"tmp/old"),
                ];
                note(numbers, Step::PivotRoot, first_error(answers));
            }
            kernel_calls::exit_now(0);
        }
        if first < 0 {
            note(numbers, Step::PidNamespace, libc::EAGAIN);
        } else {
            kernel_calls::wait_for(first);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machines_trial_reaches_a_verdict_and_leaves_no_mount() {
        let mounts = || {
            std::fs::read_to_string("/proc/self/mountinfo")
                .expect("mounts")
                .lines()
                .count()
        };
        let before = mounts();
        let dir = tempfile::tempdir().expect("directory");
        let scratch = crate::state_dir::Scratch::make(dir.path()).expect("scratch");
        let trial = run(scratch.path());
        assert_ne!(trial.of(Step::UserNamespace), Outcome::NotTried);
        assert_eq!(mounts(), before);
        if trial.of(Step::UserNamespace) != Outcome::Works {
            println!("SKIPPED: no user namespaces here: {trial:?}");
            return;
        }
        assert_ne!(trial.of(Step::Mount), Outcome::NotTried, "{trial:?}");
    }

    #[test]
    fn a_scratch_directory_that_is_not_there_is_no_verdict() {
        assert_eq!(run(Path::new("/nonexistent/scratch")), Trial::not_tried());
    }
}
