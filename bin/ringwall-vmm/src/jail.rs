//! Which files this process can reach: Landlock rules for all of its threads, and for a VMM without paths a filter on the calls that name them.
//!
//! ```text
//! default        API: no programs, no device nodes, no TCP, nobody else's abstract sockets, no signals to others
//!                no API: nothing can be opened once the machine is made, before its first instruction
//! --confine-to   only what is below these directories, and the devices for taps and page faults
//! --no-paths     nothing; what is needed is given as descriptors
//! ```
//!
//! Put on before there is another thread, because Landlock and filters are each thread's own and pass to those that it starts. What was
//! asked for and can't be had ends the program; of what is put on unasked, the log says what is missing.

use std::io;
use std::path::{Path, PathBuf};

use ringwall_confine::landlock::{self, Control, Grant, RestrictError, Restriction, Rule};
use ringwall_confine::lockdown::{self, LockdownError};
use ringwall_sys::privilege;
use ringwall_sys::process::Rlimit;
use ringwall_vmm::files::Reach;
use thiserror::Error;

use crate::confine::{self, ConfineError, Sockets};

/// Most open files. 1,024 connections of vsock, the API's, some descriptors for each of 128 devices and 32 vCPUs, and those that were given.
const MAX_OPEN_FILES: u64 = 4096;

/// What may be used besides directories: making a userfaultfd (Linux 6.1) and attaching to a tap device, which have rights of their own.
const DEVICES: [&str; 2] = ["/dev/userfaultfd", "/dev/net/tun"];

/// Why the process is not confined.
#[derive(Debug, Error)]
pub enum JailError {
    /// A directory that can't be.
    #[error("--confine-to {path}: it must be a directory")]
    Folder {
        /// As it was typed.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Not here.
    #[error(
        "{flag} needs Landlock, which this kernel lacks or has switched off (it is in Linux from 5.13; see the boot parameter lsm=)"
    )]
    NoLandlock {
        /// What was asked for.
        flag: &'static str,
    },
    /// The kernel does not take the rules.
    #[error(transparent)]
    Restrict(#[from] RestrictError),
    /// The calls that name paths.
    #[error(transparent)]
    Filter(#[from] ConfineError),
    /// Limits and the bounding set.
    #[error(transparent)]
    Lockdown(#[from] LockdownError),
}

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Jail {
    /// Which paths can be opened.
    reach: Reach,
    /// Whether there is no API, so that all files are known when the machine is made.
    is_sealed_at_start: bool,
    /// Whether Landlock is to be used.
    has_landlock: bool,
    /// Whether calls can be filtered.
    has_seccomp: bool,
}

/// What was typed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wishes<'a> {
    pub(crate) confine_to: &'a [PathBuf],
    pub(crate) no_paths: bool,
    pub(crate) no_landlock: bool,
    pub(crate) no_seccomp: bool,
    pub(crate) no_api: bool,
}

impl Jail {
    /// Looks at what was typed; directories must be there.
    pub(crate) fn plan(wishes: Wishes<'_>) -> Result<Self, JailError> {
        let reach = if wishes.no_paths {
            Reach::Nowhere
        } else if wishes.confine_to.is_empty() {
            Reach::Anywhere
        } else {
            let folders = wishes.confine_to.iter().map(|path| folder(path));
            Reach::Below(folders.collect::<Result<_, _>>()?)
        };
        Ok(Self {
            reach,
            is_sealed_at_start: wishes.no_api,
            has_landlock: !wishes.no_landlock,
            has_seccomp: !wishes.no_seccomp,
        })
    }

    /// Which paths can be opened.
    pub(crate) fn reach(&self) -> Reach {
        self.reach.clone()
    }

    /// Confines the calling thread, and all that it starts. The program must have opened what it opens by itself.
    pub(crate) fn close(&self) -> Result<(), JailError> {
        let abi = privilege::landlock_abi();
        match &self.reach {
            Reach::Anywhere if !self.has_landlock => tracing::warn!("without Landlock (--no-landlock)"),
            // It is closed for all paths in a moment.
            Reach::Anywhere if self.is_sealed_at_start => {}
            Reach::Anywhere if abi == 0 => {
                tracing::warn!(
                    "this kernel has no Landlock: running programs is only kept out by the system call filters"
                );
            }
            Reach::Anywhere => {
                restrict(abi, Control::Programs, Vec::new())?;
                tracing::info!(abi, "Landlock: no programs and no device nodes{}", more_of(abi));
            }
            Reach::Below(_) if abi == 0 => return Err(JailError::NoLandlock { flag: "--confine-to" }),
            Reach::Below(folders) => {
                let devices = DEVICES.iter().map(|device| (Path::new(*device), Grant::Use));
                let folders = folders.iter().map(|folder| (folder.as_path(), Grant::Contents));
                let rules = folders.chain(devices).map(|(path, grant)| Rule {
                    path: path.to_owned(),
                    grant,
                });
                restrict(abi, Control::Everything, rules.collect())?;
                tracing::info!(abi, "Landlock: files only below --confine-to{}", more_of(abi));
            }
            Reach::Nowhere => self.close_all_paths(abi)?,
        }
        Ok(())
    }

    /// Landlock and the filter each do it alone.
    fn close_all_paths(&self, abi: u32) -> Result<(), JailError> {
        if abi == 0 && !self.has_seccomp {
            let flag = "--no-paths with --no-seccomp";
            return Err(JailError::NoLandlock { flag });
        }
        if abi > 0 {
            restrict(abi, Control::Everything, Vec::new())?;
            tracing::info!(abi, "Landlock: no file can be opened by a path{}", more_of(abi));
        }
        if self.has_seccomp {
            confine::refuse_paths(Sockets::Refused)?;
            tracing::info!("system calls with paths are refused");
        }
        Ok(())
    }

    /// Closes what was open until the machine was made, if nothing more can be asked for. Before its vCPUs have threads.
    pub(crate) fn seal(&self, sockets: Sockets) -> Result<(), JailError> {
        if !self.is_sealed_at_start {
            return Ok(());
        }
        let abi = privilege::landlock_abi();
        if self.has_landlock && abi > 0 {
            restrict(abi, Control::Everything, Vec::new())?;
            tracing::info!(abi, "Landlock: no file can be opened any more{}", more_of(abi));
        } else {
            tracing::warn!("without Landlock: only the system call filters keep the machine's process from files");
        }
        if self.has_seccomp {
            confine::refuse_paths(sockets)?;
        }
        Ok(())
    }
}

/// Limits, and no capability may ever come back: what can be had from the first moment on, whatever else is asked for.
pub(crate) fn limit() -> Result<(), JailError> {
    lockdown::apply_rlimits(&[(Rlimit::OpenFiles, MAX_OPEN_FILES), (Rlimit::MessageQueues, 0)])?;
    privilege::drop_bounding_set().map_err(lockdown::failed("empty the bounding set of capabilities"))?;
    privilege::no_new_privileges().map_err(lockdown::failed("set no_new_privs"))?;
    Ok(())
}

fn restrict(abi: u32, control: Control, rules: Vec<Rule>) -> Result<(), JailError> {
    let rules = landlock::prepare(&Restriction {
        abi,
        control,
        rules,
        cut_tcp: true,
        scope: true,
    })?;
    Ok(landlock::enforce(rules)?)
}

/// What a kernel's Landlock does besides files.
const fn more_of(abi: u32) -> &'static str {
    match abi {
        0..=3 => "; this kernel's cuts neither TCP nor abstract sockets and signals",
        4 | 5 => ", no TCP; this kernel's does not cut abstract sockets and signals",
        _ => ", no TCP, no abstract sockets, no signals to others",
    }
}

