//! Paths of the caller: resolved once, then known by device and inode.

use std::fs;
use std::os::fd::AsRawFd;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::PlanError;

/// Something on the host, found and identified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostPath {
    /// Canonical path: no symbolic link in it.
    pub(crate) path: PathBuf,
    /// Device and inode.
    pub(crate) id: (u64, u64),
    /// Whether it is a directory.
    pub(crate) is_dir: bool,
}

/// One thing visible inside.
#[derive(Debug)]
pub(crate) enum Placed {
    /// A part of the system tree at its own path.
    System(PathBuf),
    /// A symbolic link.
    Link {
        /// Where.
        path: PathBuf,
        /// To what.
        target: PathBuf,
    },
    /// A small file made for the sandbox.
    File {
        /// Where.
        path: PathBuf,
        /// What it holds.
        content: Vec<u8>,
    },
    /// An empty directory of its own.
    Private {
        /// Where.
        path: PathBuf,
        /// Mode bits.
        mode: u32,
    },
    /// A file or directory of the host.
    Bind {
        /// What.
        host: HostPath,
        /// Where.
        target: PathBuf,
        /// Whether writes are refused.
        read_only: bool,
        /// Whether a run by root shows it with its owners as they are: not the sandbox's, so that only what everybody may read is read.
        keeps_owners: bool,
    },
    /// Something hidden.
    Hidden {
        /// What.
        path: PathBuf,
        /// Whether it is a directory.
        is_dir: bool,
    },
}

impl Placed {
    pub(crate) fn bind(host: HostPath, target: PathBuf, read_only: bool) -> Self {
        Placed::Bind {
            host,
            target,
            read_only,
            keeps_owners: false,
        }
    }

    /// A part of the host's system, read-only and as it is.
    pub(crate) fn system(host: HostPath, target: PathBuf) -> Self {
        Placed::Bind {
            host,
            target,
            read_only: true,
            keeps_owners: true,
        }
    }

    pub(crate) fn is_bind(&self) -> bool {
        matches!(self, Placed::Bind { .. })
    }

    pub(crate) fn target(&self) -> &Path {
        match self {
            Placed::System(path)
            | Placed::Link { path, .. }
            | Placed::File { path, .. }
            | Placed::Private { path, .. }
            | Placed::Hidden { path, .. }
            | Placed::Bind { target: path, .. } => path,
        }
    }
}

impl HostPath {
    /// Resolves `path`, relative to `base`.
    pub(crate) fn any(what: &'static str, path: &Path, base: &Path) -> Result<Self, PlanError> {
        let failed = |why: String| PlanError::Path {
            what,
            path: path.to_owned(),
            why,
        };
        if path.as_os_str().as_encoded_bytes().contains(&0) {
            return Err(failed("holds a NUL byte".to_owned()));
        }
        HostPath::find(&base.join(path)).map_err(|error| failed(explain(&error)))
    }

    /// Resolves a path in four calls, however long it is; realpath(3) needs one for each component.
    pub(crate) fn find(path: &Path) -> std::io::Result<Self> {
        let fd = rustix::fs::openat(rustix::fs::CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let stat = rustix::fs::fstat(&fd)?;
        let canonical = match fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())) {
            Ok(canonical) => canonical,
            Err(_) => fs::canonicalize(path)?,
        };
        Ok(HostPath {
            path: canonical,
            id: (stat.st_dev, stat.st_ino),
            is_dir: stat.st_mode & 0o170_000 == 0o040_000,
        })
    }

    /// Resolves a path that must be a directory.
    pub(crate) fn directory(what: &'static str, path: &Path, base: &Path) -> Result<Self, PlanError> {
        let host = HostPath::any(what, path, base)?;
        if host.is_dir {
            Ok(host)
        } else {
            Err(PlanError::Path {
                what,
                path: path.to_owned(),
                why: "is not a directory".to_owned(),
            })
        }
    }
}

