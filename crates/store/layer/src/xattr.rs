//! Extended attributes: which of an entry's belong to overlayfs, which are the program's, which must not leave the sandbox.
//!
//! With the mount option `userxattr` overlayfs keeps its marks as `user.overlay.NAME` and stores an attribute that the program
//! itself calls `user.overlay.NAME` as `user.overlay.overlay.NAME` (Documentation/filesystems/overlayfs.rst, "nesting overlayfs
//! mounts"). Sizes are bounded by the kernel: 64 KiB for a list and for a value (linux/limits.h, `XATTR_LIST_MAX`, `XATTR_SIZE_MAX`).

use std::collections::BTreeMap;

use rustix::fd::AsFd;
use rustix::fs::XattrFlags;
use rustix::io::{Errno, Result};

use crate::path::ByteText;

const MAX_BYTES: usize = 64 * 1024;
const OVERLAY: &[u8] = b"user.overlay.";
const ESCAPED: &[u8] = b"user.overlay.overlay.";

/// Attributes to keep, by name.
pub(crate) type Kept = BTreeMap<ByteText, ByteText>;

/// The attributes of an entry, sorted by whose they are.
#[derive(Debug, Default)]
pub(crate) struct Attributes {
    /// The program's, with the names it gave them.
    pub(crate) kept: Kept,
    /// Those that a sandbox may not hand out: `security.*` such as file capabilities.
    pub(crate) stripped: Vec<String>,
    pub(crate) marks: Marks,
}

/// What overlayfs noted about an entry.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Marks {
    /// Hides the directory of the same name below it.
    pub(crate) is_opaque: bool,
    /// May hold whiteouts in the form of regular files.
    pub(crate) has_file_whiteouts: bool,
    /// Was copied up from the target.
    pub(crate) has_origin: bool,
    /// Is a whiteout, if it is an empty regular file in a directory with `has_file_whiteouts`.
    pub(crate) is_whiteout: bool,
    /// A feature that can't be resolved, by its attribute.
    pub(crate) unresolvable: Option<&'static str>,
}

/// Reads the attributes of an open file or directory. A file system without them has none.
pub(crate) fn read(entry: impl AsFd) -> Result<Attributes> {
    let entry = entry.as_fd();
    let mut found = Attributes::default();
    let size = match rustix::fs::flistxattr_query(entry) {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(found),
        Ok(size) => size,
        Err(error) => return Err(error),
    };
    let mut list = vec![0_u8; size.min(MAX_BYTES)];
    let length = rustix::fs::flistxattr(entry, list.as_mut_slice())?;
    list.truncate(length);
    for name in list.split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        sort_in(entry, name, &mut found)?;
    }
    Ok(found)
}

fn sort_in(entry: rustix::fd::BorrowedFd<'_>, name: &[u8], found: &mut Attributes) -> Result<()> {
    if let Some(rest) = name.strip_prefix(ESCAPED) {
        let value = value(entry, name)?;
        found.kept.insert(ByteText([OVERLAY, rest].concat()), ByteText(value));
    } else if let Some(mark) = name.strip_prefix(OVERLAY) {
        let marks = &mut found.marks;
        match mark {
            b"opaque" => match value(entry, name)?.as_slice() {
                b"y" => marks.is_opaque = true,
                b"x" => marks.has_file_whiteouts = true,
                _ => {}
            },
            b"origin" => marks.has_origin = true,
            b"whiteout" => marks.is_whiteout = true,
            b"redirect" => marks.unresolvable = Some("user.overlay.redirect"),
            b"metacopy" => marks.unresolvable = Some("user.overlay.metacopy"),
            _ => {} // impure, uuid, upper, nlink, protattr: bookkeeping of overlayfs alone
        }
    } else if name.starts_with(b"user.") || name.starts_with(b"system.posix_acl_") {
        let value = value(entry, name)?;
        found.kept.insert(ByteText(name.to_vec()), ByteText(value));
    } else if name.starts_with(b"security.") && !matches!(name, b"security.selinux" | b"security.ima" | b"security.evm")
    {
        // Labels that the host itself puts on every file aren't the sandbox's doing and need no word.
        found.stripped.push(crate::path::escape(name));
    }
    Ok(())
}

fn value(entry: rustix::fd::BorrowedFd<'_>, name: &[u8]) -> Result<Vec<u8>> {
    let mut buffer = vec![0_u8; 256];
    let length = match rustix::fs::fgetxattr(entry, name, buffer.as_mut_slice()) {
        Err(Errno::RANGE) => {
            buffer.resize(MAX_BYTES, 0);
            rustix::fs::fgetxattr(entry, name, buffer.as_mut_slice())?
        }
        other => other?,
    };
    buffer.truncate(length);
    Ok(buffer)
}

/// Makes the attributes of `entry`, which has `present`, those in `wanted`; with `remove`, others than wanted go.
pub(crate) fn write(entry: impl AsFd, present: &Kept, wanted: &Kept, remove: bool) -> Result<()> {
    let entry = entry.as_fd();
    for (name, value) in wanted {
        if present.get(name) != Some(value) {
            rustix::fs::fsetxattr(entry, name.0.as_slice(), &value.0, XattrFlags::empty())?;
        }
    }
    for name in present.keys().filter(|name| remove && !wanted.contains_key(name)) {
        rustix::fs::fremovexattr(entry, name.0.as_slice())?;
    }
    Ok(())
}
