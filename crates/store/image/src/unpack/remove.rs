//! Removal: of what an entry replaces, and of what a layer's whiteouts hide.

use rustix::fd::{AsFd as _, BorrowedFd};
use rustix::fs::{AtFlags, FileType};
use rustix::io::Errno;

use crate::archive::{EntryKind, Header};
use crate::name::{EntryPath, MAX_DEPTH};
use crate::unpack::error::{At as _, Refusal, UnpackError};
use crate::unpack::place::Place;
use crate::unpack::tree::{self, Inode};
use crate::unpack::{Failure, Unpacker};

/// Before the name of a deleted entry (OCI image-spec, layer.md, "Whiteouts").
const WHITEOUT: &[u8] = b".wh.";
/// Deletes all that layers below have in its directory (ibid., "Opaque Whiteout").
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Before the names of other bookkeeping, left over from aufs.
const MARKER: &[u8] = b".wh..wh.";

/// What a removal spares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spare {
    Nothing,
    /// What the current layer has made.
    OwnLayer,
}

impl Unpacker {
    /// Applies the entry if it is a whiteout, and says whether it was one.
    pub(super) fn apply_whiteout(&mut self, header: &Header, path: &EntryPath) -> Result<bool, Failure> {
        let Some((parent, name)) = path.split() else {
            return Ok(false);
        };
        if parent
            .split(|&byte| byte == b'/')
            .any(|component| component.starts_with(WHITEOUT))
        {
            return Err(Refusal::ThroughWhiteout.into());
        }
        let Some(hidden) = name.strip_prefix(WHITEOUT) else {
            return Ok(false);
        };
        // aufs made its whiteouts hard links to one file, and old images still have them so.
        let is_marker = name.starts_with(MARKER) && name != OPAQUE;
        if !is_marker && !matches!(header.kind, EntryKind::File | EntryKind::Hardlink) {
            return Err(Refusal::WhiteoutKind.into());
        }
        if is_marker {
            self.report.dropped.markers += 1;
        } else if name == OPAQUE {
            self.hide_all(path)?;
        } else if matches!(hidden, b"" | b"." | b"..") {
            return Err(Refusal::WhiteoutName.into());
        } else if let Some(place) = self.find_place(path)? {
            self.remove(place.parent.as_fd(), place.inode, hidden, Spare::OwnLayer, 0)?;
        }
        Ok(true)
    }

    fn hide_all(&mut self, path: &EntryPath) -> Result<(), Failure> {
        let Some(place) = self.find_place(path)? else {
            return Ok(());
        };
        if !self.hidden.insert(place.inode) {
            return Ok(());
        }
        for name in tree::list(&place.parent).at("list the directory of", path.as_bytes())? {
            self.remove(place.parent.as_fd(), place.inode, &name, Spare::OwnLayer, 0)?;
        }
        Ok(())
    }

    /// Removes what an entry replaces.
    pub(super) fn clear(&mut self, place: &Place<'_>) -> Result<(), UnpackError> {
        self.remove(place.parent.as_fd(), place.inode, place.name, Spare::Nothing, 0)
            .map(|_| ())
    }

    /// Removes an entry with all below it, and returns whether nothing of it was spared.
    fn remove(
        &mut self,
        parent: BorrowedFd<'_>,
        parent_inode: Inode,
        name: &[u8],
        spare: Spare,
        depth: usize,
    ) -> Result<bool, UnpackError> {
        let Some(found) = tree::stat(parent, name).at("stat", name)? else {
            return Ok(true);
        };
        let is_spared = spare == Spare::OwnLayer && self.made.contains(parent_inode, name);
        if tree::file_type(&found) != FileType::Directory {
            if !is_spared {
                rustix::fs::unlinkat(parent, tree::os(name), AtFlags::empty()).at("remove", name)?;
                self.made.remove(parent_inode, name);
            }
            return Ok(!is_spared);
        }
        if depth > MAX_DEPTH {
            // No archive can make this; whoever else did has to remove it.
            return Err(Errno::NAMETOOLONG).at("remove", name);
        }
        let directory = tree::name_dir(parent, name).at("open", name)?;
        let inode = self.open_up(&directory, name)?;
        if spare == Spare::OwnLayer && self.hidden.contains(&inode) {
            return Ok(false);
        }
        let mut is_empty = true;
        for child in tree::list(&directory).at("list", name)? {
            is_empty &= self.remove(directory.as_fd(), inode, &child, spare, depth + 1)?;
        }
        if is_empty && !is_spared {
            rustix::fs::unlinkat(parent, tree::os(name), AtFlags::REMOVEDIR).at("remove", name)?;
            self.made.remove(parent_inode, name);
            self.made.forget(inode);
        } else {
            self.hidden.insert(inode);
        }
        Ok(is_empty && !is_spared)
    }
}
