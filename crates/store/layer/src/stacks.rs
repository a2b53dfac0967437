//! Compares two stacks of overlayfs layers: what one root file system has that another has not.
//!
//! Both merged views are walked at once, by directory; a directory to which the same layers contribute on both sides is the same on both
//! and is not entered, so what stands on a common base costs only what was changed above it. Nothing is mounted. Everything below
//! a layer was written by an untrusted program: links are not followed, only regular files are read, and depth and numbers are bounded.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use thiserror::Error;

/// Most differences reported.
const MAX_DIFFERENCES: usize = 100_000;
/// Most entries looked at.
const MAX_ENTRIES: usize = 5_000_000;
/// Deepest directory looked into.
const MAX_DEPTH: usize = 256;
/// Most bytes of contents compared: a program can make a file of exabytes that takes no room.
const MAX_COMPARED_BYTES: u64 = 16 << 30;
/// Bytes compared at once.
const BLOCK_BYTES: usize = 64 << 10;

/// One difference, as seen going from the first stack to the second.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Difference {
    /// The path inside, absolute.
    pub path: PathBuf,
    /// What is different.
    pub kind: DifferenceKind,
}

/// What is different.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DifferenceKind {
    /// Only the second has it.
    Added,
    /// Only the first has it.
    Removed,
    /// Both have it, with other content, kind or link target.
    Content,
    /// Only mode or owner differ.
    Attributes,
}

/// Stacks that can't be compared.
#[derive(Debug, Error)]
pub enum CompareError {
    /// A layer or something in it can't be read.
    #[error("can't read {}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is more than is looked at.
    #[error(
        "there are more than {MAX_DIFFERENCES} differences, {MAX_ENTRIES} entries, {MAX_DEPTH} levels or {MAX_COMPARED_BYTES} bytes to compare"
    )]
    TooMuch,
}

/// A layer that contributes to a directory: which one.
pub(crate) type Contributors = Vec<usize>;

/// Something at a path of a merged view.
#[derive(Debug)]
pub(crate) enum Seen {
    Nothing,
    /// Not a directory: its layer and what it is.
    Leaf(usize, Box<Stat>),
    /// A directory: the layers that contribute to it, the topmost first, and the topmost one's attributes.
    Directory(Contributors, Box<Stat>),
}

/// Layers, opened, the topmost first.
pub(crate) struct Stack<'a> {
    roots: Vec<(&'a Path, OwnedFd)>,
}

/// Compares `from` with `to`; both are lists of layer directories, the topmost first.
///
/// # Errors
/// [`CompareError`].
pub fn compare_stacks(from: &[PathBuf], to: &[PathBuf]) -> Result<Vec<Difference>, CompareError> {
    let (from, to) = (Stack::open(from)?, Stack::open(to)?);
    let mut found = Vec::new();
    let mut looked_at = 0_usize;
    let mut compared_bytes = 0_u64;
    let whole = |stack: &Stack<'_>| (0..stack.roots.len()).collect::<Vec<usize>>();
    let mut pending: Vec<(PathBuf, Contributors, Contributors)> = vec![(PathBuf::new(), whole(&from), whole(&to))];
    while let Some((directory, left, right)) = pending.pop() {
        if directory.components().count() > MAX_DEPTH {
            return Err(CompareError::TooMuch);
        }
        let mut names = from.names(&directory, &left)?;
        names.extend(to.names(&directory, &right)?);
        for name in names {
            looked_at += 1;
            if looked_at > MAX_ENTRIES || found.len() > MAX_DIFFERENCES {
                return Err(CompareError::TooMuch);
            }
            let path = directory.join(&name);
            let (one, two) = (from.look(&path, &left)?, to.look(&path, &right)?);
            let mut note = |kind| {
                found.push(Difference {
                    path: Path::new("/").join(&path),
                    kind,
                });
            };
            match (one, two) {
                (Seen::Nothing, Seen::Nothing) => {}
                (Seen::Nothing, Seen::Leaf(..)) => note(DifferenceKind::Added),
                (Seen::Leaf(..), Seen::Nothing) => note(DifferenceKind::Removed),
                (Seen::Nothing, Seen::Directory(layers, _)) => {
                    note(DifferenceKind::Added);
                    pending.push((path, Vec::new(), layers));
                }
                (Seen::Directory(layers, _), Seen::Nothing) => {
                    note(DifferenceKind::Removed);
                    pending.push((path, layers, Vec::new()));
                }
                (Seen::Leaf(..), Seen::Directory(layers, _)) => {
                    note(DifferenceKind::Content);
                    pending.push((path, Vec::new(), layers));
                }
                (Seen::Directory(layers, _), Seen::Leaf(..)) => {
                    note(DifferenceKind::Content);
                    pending.push((path, layers, Vec::new()));
                }
                (Seen::Leaf(one_layer, one_stat), Seen::Leaf(two_layer, two_stat)) => {
                    if same_inode(&one_stat, &two_stat) {
                        continue;
                    }
                    if one_stat.st_size == two_stat.st_size {
                        compared_bytes =
                            compared_bytes.saturating_add(u64::try_from(one_stat.st_size).unwrap_or(u64::MAX));
                    }
                    if compared_bytes > MAX_COMPARED_BYTES {
                        return Err(CompareError::TooMuch);
                    }
                    if !same_content(&from, one_layer, &one_stat, &to, two_layer, &two_stat, &path)? {
                        note(DifferenceKind::Content);
                    } else if attributes(&one_stat) != attributes(&two_stat) {
                        note(DifferenceKind::Attributes);
                    }
                }
                (Seen::Directory(one_layers, one_stat), Seen::Directory(two_layers, two_stat)) => {
                    if attributes(&one_stat) != attributes(&two_stat) {
                        note(DifferenceKind::Attributes);
                    }
                    if from.paths(&one_layers) != to.paths(&two_layers) {
                        pending.push((path, one_layers, two_layers));
                    }
                }
            }
        }
    }
    found.sort();
    Ok(found)
}

