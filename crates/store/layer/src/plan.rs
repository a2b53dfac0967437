//! The operations of a commit: what is to happen to which entry of the target. Plain values that go into the journal.

use serde::{Deserialize, Serialize};

use crate::attr::{Attr, FileKind, IdShift, Stamp, owner};
use crate::path::RelPath;
use crate::xattr::Kept;

/// What happens to an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Action {
    /// The staged entry comes where nothing is.
    Add,
    /// The staged entry takes the place of what is there.
    Replace,
    /// What is there goes.
    Delete,
}

/// One operation. Its slot names its entries in the stage: `new/SLOT` is staged, `old/SLOT` was moved away.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Operation {
    pub(crate) path: RelPath,
    pub(crate) action: Action,
    pub(crate) slot: u64,
    /// What the target has there.
    pub(crate) seen: Option<Seen>,
    /// The inode of the staged entry.
    pub(crate) new_inode: Option<u64>,
    /// The mode of a staged directory, if it can only be given once the directory is in place.
    pub(crate) final_mode: Option<u32>,
}

/// What identifies an entry of the target and its state.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Seen {
    pub(crate) inode: u64,
    /// Its change time; none where the commit itself changes it before.
    pub(crate) changed: Option<Stamp>,
}

impl Seen {
    pub(crate) fn of(attr: &Attr) -> Self {
        Seen {
            inode: attr.inode,
            changed: Some(attr.changed),
        }
    }

    /// Whether the entry still is what was seen.
    pub(crate) fn is(&self, now: &Attr) -> bool {
        now.inode == self.inode && self.changed.is_none_or(|changed| changed == now.changed)
    }
}

/// An operation before its staging.
#[derive(Debug, Clone)]
pub(crate) struct Planned {
    pub(crate) path: RelPath,
    pub(crate) action: Action,
    pub(crate) seen: Option<Attr>,
    /// What the upper has there.
    pub(crate) upper: Option<Attr>,
}

impl Planned {
    /// Whether a whole directory of the target goes.
    pub(crate) fn removes_directory(&self) -> bool {
        self.seen.is_some_and(|seen| seen.kind == FileKind::Directory)
    }
}

/// The metadata of a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Meta {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// None if it is to be left as it comes out.
    pub(crate) modified: Option<Stamp>,
    pub(crate) attributes: Kept,
}

impl Meta {
    pub(crate) fn of(attr: &Attr, shift: Option<IdShift>, attributes: Kept) -> Self {
        let (uid, gid) = owner(attr, shift);
        Meta {
            mode: attr.mode,
            uid,
            gid,
            modified: Some(attr.modified),
            attributes,
        }
    }

    /// Whether two differ in more than the time.
    pub(crate) fn differs(&self, other: &Meta) -> bool {
        (self.mode, self.uid, self.gid, &self.attributes) != (other.mode, other.uid, other.gid, &other.attributes)
    }
}
