//! Calls that end at once. All block, so they run on a blocking thread, with the rights of their user.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;

use ringwall_agent_proto::filesystem::{EntryInfo, EntryResponse, ListDirResponse};
use ringwall_agent_proto::process::Empty;
use ringwall_agent_proto::{Code, RpcError};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::entry::{Accounts, describe};
use super::failure::failure;

/// Most entries in one listing: about 16 MiB of answer.
const MAX_ENTRIES: usize = 50_000;

/// Deepest directory removed: each level holds a descriptor.
const MAX_REMOVED_DEPTH: usize = 1000;

/// `Stat`.
pub(super) fn stat(path: &Path) -> Result<EntryResponse, RpcError> {
    let entry = describe(path, &Accounts::read()).map_err(|error| failure(path, &error))?;
    Ok(EntryResponse { entry })
}

/// `MakeDir`, with parents.
pub(super) fn make_dir(path: &Path) -> Result<EntryResponse, RpcError> {
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => Err(RpcError::new(
            Code::AlreadyExists,
            format!("directory '{}' already exists", path.display()),
        )),
        Ok(_) => Err(RpcError::new(
            Code::InvalidArgument,
            format!("path '{}' exists and is not a directory", path.display()),
        )),
        Err(_) => {
            std::fs::create_dir_all(path).map_err(|error| failure(path, &error))?;
            stat(path)
        }
    }
}

/// `Move`; makes the parents of the destination.
pub(super) fn rename(source: &Path, destination: &Path) -> Result<EntryResponse, RpcError> {
    std::fs::symlink_metadata(source).map_err(|error| failure(source, &error))?;
    if let Some(parent) = destination.parent() {
        std::fs::create_dir_all(parent).map_err(|error| failure(parent, &error))?;
    }
    std::fs::rename(source, destination).map_err(|error| failure(destination, &error))?;
    stat(destination)
}

/// `Remove`, with all below. What is not there is removed already.
pub(super) fn remove(path: &Path) -> Result<Empty, RpcError> {
    let removed = match std::fs::symlink_metadata(path) {
        Ok(_) if path == Path::new("/") => {
            return Err(RpcError::new(
                Code::InvalidArgument,
                "the root directory can't be removed",
            ));
        }
        Ok(found) if found.is_dir() => remove_tree(path),
        Ok(_) => std::fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failure(path, &error)),
        _ => Ok(Empty {}),
    }
}

/// Removes a directory and all below it, without recursion: how deep it is was a program's choice, and the stack is ours.
fn remove_tree(path: &Path) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let parent = path.parent().unwrap_or(Path::new("/"));
    let name = path.file_name().unwrap_or_default().to_owned();
    let top = rustix::fs::open(parent, flags, Mode::empty())?;
    // From the top down: a directory held open, and the name it has in the one above.
    let mut way: Vec<(OwnedFd, OsString)> = vec![(top, name)];
    while let Some((above, name)) = way.last() {
        match rustix::fs::unlinkat(above, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {
                way.pop();
                continue;
            }
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        if way.len() > MAX_REMOVED_DEPTH {
            return Err(io::Error::other(format!(
                "it is more than {MAX_REMOVED_DEPTH} directories deep: remove it by a command"
            )));
        }
        let here = rustix::fs::openat(above, name, flags, Mode::empty())?;
        let mut below = None;
        for entry in rustix::fs::Dir::read_from(&here)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            match rustix::fs::unlinkat(&here, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                // One at a time: the others are found again when this one is gone.
                Err(Errno::ISDIR) => {
                    below = Some(OsString::from_vec(name.to_bytes().to_vec()));
                    break;
                }
                Err(error) => return Err(error.into()),
            }
        }
        if let Some(name) = below {
            way.push((here, name));
        }
    }
    Ok(())
}

