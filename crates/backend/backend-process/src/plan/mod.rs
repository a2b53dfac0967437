//! Resolves a spec against this machine: what is visible, who the program is, which limits hold and how. Everything that can be
//! refused is refused here, before anything is made.

mod environment;
mod guest;
mod home_tools;
mod paths;
mod system;

use std::ffi::{CString, OsString};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use ringwall_policy::{Changes, NetworkMode, Policy};
use ringwall_sandbox::RunSpec;
use ringwall_types::{LimitKind, Tier};
use thiserror::Error;

use crate::identity::Identity;
use crate::limits::LimitPlan;
pub use guest::SYSTEM_TREES;
pub(crate) use paths::{HostPath, Placed};
pub use system::configuration as system_configuration;

/// A request that can't be met as asked.
#[derive(Debug, Error)]
pub enum PlanError {
    /// A path named in the policy can't be used.
    #[error("{what} {}: {why}", path.display())]
    Path {
        /// Which setting.
        what: &'static str,
        /// The path.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The tier can't do what is asked.
    #[error("the {tier} tier can't do this: {why}")]
    Tier {
        /// The tier.
        tier: Tier,
        /// What, and what to do instead.
        why: String,
    },
    /// A limit can't be enforced.
    #[error("can't enforce the {limit} limit: {why}")]
    Limit {
        /// Which.
        limit: LimitKind,
        /// Why, and what to do instead.
        why: String,
    },
    /// An argument or variable holds a NUL byte.
    #[error("{what} holds a NUL byte")]
    Nul {
        /// Which.
        what: String,
    },
    /// A variable that was to be passed through is not set.
    #[error("the environment variable {name} is not set, so it can't be passed through")]
    NoVariable {
        /// Which.
        name: String,
    },
}

/// A spec resolved.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The tier to run in.
    pub(crate) tier: Tier,
    /// Who the program is.
    pub(crate) identity: Identity,
    /// What becomes of captured changes.
    pub(crate) changes: Changes,
    /// The directory whose writes are captured, if any.
    pub(crate) captured: Option<HostPath>,
    /// Layers below `captured`, the topmost first: a guest's root is a stack.
    pub(crate) lowers_below: Vec<HostPath>,
    /// Set when the command is an agent that becomes the first process.
    pub(crate) guest: Option<guest::GuestPlan>,
    /// Whether the captured directory is the whole root.
    pub(crate) is_root_captured: bool,
    /// Everything else that is visible.
    pub(crate) placed: Vec<Placed>,
    /// Where the program starts.
    pub(crate) workdir: PathBuf,
    /// Arguments, the command first.
    pub(crate) arguments: Vec<CString>,
    /// Environment, as `K=V`.
    pub(crate) environment: Vec<CString>,
    /// Directories searched for the command, inside.
    pub(crate) search_path: Vec<PathBuf>,
    /// Whether the network is the host's.
    pub(crate) host_network: bool,
    /// Whether the program gets a terminal.
    pub(crate) tty: bool,
    /// Limits and what holds them.
    pub(crate) limits: LimitPlan,
    /// Tool roots below the home directory that were made visible.
    pub(crate) home_tools: Vec<PathBuf>,
    /// A directory of the sandbox's own on the host (the landlock tier).
    pub(crate) private: Option<PathBuf>,
    /// Whether the sandbox's root file system is the caller's.
    pub(crate) has_own_root: bool,
    /// What the caller should know.
    pub(crate) notes: Vec<String>,
}

