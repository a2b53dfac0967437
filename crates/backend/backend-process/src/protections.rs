//! Which protections a plan gets on this kernel, as values: what is enforced and what is reported come from the same place.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::{Path, PathBuf};

use ringwall_confine::landlock::{Control, Grant, Restriction, Rule};
use ringwall_sandbox::Protection;
use ringwall_seccomp::{Network, Profile};
use ringwall_sys::privilege::landlock_abi;
use ringwall_types::{SandboxName, Tier};

use crate::error::{RunError, keeper};
use crate::plan::{Placed, Plan};
use crate::state::StateDir;

/// First ABI that cuts TCP; that scopes abstract sockets and signals (landlock(7)).
const ABI_TCP: u32 = 4;
const ABI_SCOPES: u32 = 6;

/// Device files of use to a program without a mount namespace.
const DEVICES: [&str; 4] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/tty"];
const READ_DEVICES: [&str; 2] = ["/dev/random", "/dev/urandom"];

/// Refuses the landlock tier where there is no Landlock.
pub(crate) fn check_landlock(tier: Tier) -> Result<(), RunError> {
    if tier == Tier::Landlock && landlock_abi() == 0 {
        let why =
            "this kernel has no Landlock, or it is not in the lsm= list (Linux 5.13 and CONFIG_SECURITY_LANDLOCK)"
                .to_owned();
        return Err(RunError::Unavailable { tier, why });
    }
    Ok(())
}

/// Returns the seccomp profile of a plan.
pub(crate) fn profile(plan: &Plan) -> Profile {
    match plan.tier {
        Tier::Namespace => Profile::Namespace,
        Tier::Landlock => Profile::Landlock {
            abi: landlock_abi(),
            unique_uid: plan.identity.is_range(),
            network: if plan.host_network {
                Network::Host
            } else {
                Network::None
            },
        },
    }
}

/// Returns the Landlock rules of a plan; `None` where the kernel has none and the tier does without.
pub(crate) fn restriction(plan: &Plan, private: Option<&Path>) -> Option<Restriction> {
    let abi = landlock_abi();
    if abi == 0 {
        return None;
    }
    let rule = |path: &Path, grant| Rule {
        path: path.to_owned(),
        grant,
    };
    let mut rules = Vec::new();
    match plan.tier {
        Tier::Namespace => {
            rules.push(rule(Path::new("/dev"), Grant::Use));
            rules.push(rule(Path::new("/proc"), Grant::Use));
            rules.push(rule(Path::new("/dev/shm"), Grant::Write));
            if let Some(captured) = &plan.captured {
                let path = if plan.is_root_captured {
                    Path::new("/")
                } else {
                    captured.path.as_path()
                };
                rules.push(rule(path, Grant::Write));
            }
            for placed in &plan.placed {
                match placed {
                    Placed::Private { path, .. }
                    | Placed::Bind {
                        target: path,
                        read_only: false,
                        ..
                    } => rules.push(rule(path, Grant::Write)),
                    _ => {}
                }
            }
        }
        Tier::Landlock => {
            for device in DEVICES {
                rules.push(rule(Path::new(device), Grant::Use));
            }
            for device in READ_DEVICES {
                rules.push(rule(Path::new(device), Grant::Read));
            }
            if let Some(private) = private {
                rules.push(rule(private, Grant::Write));
            }
            for placed in &plan.placed {
                match placed {
                    Placed::System(path) => rules.push(rule(path, Grant::Read)),
                    Placed::Bind {
                        target,
                        read_only: true,
                        ..
                    } => rules.push(rule(target, Grant::Read)),
                    Placed::Bind {
                        target,
                        read_only: false,
                        ..
                    } => rules.push(rule(target, Grant::Write)),
                    _ => {}
                }
            }
        }
    }
    let control = if plan.tier == Tier::Namespace {
        Control::Changes
    } else {
        Control::Everything
    };
    // In the namespace tier a network namespace cuts TCP, and TCP inside it is the program's own.
    let cut_tcp = plan.tier == Tier::Landlock && !plan.host_network;
    Some(Restriction {
        abi,
        control,
        rules,
        cut_tcp,
        scope: true,
    })
}

