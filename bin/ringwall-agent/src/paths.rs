//! From a client's path to an absolute one, and opening what may be anything.

use std::fs::File;
use std::io;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};

use crate::users::User;

/// Why a path was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PathError {
    #[error("the path is empty")]
    Empty,
    #[error("the path contains a NUL byte")]
    Nul,
    #[error("the home directories of other users are not known here: write the path in full")]
    OtherHome,
}

/// Makes a path absolute: `~` and relative paths are the user's home. `.` and `..` are resolved by name, as clients see them in answers.
pub(crate) fn resolve(path: &str, user: &User) -> Result<PathBuf, PathError> {
    if path.is_empty() {
        return Err(PathError::Empty);
    }
    if path.contains('\0') {
        return Err(PathError::Nul);
    }
    let joined = match path.strip_prefix('~') {
        Some("") => user.home.clone(),
        Some(rest) if rest.starts_with('/') => user.home.join(rest.trim_start_matches('/')),
        Some(_) => return Err(PathError::OtherHome),
        None => user.home.join(path),
    };
    Ok(clean(&joined))
}

fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for component in path.components() {
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

/// Opens a regular file for reading. A pipe or a device is refused without waiting for it.
pub(crate) fn open_regular(path: &Path) -> io::Result<File> {
    let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?;
    match FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode) {
        FileType::RegularFile => Ok(File::from(fd)),
        FileType::Directory => Err(io::ErrorKind::IsADirectory.into()),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_absolute() {
        let user = User {
            name: "user".to_owned(),
            home: "/home/user".into(),
            ids: None,
        };
        let resolved = |path| resolve(path, &user).map(|path| path.to_string_lossy().into_owned());
        assert_eq!(resolved("/a/./b/../c/").unwrap(), "/a/c");
        assert_eq!(resolved("a/b").unwrap(), "/home/user/a/b");
        assert_eq!(resolved("~").unwrap(), "/home/user");
        assert_eq!(resolved("~/x").unwrap(), "/home/user/x");
        assert_eq!(resolved("../../../..").unwrap(), "/");
        assert_eq!(resolved(""), Err(PathError::Empty));
        assert_eq!(resolved("a\0b"), Err(PathError::Nul));
        assert_eq!(resolved("~root/x"), Err(PathError::OtherHome));
    }
}
