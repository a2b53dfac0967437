//! Paths of a policy, by their text alone. Nothing here asks the file system: symlinks are met and judged when a run is planned.

use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// Longest path the kernel takes, without its final NUL (`PATH_MAX`, linux/limits.h).
pub(crate) const MAX_PATH_BYTES: usize = 4095;

/// Guest directories that the sandbox fills itself: what is mounted there, or below, would undo a protection.
const RESERVED: [&str; 3] = ["/proc", "/dev", "/sys"];

/// Makes `path` absolute: a relative one is taken from `base`, which must be absolute and free of symlinks.
///
/// `..` at the front climbs from `base`, which is exact because of that. `..` behind a name is left in place (and refused by
/// [`crate::Policy::check`]): the name might be a symlink, so dropping the two could mean another directory than the kernel would.
#[must_use]
pub fn resolve_path(base: &Path, path: &Path) -> PathBuf {
    // A `~` that reached us was not expanded by a shell; the check explains that, so it has to see it.
    if path.has_root() || path.as_os_str().is_empty() || is_tilde(path) {
        return path.to_path_buf();
    }
    let mut full = base.to_path_buf();
    let mut climbing = true;
    for component in path.components() {
        match component {
            Component::ParentDir if climbing => {
                full.pop();
            }
            Component::CurDir => {}
            other => {
                climbing = false;
                full.push(other);
            }
        }
    }
    full
}

/// Returns whether `path` begins with a `~` meant for a shell.
pub(crate) fn is_tilde(path: &Path) -> bool {
    path.as_os_str().as_bytes().starts_with(b"~")
}

/// Returns whether a component is `..`.
pub(crate) fn has_parent_component(path: &Path) -> bool {
    path.components().any(|component| component == Component::ParentDir)
}

/// Returns whether `path` holds a NUL byte, which no system call can take.
pub(crate) fn has_nul(path: &Path) -> bool {
    path.as_os_str().as_bytes().contains(&0)
}

/// Returns the reserved directory that `guest` is, or lies below.
pub(crate) fn reserved_root(guest: &Path) -> Option<&'static str> {
    // Compared by components, so that `//proc/./x` counts too.
    if guest.components().eq(Path::new("/").components()) {
        return Some("/");
    }
    RESERVED.into_iter().find(|root| guest.starts_with(root))
}

/// Returns whether two paths are the same by their components.
pub(crate) fn same_path(one: &Path, other: &Path) -> bool {
    one == other || one.components().eq(other.components())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_paths_are_taken_from_the_base() {
        let base = Path::new("/home/u/project");
        for (given, wanted) in [
            ("data", "/home/u/project/data"),
            ("./data/.", "/home/u/project/data"),
            (".", "/home/u/project"),
            ("../other", "/home/u/other"),
            ("../../../../../x", "/x"),
            ("/abs/./x", "/abs/./x"),
            ("a/../b", "/home/u/project/a/../b"),
            ("~/x", "~/x"),
            ("", ""),
        ] {
            assert_eq!(resolve_path(base, Path::new(given)), Path::new(wanted), "{given}");
        }
    }

    #[test]
    fn reserved_places_are_seen_through_odd_spellings() {
        for (path, root) in [
            ("/", "/"),
            ("//", "/"),
            ("/.", "/"),
            ("/proc", "/proc"),
            ("//proc/./1", "/proc"),
            ("/dev/shm", "/dev"),
        ] {
            assert_eq!(reserved_root(Path::new(path)), Some(root), "{path}");
        }
        for path in ["/process", "/device", "/data/proc", "/system"] {
            assert_eq!(reserved_root(Path::new(path)), None, "{path}");
        }
    }
}
