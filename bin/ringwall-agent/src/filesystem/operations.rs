//! Calls that end at once. All block, so they run on a blocking thread, with the rights of their user.

use std::io;
use std::path::Path;

use ringwall_agent_proto::filesystem::{EntryInfo, EntryResponse, ListDirResponse};
use ringwall_agent_proto::process::Empty;
use ringwall_agent_proto::{Code, RpcError};

use super::entry::{Accounts, describe};
use super::failure::failure;

/// Most entries in one listing: about 16 MiB of answer.
const MAX_ENTRIES: usize = 50_000;

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
        Ok(found) if found.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failure(path, &error)),
        _ => Ok(Empty {}),
    }
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
