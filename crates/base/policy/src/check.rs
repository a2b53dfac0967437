//! What can be told about a policy without looking at the machine: paths, names and combinations that can never be right.
//!
//! The parts are also called one value at a time by `load`, which knows the line. What needs the file system or the kernel
//! (does the path exist, can the tier do it) is decided when a run is planned, and again after symlinks are resolved.

use std::path::{Path, PathBuf};

use ringwall_types::{ByteSize, Isolation, LimitKind, SandboxName, Tier};
use thiserror::Error;

use crate::mount::Mount;
use crate::path::{MAX_PATH_BYTES, has_nul, has_parent_component, is_tilde, reserved_root, same_path};
use crate::policy::{Changes, Limits, Policy};

/// Fewest processes a sandbox works with: its own first process and the command.
const MIN_PIDS: u32 = 2;
/// Fewest open files a program starts with: the three standard ones, the loader's libraries, and a little room.
const MIN_FILES: u32 = 16;
/// Fewest bytes of memory that let a static program start.
const MIN_MEMORY: ByteSize = ByteSize(1 << 20);

/// A policy that can't be right on any machine.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum CheckPolicyError {
    /// A path is empty.
    #[error("an empty path names nothing")]
    EmptyPath,
    /// A path is not absolute.
    #[error("the path {path:?} is not absolute")]
    RelativePath {
        /// The path.
        path: PathBuf,
    },
    /// A path begins with a `~` that no shell expanded.
    #[error("the path {path:?} begins with \"~\", which is not expanded here: write the home directory out")]
    Tilde {
        /// The path.
        path: PathBuf,
    },
    /// A path climbs.
    #[error(
        "the path {path:?} has \"..\" in it, which could mean another place behind a symlink: write the path without it"
    )]
    ParentComponent {
        /// The path.
        path: PathBuf,
    },
    /// A path holds a NUL byte.
    #[error("the path {path:?} holds a NUL byte, which no path can")]
    NulInPath {
        /// The path.
        path: PathBuf,
    },
    /// A path is longer than the kernel takes.
    #[error("a path of {bytes} bytes is longer than the {MAX_PATH_BYTES} that a path can have")]
    LongPath {
        /// Its length.
        bytes: usize,
    },
    /// A path lies where the sandbox puts its own files.
    #[error("{path:?} can't be shown inside: {root} is the sandbox's own")]
    Reserved {
        /// The path inside.
        path: PathBuf,
        /// The reserved directory.
        root: &'static str,
    },
    /// A directory without which nothing runs is to be hidden.
    #[error("{path:?} can't be denied: no program would start")]
    DeniesEverything {
        /// The path.
        path: PathBuf,
    },
    /// The host's own root is given as a root file system.
    #[error("the host's own root can't be the sandbox's: leave the root file system out to see the host's system tree")]
    RootfsIsHostRoot,
    /// One path stands in two lists that contradict each other.
    #[error("{path:?} is listed both under {first} and under {second}")]
    ListedTwice {
        /// The path.
        path: PathBuf,
        /// The list that has it first.
        first: &'static str,
        /// The list that has it too.
        second: &'static str,
    },
    /// Two mounts have the same place inside.
    #[error("two mounts are both at {guest:?}")]
    MountedTwice {
        /// The path inside.
        guest: PathBuf,
    },
    /// A limit that lets nothing run.
    #[error("a {limit} limit of {wanted} is too small: no program runs with fewer than {least}")]
    TooSmall {
        /// Which limit.
        limit: LimitKind,
        /// What was asked for.
        wanted: String,
        /// The least that makes sense.
        least: String,
    },
    /// A name is given where nothing is kept under it.
    #[error("the name {name:?} has nothing to name: with changes = {changes} no changes are kept")]
    NameWithoutChanges {
        /// The name.
        name: String,
        /// What happens to the changes.
        changes: Changes,
    },
    /// The tier asked for is weaker than the weakest acceptable one.
    #[error("the isolation tier {isolation} is weaker than the minimum {minimum}")]
    BelowMinimum {
        /// The tier asked for.
        isolation: Tier,
        /// The weakest acceptable one.
        minimum: Tier,
    },
    /// A name that no environment variable can have.
    #[error("bad environment variable name {name:?}: it must not be empty nor hold '=' or NUL")]
    EnvName {
        /// The name.
        name: String,
    },
    /// A value that no environment variable can have.
    #[error("the value of the environment variable {name:?} holds a NUL byte, which no value can")]
    EnvValue {
        /// The variable.
        name: String,
    },
    /// A variable is both set and passed through.
    #[error("the environment variable {name:?} is both set and passed through")]
    EnvTwice {
        /// The variable.
        name: String,
    },
}

