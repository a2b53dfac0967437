//! Owner, mode, times and attributes of an entry: what of an archive's wishes is honoured.
//!
//! Set-id bits never are: a sandbox has one user, and a file that changes it serves nobody. Of the attributes only `user.*` are, without
//! `user.overlay.*`: overlayfs would take those for its own marks (Documentation/filesystems/overlayfs.rst, "nesting overlayfs mounts").

use rustix::fd::BorrowedFd;
use rustix::fs::{Gid, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags};
use rustix::io::{Errno, Result};

use crate::archive::Header;
use crate::unpack::error::Refusal;
use crate::unpack::{Dropped, Owners};

/// setuid and setgid (inode(7)).
const SET_ID: u32 = 0o6000;
/// Highest id that an archive may give a file: containers are built with 16 bits.
const MAX_ID: u64 = 65535;

/// What an entry is to look like.
#[derive(Debug, Clone)]
pub(crate) struct Look {
    pub(crate) mode: Option<u32>,
    pub(crate) owner: Option<(Uid, Gid)>,
    pub(crate) modified: Option<(i64, u32)>,
}

impl Look {
    /// Decides what of a header is honoured, and counts what isn't.
    pub(crate) fn of(header: &Header, owners: Owners, dropped: &mut Dropped) -> std::result::Result<Self, Refusal> {
        if header.mode & SET_ID != 0 {
            dropped.set_id += 1;
        }
        let owner = match owners {
            Owners::Caller => None,
            Owners::Keep => Some(owner(header)?),
        };
        Ok(Look {
            mode: Some(header.mode & 0o7777 & !SET_ID),
            owner,
            modified: Some(header.modified),
        })
    }

    /// The times to set: the access time isn't in an archive and stays.
    pub(crate) fn times(&self) -> Option<Timestamps> {
        let (seconds, nanos) = self.modified?;
        Some(Timestamps {
            last_access: Timespec {
                tv_sec: 0,
                tv_nsec: UTIME_OMIT,
            },
            last_modification: Timespec {
                tv_sec: seconds,
                tv_nsec: nanos.into(),
            },
        })
    }
}

fn owner(header: &Header) -> std::result::Result<(Uid, Gid), Refusal> {
    let id = |id: u64| u32::try_from(id).ok().filter(|_| id <= MAX_ID);
    match (id(header.uid), id(header.gid)) {
        (Some(uid), Some(gid)) => Ok((Uid::from_raw(uid), Gid::from_raw(gid))),
        _ => Err(Refusal::Owner {
            uid: header.uid,
            gid: header.gid,
        }),
    }
}

/// Whether an attribute of that name is kept.
pub(crate) fn is_kept(name: &[u8]) -> bool {
    let is_user = name.len() > b"user.".len() && name.starts_with(b"user.");
    is_user && !name.starts_with(b"user.overlay.") && !name.contains(&0)
}

/// Sets the attributes that are kept, and counts the others. What the file system can't store counts as dropped, too.
pub(crate) fn set_attributes(
    entry: BorrowedFd<'_>,
    attributes: &[(Vec<u8>, Vec<u8>)],
    dropped: &mut Dropped,
) -> Result<()> {
    for (name, value) in attributes {
        if !is_kept(name) {
            dropped.attributes += 1;
            continue;
        }
        match rustix::fs::fsetxattr(entry, name.as_slice(), value, XattrFlags::empty()) {
            Ok(()) => {}
            Err(Errno::OPNOTSUPP | Errno::RANGE | Errno::TOOBIG | Errno::NOSPC | Errno::PERM) => {
                dropped.attributes += 1;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