fn folder(path: &Path) -> Result<PathBuf, JailError> {
    let failed = |source| JailError::Folder {
        path: path.to_owned(),
        source,
    };
    let whole = path.canonicalize().map_err(failed)?;
    if whole.is_dir() {
        Ok(whole)
    } else {
        Err(failed(io::ErrorKind::NotADirectory.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wishes<'a>(confine_to: &'a [PathBuf]) -> Wishes<'a> {
        Wishes {
            confine_to,
            no_paths: false,
            no_landlock: false,
            no_seccomp: false,
            no_api: false,
        }
    }

    /// Names what a child of the test does.
    const CASE: &str = "RINGWALL_TEST_JAIL";

    fn is_denied<T>(done: io::Result<T>) -> bool {
        matches!(done, Err(error) if error.kind() == io::ErrorKind::PermissionDenied)
    }

    /// What a process can do: (open a file, run a program, use TCP, connect to an abstract socket of somebody else).
    fn powers(abstract_name: &str) -> [bool; 4] {
        use std::os::linux::net::SocketAddrExt as _;
        use std::os::unix::net::{SocketAddr, UnixStream};
        let address = SocketAddr::from_abstract_name(abstract_name).unwrap();
        let here = move || {
            [
                !is_denied(std::fs::File::open("/etc/passwd")),
                !is_denied(std::process::Command::new("/bin/true").status()),
                !is_denied(std::net::TcpListener::bind("127.0.0.1:0")),
                UnixStream::connect_addr(&address).is_ok(),
            ]
        };
        let mine = here.clone()();
        // Threads that start later are as confined.
        assert_eq!(std::thread::spawn(here).join().unwrap(), mine);
        mine
    }

    /// The body of the child: this same test, told by the environment what to do.
    fn child(case: &str) {
        let (case, name) = case.split_once(' ').unwrap();
        let (inside, outside) = ([PathBuf::from("/etc")], [PathBuf::from("/proc")]);
        let free = wishes(&[]);
        let (wished, is_to_be_sealed, wanted) = match case {
            "default" => (free, false, [true, false, false, false]),
            "none" => (
                Wishes {
                    no_landlock: true,
                    ..free
                },
                true,
                [true; 4],
            ),
            "inside" => (wishes(&inside), false, [true, false, false, false]),
            "outside" => (wishes(&outside), false, [false; 4]),
            "no-paths" => (Wishes { no_paths: true, ..free }, false, [false; 4]),
            "only-Landlock" => (
                Wishes {
                    no_paths: true,
                    no_seccomp: true,
                    ..free
                },
                false,
                [false; 4],
            ),
            "no-api" => (Wishes { no_api: true, ..free }, false, [true; 4]),
            "sealed" | "sealed-vsock" => (Wishes { no_api: true, ..free }, true, [false; 4]),
            "sealed-filter" => {
                let no_landlock = true;
                let wished = Wishes {
                    no_api: true,
                    no_landlock,
                    ..free
                };
                (wished, true, [false, true, false, false])
            }
            other => panic!("{other}"),
        };
        let jail = Jail::plan(wished).unwrap();
        jail.close().unwrap();
        if is_to_be_sealed {
            jail.seal(if case == "sealed-vsock" {
                Sockets::Used
            } else {
                Sockets::Refused
            })
            .unwrap();
        }
        assert_eq!(powers(name), wanted, "{case}");
    }

    /// Makes this kernel look like one without Landlock.
    fn hide_landlock() {
        let calls = std::collections::BTreeMap::from([(libc::SYS_landlock_create_ruleset, Vec::new())]);
        let (allow, missing) = (
            seccompiler::SeccompAction::Allow,
            seccompiler::SeccompAction::Errno(libc::ENOSYS.unsigned_abs()),
        );
        let native = std::env::consts::ARCH.try_into().unwrap();
        let filter = seccompiler::SeccompFilter::new(calls, allow, missing, native).unwrap();
        let program: seccompiler::BpfProgram = filter.try_into().unwrap();
        seccompiler::apply_filter(&program).unwrap();
        assert_eq!(privilege::landlock_abi(), 0);
    }

    #[test]
    fn what_was_asked_for_is_had_or_the_program_ends() {
        if std::env::var(CASE).is_ok() {
            hide_landlock();
            let inside = [PathBuf::from("/etc")];
            let free = wishes(&[]);
            let close = |wished| Jail::plan(wished).unwrap().close();
            let (no_paths, no_seccomp) = (true, true);
            assert!(matches!(close(wishes(&inside)), Err(JailError::NoLandlock { .. })));
            let neither = Wishes {
                no_paths,
                no_seccomp,
                ..free
            };
            assert!(matches!(close(neither), Err(JailError::NoLandlock { .. })));
            // Unasked, it is only missed.
            close(free).unwrap();
            assert!(!is_denied(std::fs::File::open("/etc/passwd")));
            close(Wishes { no_paths, ..free }).unwrap();
            assert!(is_denied(std::fs::File::open("/etc/passwd")));
            return;
        }
        run_case("what_was_asked_for_is_had_or_the_program_ends", "any");
    }

    /// Runs a test again, in a process of its own that is told what to do.
    fn run_case(test: &str, case: &str) {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &format!("jail::tests::{test}"), "--nocapture"])
            .env(CASE, case)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && said.contains("1 passed"), "{case}: {said}");
    }

    #[test]
    fn a_jail_denies_what_it_says() {
        use std::os::linux::net::SocketAddrExt as _;
        use std::os::unix::net::{SocketAddr, UnixListener};
        if let Ok(case) = std::env::var(CASE) {
            child(&case);
            return;
        }
        if privilege::landlock_abi() < 6 {
            println!("SKIPPED: this kernel's Landlock cuts no abstract sockets, or there is none");
            return;
        }
        let name = format!("ringwall-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let _listener = UnixListener::bind_addr(&address).unwrap();
        for case in [
            "default",
            "none",
            "inside",
            "outside",
            "no-paths",
            "only-Landlock",
            "no-api",
            "sealed",
            "sealed-vsock",
            "sealed-filter",
        ] {
            run_case("a_jail_denies_what_it_says", &format!("{case} {name}"));
        }
    }

    #[test]
    fn directories_are_whole_paths_and_must_be_there() {
        let folder = tempfile::tempdir().unwrap();
        let indirect = folder.path().join("x/..");
        std::fs::create_dir(folder.path().join("x")).unwrap();
        let jail = Jail::plan(wishes(&[indirect])).unwrap();
        assert_eq!(jail.reach(), Reach::Below(vec![folder.path().canonicalize().unwrap()]));
        for path in [folder.path().join("nothing"), "/dev/null".into()] {
            let error = Jail::plan(wishes(&[path])).unwrap_err();
            assert!(matches!(error, JailError::Folder { .. }), "{error}");
        }
    }
}