impl Policy {
    /// Checks everything that needs no look at the machine.
    ///
    /// # Errors
    /// The first thing found that can't be right; see [`CheckPolicyError`].
    pub fn check(&self) -> Result<(), CheckPolicyError> {
        self.check_files()?;
        self.check_env()?;
        check_limits(&self.limits)?;
        if let (Some(name), Some(changes @ (Changes::Discard | Changes::None))) = (&self.name, self.changes) {
            return Err(name_without_changes(name, changes));
        }
        let exact = match self.isolation {
            Isolation::Auto => None,
            Isolation::Namespace => Some(Tier::Namespace),
            Isolation::Landlock => Some(Tier::Landlock),
        };
        match (exact, self.min_isolation) {
            (Some(isolation), Some(minimum)) if isolation < minimum => {
                Err(CheckPolicyError::BelowMinimum { isolation, minimum })
            }
            _ => Ok(()),
        }
    }

    fn check_files(&self) -> Result<(), CheckPolicyError> {
        let files = &self.files;
        for path in files.read.iter().chain(&files.write) {
            check_shown_path(path)?;
        }
        for path in &files.deny {
            check_denied_path(path)?;
        }
        for mount in &files.mounts {
            check_mount(mount)?;
        }
        if let Some(rootfs) = &files.rootfs {
            check_rootfs(rootfs)?;
        }
        if let Some(workdir) = &files.workdir {
            check_path(workdir)?;
        }
        let guests: Vec<&PathBuf> = files.mounts.iter().map(|mount| &mount.guest).collect();
        if let Some(guest) = first_repeated(&guests) {
            return Err(CheckPolicyError::MountedTwice { guest: guest.clone() });
        }
        let lists = [
            ("read", refs(&files.read)),
            ("write", refs(&files.write)),
            ("deny", refs(&files.deny)),
            ("mounts", guests),
        ];
        for (index, (first, paths)) in lists.iter().enumerate() {
            for (second, others) in lists.iter().skip(index + 1) {
                if let Some(path) = paths
                    .iter()
                    .find(|path| others.iter().any(|other| same_path(path, other)))
                {
                    return Err(CheckPolicyError::ListedTwice {
                        path: (*path).clone(),
                        first,
                        second,
                    });
                }
            }
        }
        Ok(())
    }

    fn check_env(&self) -> Result<(), CheckPolicyError> {
        for (name, value) in &self.env.set {
            check_env_name(name)?;
            check_env_value(name, value)?;
            if self.env.pass.contains(name) {
                return Err(CheckPolicyError::EnvTwice { name: name.clone() });
            }
        }
        self.env.pass.iter().try_for_each(|name| check_env_name(name))
    }
}

/// Checks a variable's name: not empty, and neither `=` nor NUL in it (environ(7)).
///
/// # Errors
/// [`CheckPolicyError::EnvName`].
pub fn check_env_name(name: &str) -> Result<(), CheckPolicyError> {
    if name.is_empty() || name.contains(['=', '\0']) {
        return Err(CheckPolicyError::EnvName { name: name.to_owned() });
    }
    Ok(())
}

