//! What a stack of layers looks like from inside, without mounting it: paths resolved through links, small files read.

use std::io::Read;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, OFlags, Stat};

use crate::stacks::{CompareError, Seen, Stack};

/// Most links followed on one path, as in the kernel (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// A stack of layers, seen as one tree.
pub struct MergedView<'a> {
    stack: Stack<'a>,
}

impl std::fmt::Debug for MergedView<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MergedView")
    }
}

/// Where a path leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The path without links, relative to the root.
    pub path: PathBuf,
    /// Mode, user and group id of what is there; `None` when nothing is.
    pub attributes: Option<(u32, u32, u32)>,
    /// Whether it is a directory.
    pub is_dir: bool,
}

impl<'a> MergedView<'a> {
    /// Opens layers, the topmost first.
    ///
    /// # Errors
    /// A layer that can't be opened.
    pub fn open(layers: &'a [PathBuf]) -> Result<Self, CompareError> {
        Ok(MergedView {
            stack: Stack::open(layers)?,
        })
    }

    /// Resolves an absolute path, following links within the root, also where its last parts are missing.
    ///
    /// # Errors
    /// What the file system says; [`CompareError::TooMuch`] for too many links.
    pub fn resolve(&self, path: &Path) -> Result<Found, CompareError> {
        let mut pending: Vec<PathBuf> = components(path).rev().collect();
        let mut here = PathBuf::new();
        let mut links = 0;
        while let Some(name) = pending.pop() {
            if name.as_os_str() == ".." {
                here.pop();
                continue;
            }
            let next = here.join(&name);
            match self.stack.find(&next)? {
                Seen::Leaf(layer, stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(CompareError::TooMuch);
                    }
                    let target = PathBuf::from(self.stack.link_target(layer, &next)?);
                    if target.is_absolute() {
                        here = PathBuf::new();
                    }
                    pending.extend(components(&target).collect::<Vec<_>>().into_iter().rev());
                }
                _ => here = next,
            }
        }
        let (attributes, is_dir) = match self.stack.find(&here)? {
            Seen::Nothing => (None, false),
            Seen::Leaf(_, stat) => (Some(attributes(&stat)), false),
            Seen::Directory(_, stat) => (Some(attributes(&stat)), true),
        };
        Ok(Found {
            path: here,
            attributes,
            is_dir,
        })
    }

    /// Reads a regular file of at most `most` bytes; `None` when there is none such.
    ///
    /// # Errors
    /// What the file system says.
    pub fn read(&self, path: &Path, most: u64) -> Result<Option<Vec<u8>>, CompareError> {
        let found = self.resolve(path)?;
        let Seen::Leaf(layer, stat) = self.stack.find(&found.path)? else {
            return Ok(None);
        };
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(None);
        }
        let failed = |source: std::io::Error| CompareError::Io {
            path: Path::new("/").join(&found.path),
            source,
        };
        let fd = self
            .stack
            .reach(layer, &found.path, OFlags::RDONLY | OFlags::NONBLOCK)
            .map_err(|error| failed(error.into()))?;
        let mut content = Vec::new();
        let file = std::fs::File::from(fd);
        file.take(most.saturating_add(1))
            .read_to_end(&mut content)
            .map_err(failed)?;
        Ok((content.len() as u64 <= most).then_some(content))
    }
}

fn attributes(stat: &Stat) -> (u32, u32, u32) {
    (stat.st_mode, stat.st_uid, stat.st_gid)
}

/// The parts of a path that say something.
fn components(path: &Path) -> impl DoubleEndedIterator<Item = PathBuf> + '_ {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(PathBuf::from(name)),
        Component::ParentDir => Some(PathBuf::from("..")),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_are_followed_within_the_root_only() {
        let dir = tempfile::tempdir().unwrap();
        let (top, base) = (dir.path().join("top"), dir.path().join("base"));
        fs::create_dir_all(base.join("usr/bin")).unwrap();
        fs::create_dir_all(base.join("etc")).unwrap();
        fs::write(base.join("etc/passwd"), "x").unwrap();
        fs::create_dir_all(&top).unwrap();
        symlink("usr/bin", base.join("bin")).unwrap();
        symlink("/../../etc", top.join("out")).unwrap();
        symlink("loop", top.join("loop")).unwrap();
        let layers = [top, base];
        let view = MergedView::open(&layers).unwrap();
        let found = view.resolve(Path::new("/bin/new/x")).unwrap();
        assert_eq!((found.path, found.attributes), (PathBuf::from("usr/bin/new/x"), None));
        assert!(view.resolve(Path::new("/bin")).unwrap().is_dir);
        // `..` at the root stays there.
        assert_eq!(view.read(Path::new("/out/passwd"), 10).unwrap().unwrap(), b"x");
        assert!(matches!(view.resolve(Path::new("/loop")), Err(CompareError::TooMuch)));
    }
}
