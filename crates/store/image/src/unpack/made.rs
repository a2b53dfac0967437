//! What the current layer has made, so that its own whiteouts spare it: a whiteout deletes what layers below made, whatever the order
//! of entries (OCI image-spec, layer.md, "Whiteouts").
//!
//! Entries are known by their directory's inode and their name, not by path: a link in the way gives one entry many paths.

use std::collections::{HashMap, HashSet};

use crate::unpack::tree::Inode;

/// Entries made by the current layer.
#[derive(Debug, Default)]
pub(crate) struct Made {
    entries: HashMap<Inode, HashSet<Box<[u8]>>>,
}

impl Made {
    pub(crate) fn insert(&mut self, directory: Inode, name: &[u8]) {
        self.entries.entry(directory).or_default().insert(name.into());
    }

    pub(crate) fn contains(&self, directory: Inode, name: &[u8]) -> bool {
        self.entries.get(&directory).is_some_and(|names| names.contains(name))
    }

    pub(crate) fn remove(&mut self, directory: Inode, name: &[u8]) {
        if let Some(names) = self.entries.get_mut(&directory) {
            names.remove(name);
        }
    }

    /// Forgets a directory that is gone; its inode number may come back as another's.
    pub(crate) fn forget(&mut self, directory: Inode) {
        self.entries.remove(&directory);
    }
}
