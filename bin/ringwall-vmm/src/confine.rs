//! What the VMM's threads may do once they touch what a guest or a client has made: each has an allow-list of system calls, and a call that is
//! not on it ends the process.
//!
//! The filters are put on before the first request is read and before the guest's first instruction. They allow what starting a machine takes
//! too, since a client starts it later; what they keep out is other programs, other processes, mounts, namespaces, and everything of
//! the kernel that a VMM does not use. Capabilities go when the devices are open.

mod calls;

use std::collections::BTreeMap;
use std::io;

use ringwall_sys::capabilities::{Capabilities, Sets, clear_ambient};
use rustix::process::{Resource, Rlimit, setrlimit};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};
use thiserror::Error;

/// Why a thread is not confined; nothing may then be run on it.
#[derive(Debug, Error)]
pub enum ConfineError {
    /// A list that can't be compiled; a defect of ours.
    #[error("the system call filter can't be made")]
    Compile(#[from] seccompiler::BackendError),
    /// The kernel does not take it.
    #[error("the system call filter can't be put on")]
    Install(#[from] seccompiler::Error),
    /// Capabilities.
    #[error("capabilities can't be dropped")]
    Capabilities(#[source] io::Error),
    /// Limits.
    #[error("core dumps can't be switched off")]
    CoreDumps(#[source] io::Error),
}

/// Which thread a filter is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thread {
    /// The event loop, which also starts machines and writes snapshots.
    Vmm,
    /// A vCPU, with the devices' registers.
    Vcpu,
    /// The API's server.
    Api,
}

/// `CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM` (linux/sched.h): what every thread library sets, and what
/// makes a new thread and no process.
const THREAD_FLAGS: u64 = 0x0005_0f00;
/// `PROT_EXEC` (asm-generic/mman-common.h).
const PROT_EXEC: u64 = 4;

/// Puts a thread's filter on the calling thread, for good.
///
/// # Errors
/// See [`ConfineError`].
pub fn restrict(thread: Thread) -> Result<(), ConfineError> {
    // Two filters, because one has one answer for all that it refuses: clone3's arguments can't be looked at, so it does not exist, and C
    // libraries then use clone, whose flags can.
    let no_clone3: BpfProgram = filter(
        BTreeMap::from([(libc::SYS_clone3, Vec::new())]),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::ENOSYS.unsigned_abs()),
    )?;
    let allowed = filter(rules(thread)?, SeccompAction::KillProcess, SeccompAction::Allow)?;
    seccompiler::apply_filter(&no_clone3)?;
    seccompiler::apply_filter(&allowed)?;
    Ok(())
}

/// Whether Unix sockets are still connected to by their paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sockets {
    /// For the connections of a guest's vsock.
    Used,
    /// No.
    Refused,
}

/// Has every call that names a path refused (`EACCES`), on the calling thread and those that it starts.
///
/// # Errors
/// See [`ConfineError`].
pub fn refuse_paths(sockets: Sockets) -> Result<(), ConfineError> {
    let connecting: &[i64] = match sockets {
        Sockets::Used => &[],
        Sockets::Refused => calls::CONNECTING,
    };
    let calls = calls::PATHS.iter().chain(calls::OLD_PATHS).chain(connecting);
    let refused = filter(
        calls.map(|&call| (call, Vec::new())).collect(),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EACCES.unsigned_abs()),
    )?;
    Ok(seccompiler::apply_filter(&refused)?)
}

fn filter(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    listed: SeccompAction,
) -> Result<BpfProgram, ConfineError> {
    let arch = match ringwall_vmm_proto::Architecture::NATIVE {
        ringwall_vmm_proto::Architecture::X86_64 => TargetArch::x86_64,
        ringwall_vmm_proto::Architecture::Aarch64 => TargetArch::aarch64,
    };
    Ok(SeccompFilter::new(rules, otherwise, listed, arch)?.try_into()?)
}

/// The calls of a thread, with the conditions on their arguments.
fn rules(thread: Thread) -> Result<BTreeMap<i64, Vec<SeccompRule>>, ConfineError> {
    let lists: &[&[i64]] = match thread {
        Thread::Vmm => &[
            calls::EVERYWHERE,
            calls::OLD,
            calls::OLD_PATHS,
            calls::DEVICES,
            calls::VMM,
        ],
        Thread::Vcpu => &[calls::EVERYWHERE, calls::OLD, calls::DEVICES],
        Thread::Api => &[calls::EVERYWHERE, calls::OLD, calls::API],
    };
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for &call in lists.iter().copied().flatten() {
        rules.insert(call, Vec::new());
    }
    let masked = |argument, mask, value| -> Result<SeccompRule, ConfineError> {
        let op = SeccompCmpOp::MaskedEq(mask);
        let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Qword, op, value)?;
        Ok(SeccompRule::new(vec![condition])?)
    };
    if let Some(socket) = rules.get_mut(&libc::SYS_socket) {
        // No other family is of use to a VMM: no TCP, no netlink, no packets.
        let family = u64::from(libc::AF_UNIX.unsigned_abs());
        let condition = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, family)?;
        socket.push(SeccompRule::new(vec![condition])?);
    }
    rules.insert(libc::SYS_clone, vec![masked(0, THREAD_FLAGS, THREAD_FLAGS)?]);
    // Nothing that is written becomes code.
    rules.insert(libc::SYS_mmap, vec![masked(2, PROT_EXEC, 0)?]);
    rules.insert(libc::SYS_mprotect, vec![masked(2, PROT_EXEC, 0)?]);
    Ok(rules)
}

