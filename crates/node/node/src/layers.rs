//! Layers on disk: directories in overlayfs's form. A layer never changes once it has an id; it is removed when no record names it.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use ringwall_layer::remove_hostile_tree;

use crate::ids;

/// The directories that a node keeps.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    /// Everything below here is the node's.
    pub(crate) root: PathBuf,
    /// Held while the trash is emptied: two at the same tree would take each other's entries away.
    emptying: Arc<Mutex<()>>,
}

impl Places {
    pub(crate) fn new(root: PathBuf) -> Self {
        Places {
            root,
            emptying: Arc::default(),
        }
    }

    /// State of sandboxes: one directory each, with its lock, its keeper's record, its writable layer and its sockets.
    pub(crate) fn sandboxes(&self) -> PathBuf {
        self.root.join("sandboxes")
    }

    pub(crate) fn sandbox(&self, id: &str) -> PathBuf {
        self.sandboxes().join(id)
    }

    pub(crate) fn layers(&self) -> PathBuf {
        self.root.join("layers")
    }

    pub(crate) fn layer(&self, id: &str) -> PathBuf {
        self.layers().join(id)
    }

    /// Archives uploaded for COPY, by hash.
    pub(crate) fn uploads(&self) -> PathBuf {
        self.root.join("uploads")
    }

    /// Blobs of images.
    pub(crate) fn blobs(&self) -> PathBuf {
        self.root.join("blobs")
    }

    /// What is on its way out.
    pub(crate) fn trash(&self) -> PathBuf {
        self.root.join("trash")
    }

    /// What is being made.
    pub(crate) fn fresh(&self) -> PathBuf {
        self.root.join("new")
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.root.join("node.db")
    }

    /// Makes all directories.
    pub(crate) fn prepare(&self) -> io::Result<()> {
        for directory in [
            self.root.clone(),
            self.sandboxes(),
            self.layers(),
            self.uploads(),
            self.blobs(),
            self.trash(),
            self.fresh(),
        ] {
            fs::create_dir_all(&directory)?;
            fs::set_permissions(&directory, fs::Permissions::from_mode(0o700))?;
        }
        Ok(())
    }

    /// Takes a directory out of sight at once; [`Places::empty_trash`] removes it later. A missing one is no error.
    pub(crate) fn discard(&self, path: &Path) -> io::Result<()> {
        match fs::rename(path, self.trash().join(ids::layer())) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    /// Removes what was discarded.
    pub(crate) fn empty_trash(&self) {
        let _turn = self.emptying.lock().unwrap_or_else(PoisonError::into_inner);
        for entry in fs::read_dir(self.trash()).into_iter().flatten().flatten() {
            if let Err(error) = remove_hostile_tree(&entry.path()) {
                tracing::warn!(path = %entry.path().display(), %error, "can't remove what was discarded");
            }
        }
    }

    /// Discards every layer that is not in `used`, and everything half made.
    pub(crate) fn sweep(&self, used: &HashSet<String>) -> io::Result<usize> {
        let mut swept = 0;
        for entry in fs::read_dir(self.layers())? {
            let entry = entry?;
            if !entry.file_name().to_str().is_some_and(|name| used.contains(name)) {
                self.discard(&entry.path())?;
                swept += 1;
            }
        }
        for entry in fs::read_dir(self.fresh())? {
            self.discard(&entry?.path())?;
        }
        Ok(swept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shut_directories_are_removed_and_links_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let places = Places::new(dir.path().join("node"));
        places.prepare().unwrap();
        let kept = dir.path().join("kept");
        fs::create_dir(&kept).unwrap();
        fs::write(kept.join("file"), "x").unwrap();
        let layer = places.layer("lx");
        fs::create_dir_all(layer.join("a/b")).unwrap();
        std::os::unix::fs::symlink(&kept, layer.join("a/link")).unwrap();
        fs::set_permissions(layer.join("a/b"), fs::Permissions::from_mode(0o0)).unwrap();
        fs::set_permissions(layer.join("a"), fs::Permissions::from_mode(0o0)).unwrap();
        assert_eq!(places.sweep(&HashSet::new()).unwrap(), 1);
        places.empty_trash();
        assert_eq!(fs::read_dir(places.trash()).unwrap().count(), 0);
        assert!(kept.join("file").exists());
    }

    /// Deeper than the stack of a server's thread and than the longest path: a program needs a loop of two lines for that.
    #[test]
    fn the_deepest_tree_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let places = Places::new(dir.path().to_owned());
        places.prepare().unwrap();
        let layer = places.layer("lx");
        fs::create_dir(&layer).unwrap();
        let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
        let mut here = rustix::fs::open(&layer, flags, rustix::fs::Mode::empty()).unwrap();
        for _ in 0..20_000 {
            rustix::fs::mkdirat(&here, "d", rustix::fs::Mode::RWXU).unwrap();
            here = rustix::fs::openat(&here, "d", flags, rustix::fs::Mode::empty()).unwrap();
        }
        drop(here);
        let removal = std::thread::Builder::new().stack_size(128 << 10);
        let left = removal.spawn(move || {
            assert_eq!(places.sweep(&HashSet::new()).unwrap(), 1);
            places.empty_trash();
            fs::read_dir(places.trash()).unwrap().count()
        });
        assert_eq!(left.unwrap().join().unwrap(), 0);
    }

    #[test]
    fn layers_in_use_stay() {
        let dir = tempfile::tempdir().unwrap();
        let places = Places::new(dir.path().to_owned());
        places.prepare().unwrap();
        fs::create_dir(places.layer("lx")).unwrap();
        assert_eq!(places.sweep(&HashSet::from(["lx".to_owned()])).unwrap(), 0);
        assert!(places.layer("lx").exists());
    }
}
