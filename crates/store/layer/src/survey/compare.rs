//! What is different about one entry: its metadata, where it points, its bytes.

use rustix::fd::OwnedFd;

use super::{Goal, Visit, Walk};
use crate::attr::{Attr, FileKind, owner};
use crate::change::{ChangeKind, Note, ProblemKind};
use crate::error::{At, ScanError};
use crate::journal::DirectoryMeta;
use crate::path::RelPath;
use crate::plan::Meta;
use crate::upper::Upper;
use crate::xattr::{self, Kept};

impl Walk<'_, '_> {
    /// Lists a directory's own change, and keeps its metadata for the commit if it is merged.
    pub(super) fn directory_change(
        &mut self,
        visit: &Visit,
        kept: Kept,
        seen: Option<Attr>,
        is_merged: bool,
    ) -> Result<(), ScanError> {
        let path = &visit.path;
        let Some(seen) = seen else {
            self.push(path, ChangeKind::Added, &visit.attr, None);
            return Ok(());
        };
        if seen.kind != FileKind::Directory {
            self.push(path, ChangeKind::Modified, &visit.attr, Some(&seen));
            return Ok(());
        }
        let theirs = self.target.open_dir(path).at("open the target's", path)?;
        let theirs = xattr::read(theirs)
            .at("read the attributes of the target's", path)?
            .kept;
        let old = Meta::of(&seen, None, theirs);
        let mut new = Meta::of(&visit.attr, self.shift, kept);
        if !self.compares_owners {
            (new.uid, new.gid) = (old.uid, old.gid);
        }
        if path.is_root() && new.mode & 0o700 != 0o700 && new.mode != old.mode {
            new.mode |= 0o700; // the commit itself still works in there
            self.found.notes.push(Note::OwnerAccessKept(path.clone()));
        }
        let is_access_list = |name: &[u8]| name.starts_with(b"system.posix_acl_");
        if self.shift.is_some() {
            new.attributes.retain(|name, _| !is_access_list(&name.0));
        }
        for (name, value) in &old.attributes {
            // The upper's root was made by us, without the target's attributes: what it lacks was not removed.
            if path.is_root() || (self.shift.is_some() && is_access_list(&name.0)) {
                new.attributes.entry(name.clone()).or_insert_with(|| value.clone());
            }
        }
        let differs = new.differs(&old);
        if differs {
            self.push(path, ChangeKind::MetadataOnly, &visit.attr, Some(&seen));
        }
        if is_merged && matches!(self.goal, Goal::Plan { .. }) {
            if self.is_newer(path, &seen) {
                new.modified = None; // somebody else worked in it since: its time is theirs
                // A stage that came and went changes the root, so there it says nothing.
                if differs && !path.is_root() {
                    self.conflict(path, ProblemKind::ChangedUnderneath);
                }
            }
            self.found.directories.push(DirectoryMeta {
                path: path.clone(),
                inode: seen.inode,
                old,
                new,
            });
        }
        Ok(())
    }

    /// Lists the change of a file, symlink or pipe; returns whether there is one.
    pub(super) fn leaf_change(
        &mut self,
        path: &RelPath,
        attr: &Attr,
        seen: Option<Attr>,
        parent: &OwnedFd,
    ) -> Result<bool, ScanError> {
        let Some(seen) = seen else {
            self.push(path, ChangeKind::Added, attr, None);
            return Ok(true);
        };
        if seen.kind == FileKind::Directory {
            self.push(path, ChangeKind::Modified, attr, Some(&seen));
            if self.goal != Goal::AnyChange {
                for name in self.target_names(path)? {
                    self.list_deleted(&path.join(&name))?;
                }
            }
            return Ok(true);
        }
        let is_same_content = seen.kind == attr.kind
            && match attr.kind {
                FileKind::Symlink => {
                    let theirs = crate::upper::read_link(self.target, path)?;
                    let name = path.split().map(|(_, name)| name.to_owned()).unwrap_or_default();
                    let ours =
                        rustix::fs::readlinkat(parent, name.as_os_str(), Vec::new()).at("read the link", path)?;
                    theirs == ours.as_bytes()
                }
                FileKind::File => {
                    attr.size == seen.size && (self.goal == Goal::AnyChange || self.same_bytes(path, attr)?)
                }
                _ => true,
            };
        if !is_same_content {
            self.push(path, ChangeKind::Modified, attr, Some(&seen));
            return Ok(true);
        }
        let same_owner = !self.compares_owners || owner(attr, self.shift) == (seen.uid, seen.gid);
        let same_look = match attr.kind {
            FileKind::Symlink => same_owner,
            FileKind::File => {
                same_owner
                    && attr.mode == seen.mode
                    && attr.modified == seen.modified
                    && !attr.has_other_links
                    && self.same_attributes(path, attr)?
            }
            _ => same_owner && attr.mode == seen.mode,
        };
        if !same_look {
            self.push(path, ChangeKind::MetadataOnly, attr, Some(&seen));
            return Ok(true);
        }
        // The bytes come last where one change is enough: a file with other bytes almost always has another time.
        if self.goal == Goal::AnyChange && attr.kind == FileKind::File && !self.same_bytes(path, attr)? {
            self.push(path, ChangeKind::Modified, attr, Some(&seen));
            return Ok(true);
        }
        Ok(false)
    }

    pub(super) fn same_attributes(&mut self, path: &RelPath, attr: &Attr) -> Result<bool, ScanError> {
        let ours = Upper::attributes(path, self.upper.open_file(path, attr)?)?.kept;
        match self.target.open_file(path) {
            Ok(file) => Ok(xattr::read(file).at("read the attributes of the target's", path)?.kept == ours),
            Err(_) => Ok(true), // unreadable, and so copied up without a change that could be seen here
        }
    }

    pub(super) fn same_bytes(&mut self, path: &RelPath, attr: &Attr) -> Result<bool, ScanError> {
        let ours = self.upper.open_file(path, attr)?;
        match self.target.open_file(path) {
            Ok(theirs) => Ok(crate::copy::is_same(&ours, &theirs).at("compare", path)?),
            Err(_) => Ok(false),
        }
    }
}
