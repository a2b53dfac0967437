//! What the target has below a directory that goes: each entry is a deletion to list and may hold somebody's newer work.

use std::collections::BTreeSet;

use rustix::fd::OwnedFd;

use super::Walk;
use crate::attr::{Attr, FileKind};
use crate::change::{Change, ChangeKind};
use crate::error::{At, ScanError};
use crate::path::RelPath;
use crate::tree::{os, stat_entry};
use crate::upper::MAX_ENTRIES;

impl Walk<'_, '_> {
    /// Lists as deleted what the target has at and below `path`.
    pub(super) fn list_deleted(&mut self, path: &RelPath) -> Result<(), ScanError> {
        self.each_below(path, |walk, entry, now| {
            walk.found.changes.push(Change {
                path: entry.clone(),
                kind: ChangeKind::Deleted,
                file_type: now.kind,
                old_type: None,
                size: now.size,
                old_mode: Some(now.mode),
                new_mode: None,
            });
        })
    }

    /// Calls `act` for each entry of the target at and below `path`.
    pub(super) fn each_below(
        &mut self,
        path: &RelPath,
        mut act: impl FnMut(&mut Self, &RelPath, &Attr),
    ) -> Result<(), ScanError> {
        let Some(top) = self.target.stat(path).at("stat the target's", path)? else {
            return Ok(());
        };
        act(self, path, &top);
        let mut pending = Vec::new();
        if top.kind == FileKind::Directory && top.device == self.target_device {
            pending.push(path.clone());
        }
        while let Some(path) = pending.pop() {
            if self.is_settled() {
                return Ok(());
            }
            let directory = self.target.open_dir(&path).at("open the target's", &path)?;
            for name in self.names_of(&path, &directory)? {
                let entry = path.join(&name);
                // A name that vanishes between the two calls changed its directory, which the commit looks at again.
                let Some(now) = stat_entry(&directory, os(&name)).at("stat the target's", &entry)? else {
                    continue;
                };
                act(self, &entry, &now);
                if now.kind == FileKind::Directory && now.device == self.target_device {
                    pending.push(entry);
                }
            }
        }
        Ok(())
    }

    pub(super) fn target_names(&mut self, path: &RelPath) -> Result<BTreeSet<Vec<u8>>, ScanError> {
        let directory = self.target.open_dir(path).at("open the target's", path)?;
        Ok(self.names_of(path, &directory)?.into_iter().collect())
    }

    pub(super) fn names_of(&mut self, path: &RelPath, directory: &OwnedFd) -> Result<Vec<Vec<u8>>, ScanError> {
        let room = usize::try_from(MAX_ENTRIES.saturating_sub(self.target_entries)).unwrap_or(usize::MAX);
        let names = crate::tree::names(directory, room.saturating_add(1)).at("list the target's", path)?;
        self.target_entries = self
            .target_entries
            .saturating_add(u64::try_from(names.len()).unwrap_or(u64::MAX));
        if self.target_entries > MAX_ENTRIES {
            return Err(ScanError::TooManyEntries { limit: MAX_ENTRIES });
        }
        Ok(names)
    }
}