/// `ListDir`: `depth` levels, each directory before what it holds, sorted by name. Links are not followed, the first excepted.
pub(super) fn list(path: &Path, depth: u32) -> Result<ListDirResponse, RpcError> {
    let found = std::fs::metadata(path).map_err(|error| failure(path, &error))?;
    if !found.is_dir() {
        return Err(RpcError::new(
            Code::InvalidArgument,
            format!("path '{}' is not a directory", path.display()),
        ));
    }
    let mut entries = Vec::new();
    let accounts = Accounts::read();
    // A list of what is still to visit instead of recursion: depth is the client's to choose, the stack is ours.
    let mut pending = children(path, depth.max(1)).map_err(|error| failure(path, &error))?;
    while let Some((path, levels)) = pending.pop() {
        // What vanishes meanwhile was never there.
        let Ok(entry) = describe(&path, &accounts) else {
            continue;
        };
        if levels > 1
            && entry.kind == ringwall_agent_proto::filesystem::FileType::Directory
            && !entry.is_symlink
            && let Ok(below) = children(&path, levels.saturating_sub(1))
        {
            pending.extend(below);
        }
        entries.push(entry);
        if entries.len().saturating_add(pending.len()) > MAX_ENTRIES {
            return Err(RpcError::new(
                Code::ResourceExhausted,
                format!("the listing has more than {MAX_ENTRIES} entries: ask for less depth"),
            ));
        }
    }
    Ok(ListDirResponse { entries })
}

/// What a directory holds, the last name first, so that a stack gives the first.
fn children(path: &Path, levels: u32) -> io::Result<Vec<(std::path::PathBuf, u32)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path)?.take(MAX_ENTRIES.saturating_add(1)) {
        found.push((entry?.path(), levels));
    }
    found.sort_unstable_by(|left, right| right.cmp(left));
    Ok(found)
}

/// The entry of a path, if it is there.
pub(super) fn entry(path: &Path, accounts: &Accounts) -> Option<EntryInfo> {
    describe(path, accounts).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listings_go_as_deep_as_asked() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        std::fs::create_dir_all(root.join("b/c/d")).unwrap();
        std::fs::write(root.join("a"), "x").unwrap();
        std::os::unix::fs::symlink(root, root.join("b/loop")).unwrap();
        let names = |depth| -> Vec<String> {
            let listed = list(root, depth).unwrap();
            listed.entries.into_iter().map(|entry| entry.name).collect()
        };
        assert_eq!(names(0), ["a", "b"]);
        assert_eq!(names(2), ["a", "b", "c", "loop"]);
        assert_eq!(names(u32::MAX), ["a", "b", "c", "d", "loop"]);
        assert_eq!(list(&root.join("a"), 1).unwrap_err().code, Code::InvalidArgument);
        assert_eq!(list(&root.join("x"), 1).unwrap_err().code, Code::NotFound);
    }

    #[test]
    fn a_deep_tree_is_removed_or_refused_on_a_small_stack() {
        let directory = tempfile::tempdir().unwrap();
        let make = |name: &str, depth: usize| {
            let flags = OFlags::PATH | OFlags::CLOEXEC;
            let mut here = rustix::fs::open(directory.path(), flags, Mode::empty()).unwrap();
            for _ in 0..depth {
                rustix::fs::mkdirat(&here, name, Mode::RWXU).unwrap();
                here = rustix::fs::openat(&here, name, flags, Mode::empty()).unwrap();
                rustix::fs::symlinkat("/etc", &here, "link").unwrap();
            }
            directory.path().join(name)
        };
        let (deep, deeper) = (make("d", 900), make("e", 3000));
        let removed = std::thread::Builder::new().stack_size(128 << 10).spawn(move || {
            let refused = remove(&deeper).unwrap_err().message;
            (remove(&deep).is_ok(), deep.exists(), refused)
        });
        let (is_ok, is_left, refused) = removed.unwrap().join().unwrap();
        assert!(is_ok && !is_left);
        assert!(refused.contains("directories deep"), "{refused}");
        assert!(Path::new("/etc/passwd").exists());
        // So that the temporary directory can be removed by those who recurse.
        let status = std::process::Command::new("rm")
            .arg("-rf")
            .arg(directory.path().join("e"))
            .status();
        assert!(status.unwrap().success());
    }

    #[test]
    fn removing_twice_is_fine() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/b");
        make_dir(&path).unwrap();
        assert_eq!(make_dir(&path).unwrap_err().code, Code::AlreadyExists);
        let parent = directory.path().join("a");
        remove(&parent).unwrap();
        remove(&parent).unwrap();
        assert_eq!(stat(&path).unwrap_err().code, Code::NotFound);
        assert_eq!(remove(Path::new("/")).unwrap_err().code, Code::InvalidArgument);
    }
}
