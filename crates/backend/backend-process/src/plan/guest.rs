//! The plan of a sandbox that serves: a stack of layers as its root, the agent as its first process.

use std::ffi::OsString;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};

use ringwall_policy::{Changes, NetworkMode};
use ringwall_sandbox::{Guest, RunSpec};
use ringwall_types::Tier;

use super::paths::{HostPath, Placed};
use super::{Plan, PlanError, c_string};
use crate::identity::Identity;

/// Top-level directories of programs and libraries that are shown where the template has an empty directory for them. Links among them
/// (`/bin` on merged systems) are part of the template.
pub const SYSTEM_TREES: [&str; 8] = [
    "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/libo32",
];

/// Search path of the agent itself; it gives commands their own.
const AGENT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What is particular to a guest.
#[derive(Debug)]
pub(crate) struct GuestPlan {
    /// The agent's executable.
    pub(crate) agent: HostPath,
    /// Descriptors that must survive the exec; the sockets, once the name is claimed.
    pub(crate) descriptors: Vec<RawFd>,
}

/// Resolves a guest.
pub(super) fn resolve(spec: &RunSpec, guest: &Guest, tier: Tier) -> Result<Plan, PlanError> {
    if tier != Tier::Namespace {
        let why = "a sandbox that serves needs a root file system of its own, and so namespaces".to_owned();
        return Err(PlanError::Tier { tier, why });
    }
    let policy = &spec.policy;
    let root = Path::new("/");
    let mut lowers = guest
        .lowers
        .iter()
        .map(|path| HostPath::directory("layer", path, root))
        .collect::<Result<Vec<_>, _>>()?
        .into_iter();
    let captured = lowers.next();
    let mut placed = Vec::new();
    if guest.shows_host_system {
        for tree in SYSTEM_TREES {
            let path = PathBuf::from(tree);
            if std::fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_dir()) {
                placed.push(Placed::system(HostPath::directory("system", &path, root)?, path));
            }
        }
    }
    for mount in &policy.files.mounts {
        let host = HostPath::any("--mount", &mount.host, root)?;
        placed.push(Placed::bind(host, mount.guest.clone(), mount.read_only));
    }
    let agent = HostPath::any("agent", &guest.agent, root)?;
    let arguments = spec
        .command
        .iter()
        .map(|argument| c_string("an argument", argument.clone()))
        .collect::<Result<_, _>>()?;
    let mut environment = vec![c_string("PATH", OsString::from(AGENT_PATH))?];
    for (name, value) in &policy.env.set {
        environment.push(c_string(name, OsString::from(format!("{name}={value}")))?);
    }
    let limits = crate::limits::plan(
        &policy.limits,
        tier,
        policy.files.mounts.iter().any(|mount| !mount.read_only),
    )?;
    Ok(Plan {
        tier,
        identity: Identity::choose(),
        changes: Changes::Keep,
        is_root_captured: true,
        captured,
        lowers_below: lowers.collect(),
        guest: Some(GuestPlan {
            agent,
            descriptors: Vec::new(),
        }),
        placed,
        workdir: root.to_owned(),
        arguments,
        environment,
        search_path: Vec::new(),
        host_network: policy.network.mode == NetworkMode::Host,
        tty: false,
        limits,
        home_tools: Vec::new(),
        private: None,
        has_own_root: true,
        notes: Vec::new(),
    })
}