fn attributes(stat: &Stat) -> (u32, u32, u32) {
    (stat.st_mode, stat.st_uid, stat.st_gid)
}

fn same_inode(one: &Stat, two: &Stat) -> bool {
    (one.st_dev, one.st_ino) == (two.st_dev, two.st_ino)
}

impl<'a> Stack<'a> {
    pub(crate) fn open(layers: &'a [PathBuf]) -> Result<Self, CompareError> {
        let mut roots = Vec::with_capacity(layers.len());
        for layer in layers {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            match rustix::fs::openat(CWD, layer, flags, Mode::empty()) {
                Ok(fd) => roots.push((layer.as_path(), fd)),
                Err(error) => return Err(at(layer)(error)),
            }
        }
        Ok(Stack { roots })
    }

    fn paths(&self, layers: &[usize]) -> Vec<&'a Path> {
        layers
            .iter()
            .filter_map(|&layer| Some(self.roots.get(layer)?.0))
            .collect()
    }

    /// What the merged view has at a path, looked up from the root. No link is followed.
    pub(crate) fn find(&self, path: &Path) -> Result<Seen, CompareError> {
        let mut layers: Contributors = (0..self.roots.len()).collect();
        let mut here = PathBuf::new();
        let mut components = path.components().peekable();
        while let Some(component) = components.next() {
            here.push(component);
            match self.look(&here, &layers)? {
                Seen::Directory(below, _) if components.peek().is_some() => layers = below,
                Seen::Leaf(..) if components.peek().is_some() => return Ok(Seen::Nothing),
                seen => return Ok(seen),
            }
        }
        let root = self.reach(0, Path::new(""), OFlags::PATH).map_err(at(path))?;
        let stat = rustix::fs::fstat(&root).map_err(at(path))?;
        Ok(Seen::Directory(layers, Box::new(stat)))
    }

    /// Opens something of a layer, never through a link and never outside of it.
    pub(crate) fn reach(&self, layer: usize, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        let (_, root) = self.roots.get(layer).ok_or(Errno::NOENT)?;
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(
            root,
            path,
            flags | OFlags::CLOEXEC | OFlags::NOFOLLOW,
            Mode::empty(),
            resolve,
        )
    }

    /// Names in a directory of the merged view, whiteouts among them.
    fn names(&self, directory: &Path, layers: &[usize]) -> Result<BTreeSet<OsString>, CompareError> {
        let mut names = BTreeSet::new();
        for &layer in layers {
            let fd = self
                .reach(layer, directory, OFlags::RDONLY | OFlags::DIRECTORY)
                .map_err(at(directory))?;
            for entry in Dir::read_from(&fd).map_err(at(directory))? {
                let entry = entry.map_err(at(directory))?;
                let name = entry.file_name().to_bytes();
                if name != b"." && name != b".." {
                    names.insert(OsString::from_vec(name.to_vec()));
                }
                if names.len() > MAX_ENTRIES {
                    return Err(CompareError::TooMuch);
                }
            }
        }
        Ok(names)
    }

    /// What the merged view has at a path, given the layers that contribute to the directory above.
    fn look(&self, path: &Path, layers: &[usize]) -> Result<Seen, CompareError> {
        let mut found: Option<(Contributors, Box<Stat>)> = None;
        for &layer in layers {
            let fd = match self.reach(layer, path, OFlags::PATH) {
                Ok(fd) => fd,
                // openat2(2) says ELOOP of a link at the end: it is then looked at from above.
                Err(Errno::LOOP) => match self.stat_link(layer, path)? {
                    Some(_) if found.is_some() => break,
                    Some(stat) => return Ok(Seen::Leaf(layer, Box::new(stat))),
                    None => continue,
                },
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(at(path)(error)),
            };
            let stat = rustix::fs::fstat(&fd).map_err(at(path))?;
            let kind = FileType::from_raw_mode(stat.st_mode);
            if is_whiteout(kind, &stat) {
                break;
            }
            if kind != FileType::Directory {
                if found.is_some() {
                    break;
                }
                return Ok(Seen::Leaf(layer, Box::new(stat)));
            }
            let is_opaque = self.is_opaque(layer, path)?;
            match &mut found {
                Some((contributors, _)) => contributors.push(layer),
                None => found = Some((vec![layer], Box::new(stat))),
            }
            if is_opaque {
                break;
            }
        }
        Ok(found.map_or(Seen::Nothing, |(layers, stat)| Seen::Directory(layers, stat)))
    }

    fn stat_link(&self, layer: usize, path: &Path) -> Result<Option<Stat>, CompareError> {
        let parent = self
            .reach(
                layer,
                path.parent().unwrap_or(Path::new("")),
                OFlags::PATH | OFlags::DIRECTORY,
            )
            .map_err(at(path))?;
        let Some(name) = path.file_name() else { return Ok(None) };
        match rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(at(path)(error)),
        }
    }

    /// Where a symbolic link of a layer points to.
    pub(crate) fn link_target(&self, layer: usize, path: &Path) -> Result<OsString, CompareError> {
        let parent = path.parent().unwrap_or(Path::new(""));
        let parent = self
            .reach(layer, parent, OFlags::PATH | OFlags::DIRECTORY)
            .map_err(at(path))?;
        let name = path.file_name().unwrap_or_default();
        let text = rustix::fs::readlinkat(parent.as_fd(), name, Vec::new()).map_err(at(path))?;
        Ok(OsString::from_vec(text.into_bytes()))
    }

    /// Whether a directory hides what is below it (overlayfs.rst, "whiteouts and opaque directories"), with `userxattr`.
    fn is_opaque(&self, layer: usize, path: &Path) -> Result<bool, CompareError> {
        let fd = self
            .reach(layer, path, OFlags::RDONLY | OFlags::DIRECTORY)
            .map_err(at(path))?;
        let mut value = [0_u8; 1];
        match rustix::fs::fgetxattr(&fd, "user.overlay.opaque", &mut value[..]) {
            Ok(1) => Ok(value == *b"y"),
            Ok(_) | Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE) => Ok(false),
            Err(error) => Err(at(path)(error)),
        }
    }
}