/// Resolves `spec` for `tier`.
///
/// # Errors
/// The first thing that can't be met.
///
/// `private` is a directory of the sandbox's own on the host, for a tier that has no memory file system to put one on.
pub(crate) fn resolve(spec: &RunSpec, tier: Tier, state_dir: &Path, private: Option<&Path>) -> Result<Plan, PlanError> {
    if let Some(guest) = &spec.guest {
        return guest::resolve(spec, guest, tier);
    }
    let policy = &spec.policy;
    let identity = Identity::choose();
    let home = environment::home(&spec.caller_env);
    let mut notes = Vec::new();

    let changes = effective_changes(policy, tier)?;
    let rootfs = policy
        .files
        .rootfs
        .as_deref()
        .map(|path| HostPath::directory("rootfs", path, &spec.current_dir))
        .transpose()?;
    if rootfs.is_some() && tier == Tier::Landlock {
        let why = "a root file system of its own needs namespaces; leave out --rootfs".to_owned();
        return Err(PlanError::Tier { tier, why });
    }

    let mut placed = Vec::new();
    let mut captured = None;
    let mut default_workdir = PathBuf::from("/");
    if let Some(root) = &rootfs {
        if changes == Changes::None {
            placed.push(Placed::bind(root.clone(), PathBuf::from("/"), true));
        } else {
            captured = Some(root.clone());
        }
    } else {
        placed.extend(system::tree(
            tier,
            policy.network.mode == NetworkMode::Host,
            &home,
            identity,
        ));
        let current = HostPath::directory("current directory", &spec.current_dir, &spec.current_dir)?;
        default_workdir.clone_from(&current.path);
        if let Some(why) = paths::reason_to_hide(&current.path, home.as_deref()) {
            notes.push(format!("the current directory is not visible inside: {why}; change to a project directory, or name what is needed with --read or --write"));
            if tier == Tier::Namespace && home.as_deref() != Some(current.path.as_path()) {
                default_workdir = home.clone().unwrap_or_else(|| PathBuf::from("/tmp"));
            }
        } else if changes == Changes::None {
            let writable_by_wish = policy.files.write.iter().any(|path| current.path.starts_with(path));
            if !writable_by_wish {
                placed.push(Placed::bind(current.clone(), current.path.clone(), true));
            }
        } else {
            captured = Some(current);
        }
    }
    if let Some(target) = &captured {
        paths::check_state_apart(&target.path, state_dir)?;
    }

    for path in &policy.files.read {
        let host = HostPath::any("--read", path, &spec.current_dir)?;
        let target = paths::lexical(path, &spec.current_dir);
        if rootfs.is_some() || !system::shows(&host.path) {
            placed.push(Placed::bind(host, target, true));
        }
    }
    for path in &policy.files.write {
        let host = HostPath::any("--write", path, &spec.current_dir)?;
        paths::check_state_apart(&host.path, state_dir)?;
        if tier == Tier::Landlock && identity.is_range() && !paths::is_writable_by_others(&host.path) {
            let why = format!(
                "run by root, the program becomes another user there, who may not write to {}; let others write to it, or run as an ordinary user",
                path.display()
            );
            return Err(PlanError::Tier { tier, why });
        }
        placed.push(Placed::bind(host, paths::lexical(path, &spec.current_dir), false));
    }
    for mount in &policy.files.mounts {
        let host = HostPath::any("--mount", &mount.host, &spec.current_dir)?;
        if tier == Tier::Landlock && host.path != mount.guest {
            let why = format!(
                "showing {} at {} needs namespaces; use --read or --write",
                mount.host.display(),
                mount.guest.display()
            );
            return Err(PlanError::Tier { tier, why });
        }
        if !mount.read_only {
            paths::check_state_apart(&host.path, state_dir)?;
        }
        placed.push(Placed::bind(host, mount.guest.clone(), mount.read_only));
    }
    let mut home_tools = Vec::new();
    if policy.files.home_tools
        && rootfs.is_none()
        && let Some(home) = &home
    {
        home_tools = home_tools::roots(&spec.caller_env, home, &spec.command);
        for root in &home_tools {
            if captured
                .as_ref()
                .is_some_and(|captured| root.starts_with(&captured.path))
            {
                continue;
            }
            let host = HostPath::any("tool root", root, &spec.current_dir)?;
            placed.push(Placed::bind(host, root.clone(), true));
        }
    }
    for path in &policy.files.deny {
        let path = paths::lexical(path, &spec.current_dir);
        hide(&mut placed, &path, captured.as_ref(), tier)?;
    }

    let workdir = policy
        .files
        .workdir
        .as_deref()
        .map_or(default_workdir, |path| paths::lexical(path, &spec.current_dir));
    let visible = |path: &Path| {
        rootfs.is_some()
            || system::shows(path)
            || captured
                .as_ref()
                .is_some_and(|captured| path.starts_with(&captured.path))
            || placed
                .iter()
                .any(|placed| placed.is_bind() && path.starts_with(placed.target()))
    };
    let search_path = environment::search_path(&spec.caller_env, rootfs.is_some(), &policy.env, visible);
    let environment = environment::resolve(
        &spec.caller_env,
        &policy.env,
        &search_path,
        home.as_deref(),
        rootfs.is_some(),
        private,
    )?;
    let arguments = spec
        .command
        .iter()
        .map(|argument| c_string("an argument", argument.clone()))
        .collect::<Result<_, _>>()?;
    let writes_directly = !policy.files.write.is_empty() || policy.files.mounts.iter().any(|mount| !mount.read_only);
    let limits = crate::limits::plan(&policy.limits, tier, writes_directly)?;

    Ok(Plan {
        tier,
        identity,
        changes,
        is_root_captured: rootfs.is_some() && captured.is_some(),
        lowers_below: Vec::new(),
        guest: None,
        has_own_root: rootfs.is_some(),
        private: private.map(Path::to_owned),
        captured,
        placed,
        workdir,
        arguments,
        environment,
        search_path,
        host_network: policy.network.mode == NetworkMode::Host,
        tty: policy.tty,
        limits,
        home_tools,
        notes,
    })
}

