//! What control groups this machine has and where this process is in them.
//!
//! Reads `/proc/self/mountinfo` and `/proc/self/cgroup` (proc_pid_mountinfo(5), cgroups(7)) once, below a root that tests may
//! choose, and keeps one [`Hierarchy`] per mounted hierarchy. A hybrid machine simply has several. Changes nothing.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::control_file;
use crate::controller::Controller;

/// Most bytes read of the mount table; a machine with more mounts has its cgroup mounts, made at boot, at the beginning.
const MAX_MOUNTINFO_BYTES: u64 = 4 * 1024 * 1024;

/// The control groups of this machine, as this process sees them.
#[derive(Debug, Clone)]
pub struct Host {
    pub(crate) hierarchies: Vec<Hierarchy>,
    /// Makes group names differ between keepers that use the same sandbox name.
    pub(crate) keeper_pid: u32,
    /// Whether this user may write to a path. Tests replace it, because root may write anywhere.
    pub(crate) is_writable: fn(&Path) -> bool,
}

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    pub(crate) kind: Kind,
    pub(crate) mount_point: PathBuf,
    /// Whether the mount shows the hierarchy (or this cgroup namespace) from its top.
    pub(crate) is_whole: bool,
    /// This process's own group relative to the mount point; `None` where the mount does not show it.
    pub(crate) own: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    V1(Vec<Controller>),
    V2,
}

/// The files that describe the control groups can't be read.
#[derive(Debug, Error)]
#[error("can't read {}", path.display())]
pub struct ReadHostError {
    /// The file.
    pub path: PathBuf,
    /// Why not.
    #[source]
    pub source: io::Error,
}

impl Host {
    /// Reads this machine's control groups.
    ///
    /// # Errors
    /// `/proc` is not readable.
    pub fn read() -> Result<Host, ReadHostError> {
        Host::read_below(Path::new("/"))
    }

    /// Reads the control groups of a machine whose `/proc` and mounts are found below `root`.
    ///
    /// # Errors
    /// One of the two files in `root/proc/self` is not readable.
    pub fn read_below(root: &Path) -> Result<Host, ReadHostError> {
        let read = |name: &str, limit| {
            let path = root.join("proc/self").join(name);
            control_file::read_up_to(&path, limit).map_err(|source| ReadHostError { path, source })
        };
        let mut hierarchies = parse(&read("mountinfo", MAX_MOUNTINFO_BYTES)?, &read("cgroup", 64 * 1024)?);
        for hierarchy in &mut hierarchies {
            let inside = hierarchy
                .mount_point
                .strip_prefix("/")
                .unwrap_or(&hierarchy.mount_point);
            hierarchy.mount_point = root.join(inside);
        }
        Ok(Host {
            hierarchies,
            keeper_pid: std::process::id(),
            is_writable,
        })
    }

    /// The v1 hierarchy that has a controller: a controller is in at most one hierarchy of either kind.
    pub(crate) fn v1_with(&self, controller: Controller) -> Option<&Hierarchy> {
        self.hierarchies
            .iter()
            .find(|one| matches!(&one.kind, Kind::V1(controllers) if controllers.contains(&controller)))
    }

    /// The unified hierarchy.
    pub(crate) fn v2(&self) -> Option<&Hierarchy> {
        self.hierarchies.iter().find(|one| one.kind == Kind::V2)
    }
}

/// `access(2)` with the effective ids; a read-only mount answers no as well.
fn is_writable(path: &Path) -> bool {
    rustix::fs::accessat(
        rustix::fs::CWD,
        path,
        rustix::fs::Access::WRITE_OK,
        rustix::fs::AtFlags::EACCESS,
    )
    .is_ok()
}

/// Finds the hierarchies in the mount table. Lines that make no sense are passed over.
fn parse(mountinfo: &str, own_groups: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mountinfo.lines() {
        let Some(hierarchy) = parse_mount(line, own_groups) else {
            continue;
        };
        // Of several mounts of one hierarchy, the one that shows our own group counts.
        match found.iter_mut().find(|known| known.kind == hierarchy.kind) {
            Some(known) if known.own.is_none() => *known = hierarchy,
            Some(_) => {}
            None => found.push(hierarchy),
        }
    }
    found
}