/// A character device 0:0 (overlayfs.rst).
fn is_whiteout(kind: FileType, stat: &Stat) -> bool {
    kind == FileType::CharacterDevice && stat.st_rdev == 0
}

fn at(path: &Path) -> impl FnOnce(Errno) -> CompareError + '_ {
    move |error| CompareError::Io {
        path: Path::new("/").join(path),
        source: error.into(),
    }
}

fn same_content(
    from: &Stack<'_>,
    one_layer: usize,
    one: &Stat,
    to: &Stack<'_>,
    two_layer: usize,
    two: &Stat,
    path: &Path,
) -> Result<bool, CompareError> {
    let kind = FileType::from_raw_mode(one.st_mode);
    if kind != FileType::from_raw_mode(two.st_mode) {
        return Ok(false);
    }
    match kind {
        FileType::RegularFile if one.st_size != two.st_size => Ok(false),
        FileType::RegularFile => {
            let open = |stack: &Stack<'_>, layer| -> Result<std::fs::File, CompareError> {
                let fd = stack
                    .reach(layer, path, OFlags::RDONLY | OFlags::NONBLOCK)
                    .map_err(at(path))?;
                Ok(std::fs::File::from(fd))
            };
            same_bytes(open(from, one_layer)?, open(to, two_layer)?).map_err(|source| CompareError::Io {
                path: Path::new("/").join(path),
                source,
            })
        }
        FileType::Symlink => Ok(from.link_target(one_layer, path)? == to.link_target(two_layer, path)?),
        // Sockets and pipes have no content of their own.
        _ => Ok(one.st_rdev == two.st_rdev),
    }
}