impl Plan {
    /// Returns everything whose mount the keeper makes in a run by root, in the order in which init takes it, and whether its owners are
    /// shifted into the sandbox's range.
    pub(crate) fn sources<'a>(&'a self, layer: Option<&'a HostPath>) -> Vec<(&'a HostPath, bool)> {
        let captured = self
            .captured
            .iter()
            .zip(layer)
            .flat_map(|(lower, layer)| [lower].into_iter().chain(&self.lowers_below).chain([layer]))
            .map(|host| (host, true));
        let bound = self.placed.iter().filter_map(|placed| match placed {
            Placed::Bind { host, keeps_owners, .. } => Some((host, !keeps_owners)),
            _ => None,
        });
        captured.chain(bound).collect()
    }
}

/// Settles what becomes of changes: the landlock tier can't capture yet.
fn effective_changes(policy: &Policy, tier: Tier) -> Result<Changes, PlanError> {
    match (tier, policy.changes) {
        (Tier::Namespace, changes) => Ok(changes.unwrap_or(Changes::Keep)),
        (Tier::Landlock, None | Some(Changes::None)) => Ok(Changes::None),
        (Tier::Landlock, Some(_)) => {
            let why = "it can't capture writes yet; name what may be written with --write, which goes straight to the host, \
                       and leave out --changes (or use --changes none)";
            Err(PlanError::Tier {
                tier,
                why: why.to_owned(),
            })
        }
    }
}

/// Adds what hides `path`, if there is anything to hide.
fn hide(placed: &mut Vec<Placed>, path: &Path, captured: Option<&HostPath>, tier: Tier) -> Result<(), PlanError> {
    let Ok(metadata) = std::fs::symlink_metadata(path) else {
        return Ok(());
    };
    let is_below = |above: &Path| path.starts_with(above);
    let is_visible = system::shows(path)
        || captured.is_some_and(|captured| is_below(&captured.path))
        || placed
            .iter()
            .any(|placed| placed.is_bind() && is_below(placed.target()));
    if !is_visible {
        return Ok(());
    }
    if metadata.is_symlink() {
        let why = "is a symbolic link; name what it points to".to_owned();
        return Err(PlanError::Path {
            what: "--deny",
            path: path.to_owned(),
            why,
        });
    }
    if tier == Tier::Landlock {
        let why = format!(
            "Landlock only allows, so it can't hide {} below something visible; make less visible instead",
            path.display()
        );
        return Err(PlanError::Tier { tier, why });
    }
    // What is placed below a hidden directory would show again.
    placed.retain(|placed| !(placed.is_bind() && placed.target().starts_with(path)));
    placed.push(Placed::Hidden {
        path: path.to_owned(),
        is_dir: metadata.is_dir(),
    });
    Ok(())
}

fn c_string(what: &str, text: OsString) -> Result<CString, PlanError> {
    CString::new(text.into_vec()).map_err(|_| PlanError::Nul { what: what.to_owned() })
}
