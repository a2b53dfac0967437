//! Out of a sandbox. What it says of itself may be a lie: nothing is written but below the destination, and through no link there.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt};
use std::path::{Path, PathBuf};

use ringwall_agent_proto::filesystem::{EntryInfo, FileType};
use rustix::fs::{AtFlags, FileType as LocalType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::{join, last};
use crate::failure::Failure;
use crate::remote::{CallError, Sandbox};
use crate::ui;

/// Most entries of one copy: a listing that never ends must.
const MAX_ENTRIES: usize = 1_000_000;
/// Deepest directory.
const MAX_DEPTH: usize = 200;

/// Prints a file.
pub(super) async fn to_output(sandbox: &Sandbox, path: &str) -> Result<(), Failure> {
    let mut response = sandbox.download(path).await?;
    while let Some(piece) = response.chunk().await.map_err(cut(path))? {
        if !ui::pass_out(&piece) {
            break;
        }
    }
    Ok(())
}

fn cut(path: &str) -> impl Fn(reqwest::Error) -> CallError {
    let path = path.to_owned();
    move |error| CallError::unreachable(&format!("the sandbox for the rest of {path}"), error)
}

/// Copies a file or directory.
pub(super) async fn to_path(sandbox: &Sandbox, from: &str, to: &Path) -> Result<(), Failure> {
    let entry = sandbox
        .stat(from)
        .await?
        .ok_or_else(|| Failure::usage(format!("there is no {from} in the sandbox")))?;
    let named = || {
        last(from).ok_or_else(|| {
            Failure::usage(format!("{from} has no name"))
                .hint("name the destination itself, one that does not exist yet")
        })
    };
    let is_directory = to.is_dir();
    match entry.kind {
        FileType::File => {
            let to = if is_directory || to.as_os_str().as_encoded_bytes().ends_with(b"/") {
                to.join(named()?)
            } else {
                to.to_owned()
            };
            one_file(sandbox, from, &entry, &to).await
        }
        FileType::Directory => {
            let wants_contents = from == "." || from.ends_with("/.");
            if to.exists() && !is_directory {
                return Err(Failure::usage(format!("{} is no directory", to.display())));
            }
            let to = if is_directory && !wants_contents {
                to.join(named()?)
            } else {
                to.to_owned()
            };
            tree(sandbox, from, &entry, &to).await
        }
        FileType::Symlink => Err(Failure::usage(format!("{from} is a link that leads nowhere"))),
        FileType::Unspecified => Err(Failure::usage(format!("{from} is no file or directory"))),
    }
}

/// A single file goes where the caller says, through links as well: that path is the caller's own.
async fn one_file(sandbox: &Sandbox, from: &str, entry: &EntryInfo, to: &Path) -> Result<(), Failure> {
    let failed = |error| Failure::own(format!("can't write {}: {error}", to.display()));
    let response = sandbox.download(from).await?;
    let mut file = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(i32::try_from(OFlags::NOCTTY.bits()).unwrap_or(0))
        .open(to)
        .map_err(failed)?;
    write(response, &mut file, from, to).await?;
    // A device or pipe keeps its own.
    if file.metadata().is_ok_and(|found| found.is_file()) {
        file.set_permissions(PermissionsExt::from_mode(entry.mode & 0o777))
            .map_err(failed)?;
    }
    Ok(())
}

async fn write(mut response: reqwest::Response, file: &mut File, from: &str, to: &Path) -> Result<(), Failure> {
    while let Some(piece) = response.chunk().await.map_err(cut(from))? {
        file.write_all(&piece)
            .map_err(|error| Failure::own(format!("can't write {}: {error}", to.display())))?;
    }
    Ok(())
}

/// A directory on its way: where it is there, where it goes below the destination, how deep it is.
struct Step {
    there: String,
    here: PathBuf,
    depth: usize,
}

async fn tree(sandbox: &Sandbox, from: &str, entry: &EntryInfo, to: &Path) -> Result<(), Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::own(format!("can't write {}: {error}", to.display()));
    match std::fs::create_dir(to) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(&error)),
        _ => {}
    }
    let root = rustix::fs::open(to, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| failed(&error))?;
    let mut links = Vec::new();
    // Set last: a directory may not be writable.
    let mut modes = vec![(PathBuf::from("."), entry.mode)];
    let mut pending = vec![Step {
        there: from.to_owned(),
        here: PathBuf::new(),
        depth: 0,
    }];
    let mut count = 0;
    while let Some(step) = pending.pop() {
        for entry in sandbox.list(&step.there).await? {
            count += 1;
            if count > MAX_ENTRIES || step.depth > MAX_DEPTH {
                return Err(Failure::own(format!("{from} has too many entries, or lies too deep")));
            }
            let name = safe_name(&entry)?;
            let (there, here) = (join(&step.there, name), step.here.join(name));
            let at = |error: Errno| failure(&to.join(&here), error);
            if let (true, Some(target)) = (entry.is_symlink, &entry.symlink_target) {
                links.push((here, target.clone()));
            } else if entry.kind == FileType::Directory {
                make_directory(root.as_fd(), &here).map_err(at)?;
                modes.push((here.clone(), entry.mode));
                pending.push(Step {
                    there,
                    here,
                    depth: step.depth + 1,
                });
            } else if entry.kind == FileType::File {
                let response = match sandbox.download(&there).await {
                    Err(error) if error.is_not_found() => {
                        ui::note(&format!("{there} is gone meanwhile"));
                        continue;
                    }
                    result => result?,
                };
                let mut file = File::from(create_file(root.as_fd(), &here).map_err(at)?);
                write(response, &mut file, &there, &to.join(&here)).await?;
                file.set_permissions(PermissionsExt::from_mode(entry.mode & 0o777))
                    .map_err(|error| failed(&error))?;
            } else {
                ui::note(&format!("{there} is left out: no file, directory or link"));
            }
        }
    }
    // Last, so that nothing above could have been led astray by one.
    for (here, target) in links {
        make_link(root.as_fd(), &here, &target).map_err(|error| failure(&to.join(&here), error))?;
    }
    for (here, mode) in modes.into_iter().rev() {
        let directory = open_directory(root.as_fd(), &here).map_err(|error| failure(&to.join(&here), error))?;
        rustix::fs::fchmod(&directory, Mode::from_bits_truncate(mode & 0o777)).map_err(|error| failed(&error))?;
    }
    Ok(())
}