/// Returns where the landlock tier's private directory for a name is. Root's state directory can't be reached by the user it becomes.
pub(crate) fn private_dir(state: &StateDir, name: &SandboxName) -> PathBuf {
    if rustix::process::geteuid().is_root() {
        Path::new("/tmp").join(format!("ringwall-{name}"))
    } else {
        state.path().join(name.as_str()).join("tmp")
    }
}

/// Makes the private directory, for the program's user alone.
pub(crate) fn make_private(plan: &Plan) -> Result<(), RunError> {
    let Some(private) = &plan.private else { return Ok(()) };
    let made = fs::DirBuilder::new().mode(0o700).create(private);
    made.map_err(keeper("make the private directory"))?;
    let (uid, gid) = plan.identity.outside();
    if plan.identity.is_range() {
        chown(private, Some(uid), Some(gid)).map_err(keeper("hand over the private directory"))?;
    }
    Ok(())
}

/// Removes the private directory and all the program left in it.
pub(crate) fn remove_private(private: &Path) {
    // Without a process that could change it any more. What can't be removed is found by gc.
    drop(fs::remove_dir_all(private));
}

/// Says of each protection whether it is on.
pub(crate) fn describe(plan: &Plan) -> Vec<Protection> {
    let abi = landlock_abi();
    let is_namespace = plan.tier == Tier::Namespace;
    let none = "the landlock tier has no namespaces";
    let mut protections = Vec::new();
    let mut add = |name: &str, on: bool, why: &str| {
        protections.push(Protection {
            name: name.to_owned(),
            on,
            why: why.to_owned(),
        });
    };
    let user = match (is_namespace, plan.identity.is_range()) {
        (true, true) => format!(
            "root inside is uid {} to the host; owners are shifted by idmapped mounts",
            plan.identity.outside().0
        ),
        (true, false) => "one user, the caller, with no others mapped".to_owned(),
        (false, true) => format!(
            "the program runs as uid {}, which owns nothing",
            plan.identity.outside().0
        ),
        (false, false) => none.to_owned(),
    };
    add("user-namespace", is_namespace, &user);
    add(
        "mount-namespace",
        is_namespace,
        if is_namespace {
            "a root of its own by pivot_root"
        } else {
            none
        },
    );
    add(
        "pid-namespace",
        is_namespace,
        if is_namespace {
            "host processes can't be seen; all die with init"
        } else {
            none
        },
    );
    add(
        "ipc-namespace",
        is_namespace,
        if is_namespace {
            "System V IPC and message queues of its own"
        } else {
            "System V IPC and message queues are denied by seccomp"
        },
    );
    add(
        "uts-namespace",
        is_namespace,
        if is_namespace { "a host name of its own" } else { none },
    );
    add(
        "cgroup-namespace",
        is_namespace,
        if is_namespace {
            "the host's groups can't be seen"
        } else {
            none
        },
    );
    let network = match (plan.host_network, is_namespace) {
        (true, _) => "the host's network was asked for",
        (false, true) => "a network namespace with a loopback device and nothing else",
        (false, false) if abi >= ABI_TCP => "sockets are denied by seccomp, TCP by Landlock too",
        (false, false) => "sockets are denied by seccomp",
    };
    add("no-network", !plan.host_network, network);
    let landlock = match (abi, plan.tier) {
        (0, _) => "this kernel has no Landlock".to_owned(),
        (_, Tier::Namespace) => format!("ABI {abi}: changes outside writable places are denied a second time"),
        (_, Tier::Landlock) => format!("ABI {abi}: only what is named can be read or changed"),
    };
    add("landlock", abi > 0, &landlock);
    let scopes = if abi >= ABI_SCOPES {
        "signals and abstract sockets can't leave"
    } else if is_namespace && !plan.host_network {
        "needs Landlock ABI 6; the pid and network namespaces do it here"
    } else if is_namespace {
        "needs Landlock ABI 6: abstract Unix sockets of the host can be reached"
    } else {
        "needs Landlock ABI 6; seccomp denies signals to others and sockets here"
    };
    add("landlock-scopes", abi >= ABI_SCOPES, scopes);
    add("seccomp", true, "allow-list; foreign architectures are killed");
    add("no-capabilities", true, "every set is empty, checked before exec");
    add("no-new-privs", true, "set-id bits and file capabilities give nothing");
    add(
        "captured-writes",
        plan.captured.is_some(),
        if plan.captured.is_some() {
            "writes go to a layer of the run's own"
        } else {
            "nothing is captured"
        },
    );
    protections
}