fn same_bytes(mut one: impl Read, mut two: impl Read) -> io::Result<bool> {
    let (mut left, mut right) = (vec![0; BLOCK_BYTES], vec![0; BLOCK_BYTES]);
    loop {
        let (count, other) = (fill(&mut one, &mut left)?, fill(&mut two, &mut right)?);
        if left.get(..count) != right.get(..other) {
            return Ok(false);
        }
        if count == 0 {
            return Ok(true);
        }
    }
}

fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut count = 0;
    while let Some(rest) = buffer.get_mut(count..).filter(|rest| !rest.is_empty()) {
        match from.read(rest)? {
            0 => break,
            more => count += more,
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn layer(root: &Path, name: &str, files: &[(&str, &str)]) -> PathBuf {
        let layer = root.join(name);
        fs::create_dir_all(&layer).unwrap();
        for (path, content) in files {
            let path = layer.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        layer
    }

    fn whiteout(path: &Path) -> bool {
        rustix::fs::mknodat(CWD, path, FileType::CharacterDevice, Mode::empty(), 0).is_ok()
    }

    #[test]
    fn what_is_above_a_common_base_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let base = layer(
            dir.path(),
            "base",
            &[("etc/a", "1"), ("etc/b", "2"), ("home/x/y", "3"), ("old", "o")],
        );
        let one = layer(dir.path(), "one", &[("etc/a", "changed"), ("new/deep/f", "n")]);
        let two = layer(dir.path(), "two", &[("etc/b", "2")]);
        symlink("/etc/shadow", two.join("link")).unwrap();
        let from = [one.clone(), base.clone()];
        let to = [two, base.clone()];
        let found = compare_stacks(&from, &to).unwrap();
        let text: Vec<String> = found
            .iter()
            .map(|difference| format!("{:?} {}", difference.kind, difference.path.display()))
            .collect();
        assert_eq!(
            text,
            [
                "Content /etc/a",
                "Added /link",
                "Removed /new",
                "Removed /new/deep",
                "Removed /new/deep/f",
            ]
        );
        assert!(compare_stacks(&from, &from).unwrap().is_empty());
    }

    #[test]
    fn a_file_of_exabytes_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (
            layer(dir.path(), "one", &[("f", "")]),
            layer(dir.path(), "two", &[("f", "")]),
        );
        for layer in [&one, &two] {
            // As much as the file system takes.
            let file = fs::File::options().write(true).open(layer.join("f")).unwrap();
            file.set_len(15 << 40).unwrap();
        }
        let found = compare_stacks(std::slice::from_ref(&one), std::slice::from_ref(&two));
        assert!(matches!(found, Err(CompareError::TooMuch)), "{found:?}");
    }

    #[test]
    fn whiteouts_and_opaque_directories_hide_what_is_below() {
        let dir = tempfile::tempdir().unwrap();
        let base = layer(dir.path(), "base", &[("d/a", "1"), ("d/b", "2"), ("gone", "3")]);
        let top = layer(dir.path(), "top", &[("d/b", "2")]);
        if !whiteout(&top.join("gone")) {
            return assert!(!rustix::process::geteuid().is_root(), "root can make whiteouts");
        }
        rustix::fs::setxattr(
            top.join("d"),
            "user.overlay.opaque",
            b"y",
            rustix::fs::XattrFlags::empty(),
        )
        .unwrap();
        let found = compare_stacks(std::slice::from_ref(&base), &[top, base.clone()]).unwrap();
        let paths: Vec<_> = found
            .iter()
            .map(|found| (found.kind, found.path.display().to_string()))
            .collect();
        assert_eq!(
            paths,
            [
                (DifferenceKind::Removed, "/d/a".to_owned()),
                (DifferenceKind::Removed, "/gone".to_owned())
            ]
        );
    }
}