fn failure(path: &Path, error: Errno) -> Failure {
    match error {
        Errno::LOOP => Failure::own(format!("{} is, or lies behind, a symbolic link here", path.display()))
            .hint("copy to a directory that does not exist yet"),
        error => Failure::own(format!("can't write {}: {error}", path.display())),
    }
}

/// The name of an entry, if it can be one.
fn safe_name(entry: &EntryInfo) -> Result<&str, Failure> {
    let name = entry.name.as_str();
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
        return Err(Failure::own(format!("the sandbox lists an impossible name: {name:?}")));
    }
    Ok(name)
}

/// Opens below the destination; links are never followed.
fn open_below(root: BorrowedFd<'_>, path: &Path, flags: OFlags, mode: Mode) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, mode, resolve)
}

fn open_directory(root: BorrowedFd<'_>, path: &Path) -> rustix::io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    open_below(root, path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
}

/// Opens the directory that a path lies in, and returns its last component.
fn parent<'a>(root: BorrowedFd<'_>, path: &'a Path) -> rustix::io::Result<(OwnedFd, &'a std::ffi::OsStr)> {
    let name = path.file_name().ok_or(Errno::INVAL)?;
    Ok((open_directory(root, path.parent().unwrap_or(Path::new("")))?, name))
}

fn make_directory(root: BorrowedFd<'_>, path: &Path) -> rustix::io::Result<()> {
    let (parent, name) = parent(root, path)?;
    match rustix::fs::mkdirat(&parent, name, Mode::RWXU) {
        Err(Errno::EXIST) => open_directory(root, path).map(drop),
        result => result,
    }
}

fn create_file(root: BorrowedFd<'_>, path: &Path) -> rustix::io::Result<OwnedFd> {
    // Not waiting: a pipe in the way would never be read.
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NONBLOCK | OFlags::NOCTTY;
    open_below(root, path, flags, Mode::RUSR | Mode::WUSR)
}

fn make_link(root: BorrowedFd<'_>, path: &Path, target: &str) -> rustix::io::Result<()> {
    let (parent, name) = parent(root, path)?;
    match rustix::fs::symlinkat(target, &parent, name) {
        Err(Errno::EXIST) => {
            // Only a link gives way to a link.
            let found = rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
            if LocalType::from_raw_mode(found.st_mode) != LocalType::Symlink {
                return Err(Errno::EXIST);
            }
            rustix::fs::unlinkat(&parent, name, AtFlags::empty())?;
            rustix::fs::symlinkat(target, &parent, name)
        }
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_written_through_a_link() {
        let directory = tempfile::tempdir().unwrap();
        let outside = directory.path().join("outside");
        let inside = directory.path().join("inside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::create_dir(&inside).unwrap();
        std::os::unix::fs::symlink(&outside, inside.join("a")).unwrap();
        let root = rustix::fs::open(&inside, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let root = root.as_fd();
        assert_eq!(create_file(root, Path::new("a/x")).unwrap_err(), Errno::LOOP);
        assert_eq!(make_directory(root, Path::new("a")).unwrap_err(), Errno::LOOP);
        assert_eq!(make_link(root, Path::new("a/x"), "t").unwrap_err(), Errno::LOOP);
        assert_eq!(create_file(root, Path::new("../x")).unwrap_err(), Errno::XDEV);
        make_link(root, Path::new("a"), "new").unwrap();
        assert_eq!(std::fs::read_link(inside.join("a")).unwrap(), Path::new("new"));
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
        create_file(root, Path::new("f")).unwrap();
        assert_eq!(make_link(root, Path::new("f"), "t").unwrap_err(), Errno::EXIST);
    }

    #[test]
    fn impossible_names_are_refused() {
        let named = |name: &str| EntryInfo {
            name: name.to_owned(),
            ..EntryInfo::default()
        };
        for bad in ["", ".", "..", "a/b", "a\0b"] {
            assert!(safe_name(&named(bad)).is_err(), "{bad:?}");
        }
        assert_eq!(safe_name(&named("..a")).unwrap(), "..a");
    }
}