/// Parses one line: `ID PARENT DEV ROOT MOUNT_POINT OPTIONS [TAGS] - TYPE SOURCE SUPER_OPTIONS`.
fn parse_mount(line: &str, own_groups: &str) -> Option<Hierarchy> {
    let (before, after) = line.split_once(" - ")?;
    let mut after = after.split(' ');
    let file_system = after.next()?;
    let options = after.nth(1)?;
    let kind = match file_system {
        "cgroup2" => Kind::V2,
        "cgroup" => Kind::V1(
            Controller::ALL
                .into_iter()
                .filter(|controller| controller.is_in(options))
                .collect(),
        ),
        _ => return None,
    };
    if kind == Kind::V1(Vec::new()) {
        return None;
    }
    let mut before = before.split(' ');
    let mount_root = unescape(before.nth(3)?);
    let mount_point = unescape(before.next()?);
    let own =
        own_group(own_groups, &kind).and_then(|path| Some(Path::new(path).strip_prefix(&mount_root).ok()?.to_owned()));
    // "/../x" is how the kernel shows a group outside this cgroup namespace.
    let own = own.filter(|path| {
        path.components()
            .all(|part| matches!(part, std::path::Component::Normal(_)))
    });
    Some(Hierarchy {
        kind,
        mount_point,
        is_whole: mount_root == Path::new("/"),
        own,
    })
}

/// Finds this process's group in lines of `ID:CONTROLLERS:PATH`; the unified hierarchy is `0::PATH`.
fn own_group<'a>(own_groups: &'a str, kind: &Kind) -> Option<&'a str> {
    own_groups.lines().find_map(|line| {
        let (id, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        let matches = match kind {
            Kind::V2 => id == "0" && controllers.is_empty(),
            Kind::V1(wanted) => wanted.first().is_some_and(|one| one.is_in(controllers)),
        };
        matches.then_some(path)
    })
}

/// Undoes the mount table's octal escapes (`\040` is a space).
fn unescape(field: &str) -> PathBuf {
    let bytes = field.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while let Some(&byte) = bytes.get(index) {
        let code = bytes.get(index + 1..index + 4).filter(|_| byte == b'\\');
        let code = code.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        plain.push(code.unwrap_or(byte));
        index += if code.is_some() { 4 } else { 1 };
    }
    PathBuf::from(OsString::from_vec(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
37 31 0:34 / /sys/fs/cgroup/freezer rw,relatime - cgroup cgroup rw,freezer
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
garbage - cgroup
";

    #[test]
    fn a_hybrid_machine_has_one_entry_per_useful_hierarchy() {
        let found = parse(HYBRID, "9:name=systemd:/x\n4:memory:/a/b\n3:cpu,cpuacct:/\n0::/c\n");
        let summary: Vec<_> = found.iter().map(|one| (one.kind.clone(), one.own.clone())).collect();
        assert_eq!(
            summary,
            [
                (Kind::V1(vec![Controller::Cpu]), Some(PathBuf::new())),
                (Kind::V1(vec![Controller::Memory]), Some(PathBuf::from("a/b"))),
                (Kind::V2, Some(PathBuf::from("c"))),
            ]
        );
    }

    #[test]
    fn a_container_sees_its_group_relative_to_the_mounts_root() {
        let mounts = "1 2 0:3 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup rw\n";
        assert_eq!(parse(mounts, "0::/docker/abc/x\n")[0].own, Some(PathBuf::from("x")));
        assert!(!parse(mounts, "0::/docker/abc/x\n")[0].is_whole);
        assert_eq!(parse(mounts, "0::/elsewhere\n")[0].own, None);
        let outside = "1 2 0:3 / /sys/fs/cgroup ro - cgroup2 cgroup rw\n";
        assert_eq!(
            parse(outside, "0::/../../x\n")[0].own,
            None,
            "outside the cgroup namespace"
        );
    }

    #[test]
    fn escapes_are_undone_and_a_lone_backslash_is_kept() {
        assert_eq!(unescape(r"/a\040b\134c"), PathBuf::from(r"/a b\c"));
        assert_eq!(unescape(r"/a\9"), PathBuf::from(r"/a\9"));
    }
}
