//! A command line's flags laid over a policy file.
//!
//! One rule: **a flag wins**. A flag with one value replaces the file's. A list-valued flag adds to the file's list, and takes what
//! it names out of every other list of the file: `--write /data` over `read = ["/data"]` makes `/data` writable.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use ringwall_types::{ByteSize, CpuShare, Isolation, LimitKind, SandboxName, Tier, WallTime};

use crate::mount::Mount;
use crate::path::{resolve_path, same_path};
use crate::policy::{Changes, FilePolicy, NetworkMode, Policy};

/// What a command line says; everything absent leaves the file's value.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Overrides {
    /// Replaces [`Policy::isolation`].
    pub isolation: Option<Isolation>,
    /// Replaces [`Policy::min_isolation`].
    pub min_isolation: Option<Tier>,
    /// Replaces [`Policy::changes`].
    pub changes: Option<Changes>,
    /// Replaces [`Policy::name`].
    pub name: Option<SandboxName>,
    /// Replaces [`Policy::tty`].
    pub tty: Option<bool>,
    /// Adds to [`FilePolicy::read`].
    pub read: Vec<PathBuf>,
    /// Adds to [`FilePolicy::write`].
    pub write: Vec<PathBuf>,
    /// Adds to [`FilePolicy::deny`].
    pub deny: Vec<PathBuf>,
    /// Adds to [`FilePolicy::mounts`]; replaces a mount of the file at the same guest path.
    pub mounts: Vec<Mount>,
    /// Replaces [`FilePolicy::rootfs`].
    pub rootfs: Option<PathBuf>,
    /// Replaces [`FilePolicy::workdir`].
    pub workdir: Option<PathBuf>,
    /// Replaces [`FilePolicy::home_tools`].
    pub home_tools: Option<bool>,
    /// Replaces [`crate::NetworkPolicy::mode`].
    pub network: Option<NetworkMode>,
    /// Variables in the order given: a later one wins over an earlier one and over the file.
    pub env: Vec<EnvOverride>,
    /// Replaces [`crate::Limits::memory`].
    pub memory: Option<ByteSize>,
    /// Replaces [`crate::Limits::cpus`].
    pub cpus: Option<CpuShare>,
    /// Replaces [`crate::Limits::pids`].
    pub pids: Option<u32>,
    /// Replaces [`crate::Limits::files`].
    pub files: Option<u32>,
    /// Replaces [`crate::Limits::disk`].
    pub disk: Option<ByteSize>,
    /// Replaces [`crate::Limits::timeout`].
    pub timeout: Option<WallTime>,
    /// Adds to [`crate::Limits::allow_degraded`].
    pub allow_degraded: BTreeSet<LimitKind>,
}

/// One variable that a flag sets or passes through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EnvOverride {
    /// Set to a value.
    Set {
        /// The variable.
        name: String,
        /// Its value.
        value: String,
    },
    /// Passed through from the caller.
    Pass {
        /// The variable.
        name: String,
    },
}

impl Overrides {
    /// Makes every path absolute: relative ones are taken from `folder`, which is absolute and free of symlinks.
    ///
    /// The workdir is a path inside: with a root file system (by a flag, or already `has_rootfs`) it is left as it is, and refused by
    /// the check if relative.
    pub fn resolve_paths(&mut self, folder: &Path, has_rootfs: bool) {
        let hosts = self.mounts.iter_mut().map(|mount| &mut mount.host);
        let lists = self.read.iter_mut().chain(&mut self.write).chain(&mut self.deny);
        for path in lists.chain(hosts).chain(&mut self.rootfs) {
            *path = resolve_path(folder, path);
        }
        if let Some(workdir) = self.workdir.as_mut().filter(|_| self.rootfs.is_none() && !has_rootfs) {
            *workdir = resolve_path(folder, workdir);
        }
    }
}

impl Policy {
    /// Lays a command line's flags over this policy.
    #[must_use]
    pub fn merge(mut self, flags: Overrides) -> Self {
        self.isolation = flags.isolation.unwrap_or(self.isolation);
        self.min_isolation = flags.min_isolation.or(self.min_isolation);
        self.changes = flags.changes.or(self.changes);
        self.name = flags.name.or(self.name);
        self.tty = flags.tty.unwrap_or(self.tty);
        self.network.mode = flags.network.unwrap_or(self.network.mode);
        for variable in flags.env {
            match variable {
                EnvOverride::Set { name, value } => {
                    self.env.pass.remove(&name);
                    self.env.set.insert(name, value);
                }
                EnvOverride::Pass { name } => {
                    self.env.set.remove(&name);
                    self.env.pass.insert(name);
                }
            }
        }
        let limits = &mut self.limits;
        limits.memory = flags.memory.or(limits.memory);
        limits.cpus = flags.cpus.or(limits.cpus);
        limits.pids = flags.pids.or(limits.pids);
        limits.files = flags.files.or(limits.files);
        limits.disk = flags.disk.or(limits.disk);
        limits.timeout = flags.timeout.or(limits.timeout);
        limits.allow_degraded.extend(flags.allow_degraded);

        let files = &mut self.files;
        // The file's lists give up what the flags name before any flag is added, so that two flags that contradict
        // each other still meet in the check.
        for path in flags.read.iter().chain(&flags.write).chain(&flags.deny) {
            take_out(files, path);
        }
        for mount in &flags.mounts {
            take_out(files, &mount.guest);
        }
        extend(&mut files.read, flags.read);
        extend(&mut files.write, flags.write);
        extend(&mut files.deny, flags.deny);
        files.mounts.extend(flags.mounts);
        files.rootfs = flags.rootfs.or(files.rootfs.take());
        files.workdir = flags.workdir.or(files.workdir.take());
        files.home_tools = flags.home_tools.unwrap_or(files.home_tools);
        self
    }
}