/// Checks a variable's value: anything but NUL.
///
/// # Errors
/// [`CheckPolicyError::EnvValue`].
pub fn check_env_value(name: &str, value: &str) -> Result<(), CheckPolicyError> {
    if value.contains('\0') {
        Err(CheckPolicyError::EnvValue { name: name.to_owned() })
    } else {
        Ok(())
    }
}

/// Checks that a path is one the kernel could take, absolute and without `..`.
pub(crate) fn check_path(path: &Path) -> Result<(), CheckPolicyError> {
    let bytes = path.as_os_str().len();
    let owned = || path.to_path_buf();
    if bytes == 0 {
        Err(CheckPolicyError::EmptyPath)
    } else if bytes > MAX_PATH_BYTES {
        Err(CheckPolicyError::LongPath { bytes })
    } else if has_nul(path) {
        Err(CheckPolicyError::NulInPath { path: owned() })
    } else if is_tilde(path) {
        Err(CheckPolicyError::Tilde { path: owned() })
    } else if !path.is_absolute() {
        Err(CheckPolicyError::RelativePath { path: owned() })
    } else if has_parent_component(path) {
        Err(CheckPolicyError::ParentComponent { path: owned() })
    } else {
        Ok(())
    }
}

/// Checks a path that is shown inside, at this path.
pub(crate) fn check_shown_path(path: &Path) -> Result<(), CheckPolicyError> {
    check_path(path)?;
    match reserved_root(path) {
        Some(root) => Err(CheckPolicyError::Reserved {
            path: path.to_path_buf(),
            root,
        }),
        None => Ok(()),
    }
}

/// Checks a path that is hidden. Parts of `/proc` and the like may be; the whole may not.
pub(crate) fn check_denied_path(path: &Path) -> Result<(), CheckPolicyError> {
    check_path(path)?;
    match reserved_root(path) {
        Some(root) if same_path(path, Path::new(root)) => Err(CheckPolicyError::DeniesEverything {
            path: path.to_path_buf(),
        }),
        _ => Ok(()),
    }
}

/// Checks both ends of a mount.
pub(crate) fn check_mount(mount: &Mount) -> Result<(), CheckPolicyError> {
    check_path(&mount.host)?;
    check_shown_path(&mount.guest)
}

/// Checks the directory given as a root file system.
pub(crate) fn check_rootfs(rootfs: &Path) -> Result<(), CheckPolicyError> {
    check_path(rootfs)?;
    if reserved_root(rootfs) == Some("/") {
        Err(CheckPolicyError::RootfsIsHostRoot)
    } else {
        Ok(())
    }
}

/// Checks that no limit is so small that nothing runs.
pub(crate) fn check_limits(limits: &Limits) -> Result<(), CheckPolicyError> {
    let counts = [
        (LimitKind::Pids, limits.pids, MIN_PIDS),
        (LimitKind::Files, limits.files, MIN_FILES),
    ];
    for (limit, wanted, least) in counts {
        if let Some(wanted) = wanted.filter(|wanted| *wanted < least) {
            return Err(CheckPolicyError::TooSmall {
                limit,
                wanted: wanted.to_string(),
                least: least.to_string(),
            });
        }
    }
    if let Some(wanted) = limits.memory.filter(|wanted| *wanted < MIN_MEMORY) {
        let (wanted, least) = (wanted.to_string(), MIN_MEMORY.to_string());
        return Err(CheckPolicyError::TooSmall {
            limit: LimitKind::Memory,
            wanted,
            least,
        });
    }
    Ok(())
}

fn name_without_changes(name: &SandboxName, changes: Changes) -> CheckPolicyError {
    CheckPolicyError::NameWithoutChanges {
        name: name.as_str().to_owned(),
        changes,
    }
}

fn refs(paths: &[PathBuf]) -> Vec<&PathBuf> {
    paths.iter().collect()
}