/// Returns whether a user that is neither owner nor in the group may write to `path`.
pub(crate) fn is_writable_by_others(path: &Path) -> bool {
    rustix::fs::stat(path).is_ok_and(|stat| stat.st_mode & 0o002 != 0)
}

fn explain(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "does not exist".to_owned(),
        std::io::ErrorKind::PermissionDenied => "you may not reach it".to_owned(),
        _ => error.to_string(),
    }
}

/// Makes a path absolute and removes `.` and `..` from its text. Only for naming a place inside: what is shown there was resolved by
/// the kernel.
pub(crate) fn lexical(path: &Path, base: &Path) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for component in base.join(path).components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    clean
}

/// Directories that hold more than one project or one user's things: never shown just because a command was started in them.
const SHARED: [&str; 16] = [
    "/", "/home", "/root", "/etc", "/proc", "/sys", "/dev", "/run", "/boot", "/var", "/var/lib", "/var/run", "/mnt",
    "/media", "/srv", "/tmp",
];

/// Says why the current directory must not be shown, if so.
pub(crate) fn reason_to_hide(current: &Path, home: Option<&Path>) -> Option<String> {
    if let Some(home) = home
        && home.starts_with(current)
    {
        return Some(if home == current {
            "it is your home directory".to_owned()
        } else {
            "your home directory is below it".to_owned()
        });
    }
    let is_inside = |above: &str| {
        current.starts_with(above) && !(current.starts_with("/dev/shm") && current != Path::new("/dev/shm"))
    };
    if SHARED.iter().any(|shared| current == Path::new(shared))
        || ["/etc", "/proc", "/sys", "/dev", "/boot"].into_iter().any(is_inside)
    {
        return Some(format!(
            "{} belongs to the system or to several users",
            current.display()
        ));
    }
    // A home directory of somebody else.
    (current.parent() == Some(Path::new("/home"))).then(|| "it is a home directory".to_owned())
}

/// Refuses to show the state directory inside: the program could change what is to be committed, and overlayfs must not have its
/// upper below its lower directory.
pub(crate) fn check_state_apart(shown: &Path, state_dir: &Path) -> Result<(), PlanError> {
    let state = HostPath::find(state_dir).map_or_else(|_| state_dir.to_owned(), |found| found.path);
    if state.starts_with(shown) || shown.starts_with(&state) {
        let why = format!(
            "Ringwall's state directory {} lies there; set RINGWALL_STATE_DIR to a place outside",
            state.display()
        );
        return Err(PlanError::Path {
            what: "writable directory",
            path: shown.to_owned(),
            why,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_are_removed_from_targets() {
        assert_eq!(lexical(Path::new("../x/./y"), Path::new("/a/b")), Path::new("/a/x/y"));
        assert_eq!(lexical(Path::new("/../.."), Path::new("/a")), Path::new("/"));
    }

    #[test]
    fn shared_directories_are_not_shown() {
        let home = Path::new("/home/u");
        for hidden in [
            "/",
            "/home",
            "/home/u",
            "/home/other",
            "/etc/ssl",
            "/proc/self",
            "/tmp",
            "/var",
        ] {
            assert!(reason_to_hide(Path::new(hidden), Some(home)).is_some(), "{hidden}");
        }
        for shown in ["/home/u/project", "/srv/data", "/tmp/x", "/work", "/opt/app"] {
            assert!(reason_to_hide(Path::new(shown), Some(home)).is_none(), "{shown}");
        }
    }

    #[test]
    fn the_state_directory_is_never_inside() {
        let state = Path::new("/home/u/.local/state/ringwall");
        assert!(check_state_apart(Path::new("/home/u/.local"), state).is_err());
        assert!(check_state_apart(Path::new("/home/u/.local/state/ringwall/x"), state).is_err());
        assert!(check_state_apart(Path::new("/home/u/project"), state).is_ok());
    }
}