fn take_out(files: &mut FilePolicy, path: &Path) {
    for list in [&mut files.read, &mut files.write, &mut files.deny] {
        list.retain(|other| !same_path(other, path));
    }
    files.mounts.retain(|mount| !same_path(&mount.guest, path));
}

fn extend(list: &mut Vec<PathBuf>, more: Vec<PathBuf>) {
    for path in more {
        // The same flag twice is no contradiction.
        if !list.iter().any(|other| same_path(other, &path)) {
            list.push(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{Origin, load_policy};

    fn file(text: &str) -> Policy {
        load_policy(
            text.as_bytes(),
            Origin {
                file: Path::new("p"),
                folder: Path::new("/"),
            },
        )
        .unwrap()
    }

    #[test]
    fn no_flags_change_nothing() {
        let policy =
            file("tty = true\nchanges = \"discard\"\n[files]\nhome_tools = false\nread = [\"/a\"]\n[limits]\npids = 9");
        assert_eq!(policy.clone().merge(Overrides::default()), policy);
    }

    #[test]
    fn single_values_replace_and_lists_add() {
        let policy = file("changes = \"keep\"\n[files]\nread = [\"/a\"]\n[limits]\npids = 9\nfiles = 100");
        let flags = Overrides {
            changes: Some(Changes::Discard),
            read: vec!["/b".into(), "/b".into()],
            pids: Some(5),
            ..Overrides::default()
        };
        let merged = policy.merge(flags);
        assert_eq!(merged.changes, Some(Changes::Discard));
        assert_eq!(merged.files.read, [Path::new("/a"), Path::new("/b")]);
        assert_eq!((merged.limits.pids, merged.limits.files), (Some(5), Some(100)));
    }

    #[test]
    fn a_flag_takes_its_path_out_of_the_files_other_lists() {
        let policy = file("[files]\nread = [\"/a\"]\ndeny = [\"/b\"]\nmounts = [\"/x:/m\"]");
        let mount = Mount {
            host: "/y".into(),
            guest: "/m".into(),
            read_only: true,
        };
        let flags = Overrides {
            write: vec!["/a/".into(), "/b".into()],
            mounts: vec![mount.clone()],
            ..Overrides::default()
        };
        let merged = policy.merge(flags);
        assert_eq!(merged.check(), Ok(()));
        assert!(merged.files.read.is_empty() && merged.files.deny.is_empty());
        assert_eq!(merged.files.mounts, [mount]);
    }

    #[test]
    fn contradicting_flags_are_left_for_the_check() {
        let flags = Overrides {
            read: vec!["/a".into()],
            deny: vec!["/a".into()],
            ..Overrides::default()
        };
        assert!(Policy::default().merge(flags).check().is_err());
    }

    #[test]
    fn the_last_word_on_a_variable_counts() {
        let set = |value: &str| EnvOverride::Set {
            name: "A".into(),
            value: value.into(),
        };
        let pass = || EnvOverride::Pass { name: "A".into() };
        let merged = |env| {
            Policy::default().merge(Overrides {
                env,
                ..Overrides::default()
            })
        };
        assert_eq!(merged(vec![set("1"), set("2")]).env.set["A"], "2");
        let passed = merged(vec![set("1"), pass()]);
        assert!(passed.env.set.is_empty() && passed.env.pass.contains("A"));
        let file = file("[env]\npass = [\"A\"]");
        assert!(
            file.merge(Overrides {
                env: vec![set("1")],
                ..Overrides::default()
            })
            .env
            .pass
            .is_empty()
        );
    }

    #[test]
    fn a_workdir_inside_a_rootfs_is_not_taken_from_the_callers_folder() {
        let mut flags = Overrides {
            workdir: Some("x".into()),
            rootfs: Some("r".into()),
            ..Overrides::default()
        };
        flags.resolve_paths(Path::new("/home/u"), false);
        assert_eq!(flags.workdir.as_deref(), Some(Path::new("x")));
        assert_eq!(flags.rootfs.as_deref(), Some(Path::new("/home/u/r")));
        let mut flags = Overrides {
            workdir: Some("x".into()),
            ..Overrides::default()
        };
        flags.resolve_paths(Path::new("/home/u"), false);
        assert_eq!(flags.workdir.as_deref(), Some(Path::new("/home/u/x")));
    }
}