fn first_repeated<'a>(paths: &[&'a PathBuf]) -> Option<&'a PathBuf> {
    paths
        .iter()
        .enumerate()
        .find(|(index, path)| paths.iter().take(*index).any(|earlier| same_path(earlier, path)))
        .map(|(_, path)| *path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(change: impl FnOnce(&mut Policy)) -> Result<(), CheckPolicyError> {
        let mut policy = Policy::default();
        change(&mut policy);
        policy.check()
    }

    fn mount(guest: &str) -> Mount {
        Mount {
            host: "/srv".into(),
            guest: guest.into(),
            read_only: true,
        }
    }

    #[test]
    fn the_default_is_right() {
        assert_eq!(Policy::default().check(), Ok(()));
    }

    #[test]
    fn mounts_never_cover_the_sandboxs_own_directories() {
        for guest in ["/", "//", "/proc", "/proc/self", "/./dev", "/dev/shm", "/sys/fs"] {
            let result = policy(|policy| policy.files.mounts.push(mount(guest)));
            assert!(
                matches!(result, Err(CheckPolicyError::Reserved { .. })),
                "{guest}: {result:?}"
            );
        }
        let climbing = policy(|policy| policy.files.mounts.push(mount("/a/../proc")));
        assert!(matches!(climbing, Err(CheckPolicyError::ParentComponent { .. })));
        assert_eq!(policy(|policy| policy.files.mounts.push(mount("/data"))), Ok(()));
    }

    #[test]
    fn contradicting_lists_are_refused() {
        let both = policy(|policy| {
            policy.files.read.push("/srv/a".into());
            policy.files.deny.push("/srv/./a".into());
        });
        assert!(
            matches!(
                both,
                Err(CheckPolicyError::ListedTwice {
                    first: "read",
                    second: "deny",
                    ..
                })
            ),
            "{both:?}"
        );
        let mounts = policy(|policy| policy.files.mounts.extend([mount("/data"), mount("/data/")]));
        assert!(
            matches!(mounts, Err(CheckPolicyError::MountedTwice { .. })),
            "{mounts:?}"
        );
        let inside = policy(|policy| {
            policy.files.read.push("/srv".into());
            policy.files.deny.push("/srv/secret".into());
        });
        assert_eq!(inside, Ok(()));
    }

    #[test]
    fn limits_that_let_nothing_run_are_refused() {
        assert!(policy(|policy| policy.limits.pids = Some(1)).is_err());
        assert!(policy(|policy| policy.limits.files = Some(15)).is_err());
        assert!(policy(|policy| policy.limits.memory = Some(ByteSize(4096))).is_err());
        assert_eq!(policy(|policy| policy.limits.pids = Some(2)), Ok(()));
    }

    #[test]
    fn a_name_needs_kept_changes_and_a_tier_its_minimum() {
        let named = |changes| {
            policy(|policy| {
                policy.name = Some(SandboxName::from_random(1));
                policy.changes = changes;
            })
        };
        assert!(named(Some(Changes::Discard)).is_err());
        assert!(named(Some(Changes::None)).is_err());
        assert_eq!(named(Some(Changes::Commit)), Ok(()));
        assert_eq!(named(None), Ok(()));
        let tiers = |isolation, minimum| {
            policy(|policy| {
                policy.isolation = isolation;
                policy.min_isolation = Some(minimum);
            })
        };
        assert!(tiers(Isolation::Landlock, Tier::Namespace).is_err());
        assert_eq!(tiers(Isolation::Namespace, Tier::Landlock), Ok(()));
        assert_eq!(tiers(Isolation::Auto, Tier::Namespace), Ok(()));
    }

    #[test]
    fn environments_are_what_the_kernel_takes() {
        let set = |name: &str, value: &str| policy(|policy| drop(policy.env.set.insert(name.into(), value.into())));
        assert!(set("", "x").is_err());
        assert!(set("A=B", "x").is_err());
        assert!(set("A", "x\0y").is_err());
        assert_eq!(set("A b\n", "=\n\u{7f}'\""), Ok(()));
    }
}