/// Confines a vCPU's thread, or ends the process: a guest must not run without.
pub fn vcpu_thread() {
    or_end(restrict(Thread::Vcpu));
}

/// Confines the API server's thread, or ends the process.
pub fn api_thread() {
    or_end(drop_capabilities().and_then(|()| restrict(Thread::Api)));
}

/// Takes the API server's capabilities, and puts no filter on it (`--no-seccomp`).
pub fn api_thread_unfiltered() {
    or_end(drop_capabilities());
}

/// Leaves a thread as it is (`--no-seccomp`).
pub fn not_at_all() {}

fn or_end(done: Result<(), ConfineError>) {
    if let Err(error) = done {
        tracing::error!(%error, "a thread can't be confined");
        std::process::exit(i32::from(crate::args::Exit::Failure as u8));
    }
}

/// Switches core dumps off: they would hold the guest's memory.
///
/// # Errors
/// What setrlimit(2) says.
pub fn no_core_dumps() -> Result<(), ConfineError> {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    setrlimit(Resource::Core, none).map_err(|error| ConfineError::CoreDumps(error.into()))
}

/// Drops all capabilities of the calling thread; threads that it starts have none either. Bounding set and ambient set too.
///
/// # Errors
/// What capset(2) says.
pub fn drop_capabilities() -> Result<(), ConfineError> {
    let drop = || {
        clear_ambient()?;
        let none = Sets {
            effective: Capabilities::NONE,
            permitted: Capabilities::NONE,
            inheritable: Capabilities::NONE,
        };
        none.apply()
    };
    drop().map_err(ConfineError::Capabilities)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::Command;

    /// Names the call that a child of the test makes.
    const CALL: &str = "RINGWALL_TEST_CALL";

    /// The body of the child: this same test, told by the environment what to do.
    fn child(thread: Thread, call: &str) {
        restrict(thread).unwrap();
        match call {
            "none" => {}
            "uname" => drop(rustix::system::uname()),
            "fork" => drop(Command::new("/bin/true").spawn()),
            "no-paths" => {
                refuse_paths(Sockets::Refused).unwrap();
                let denied = Err(io::ErrorKind::PermissionDenied);
                assert_eq!(
                    std::fs::File::open("/dev/null").map(drop).map_err(|error| error.kind()),
                    denied
                );
                let connected = std::os::unix::net::UnixStream::connect("/nowhere");
                assert_eq!(connected.map(drop).map_err(|error| error.kind()), denied);
                // What is open can still be asked about.
                assert!(rustix::fs::fstat(io::stdin()).is_ok());
            }
            "tcp" => drop(std::net::TcpStream::connect("127.0.0.1:1")),
            "socket" => drop(std::os::unix::net::UnixStream::connect("/nowhere")),
            "open" => drop(std::fs::File::open("/dev/null")),
            "thread" => drop(std::thread::spawn(|| ()).join()),
            other => panic!("{other}"),
        }
        std::process::exit(7);
    }

    #[test]
    fn a_call_that_is_not_listed_kills() {
        const SIGSYS: i32 = 31;
        if let Ok(told) = std::env::var(CALL) {
            let (thread, call) = told.split_once(' ').unwrap();
            let thread = [Thread::Vmm, Thread::Vcpu, Thread::Api]
                .into_iter()
                .find(|known| format!("{known:?}") == thread)
                .unwrap();
            child(thread, call);
        }
        for (thread, call, is_allowed) in [
            (Thread::Vmm, "none", true),
            (Thread::Vmm, "uname", false),
            (Thread::Vmm, "fork", false),
            (Thread::Vmm, "open", true),
            (Thread::Vmm, "thread", true),
            (Thread::Vmm, "socket", true),
            (Thread::Vmm, "no-paths", true),
            (Thread::Vmm, "tcp", false),
            (Thread::Vcpu, "none", true),
            (Thread::Vcpu, "uname", false),
            (Thread::Vcpu, "fork", false),
            (Thread::Vcpu, "open", false),
            (Thread::Api, "none", true),
            (Thread::Api, "socket", false),
            (Thread::Api, "open", false),
            (Thread::Api, "fork", false),
        ] {
            let status = Command::new(std::env::current_exe().unwrap())
                .args([
                    "--exact",
                    "confine::tests::a_call_that_is_not_listed_kills",
                    "--nocapture",
                ])
                .env(CALL, format!("{thread:?} {call}"))
                .output()
                .unwrap()
                .status;
            let ended = (status.code(), status.signal());
            let wanted = if is_allowed {
                (Some(7), None)
            } else {
                (None, Some(SIGSYS))
            };
            assert_eq!(ended, wanted, "{thread:?} {call}");
        }
    }
}
