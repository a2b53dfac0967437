//! What uploads store with a file: extended attributes `user.e2b.<name>`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::XattrFlags;
use rustix::io::Errno;

/// Start of our attributes' names.
const PREFIX: &str = "user.e2b.";
/// Largest list of names or value (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX`, linux/limits.h).
const MAX_BYTES: usize = 64 * 1024;

/// Stores something with an open file.
///
/// # Errors
/// What fsetxattr(2) says, unless nothing is to be stored: then a file system without attributes is as good as any.
pub(crate) fn store(file: &File, metadata: &BTreeMap<String, String>) -> io::Result<()> {
    for (name, value) in metadata {
        rustix::fs::fsetxattr(file, format!("{PREFIX}{name}"), value.as_bytes(), XattrFlags::empty())?;
    }
    Ok(())
}

/// Reads what is stored with a path, without following a link; empty where there is nothing or it can't be read.
pub(crate) fn load(path: &Path) -> BTreeMap<String, String> {
    // Asked for the size first: nearly every file has none, and no room is made for it then.
    if !matches!(rustix::fs::llistxattr_query(path), Ok(1..)) {
        return BTreeMap::new();
    }
    let mut names = vec![0_u8; MAX_BYTES];
    let Ok(size) = rustix::fs::llistxattr(path, &mut names) else {
        return BTreeMap::new();
    };
    let mut value = vec![0_u8; MAX_BYTES];
    let mut found = BTreeMap::new();
    for name in names.get(..size).unwrap_or_default().split(|&byte| byte == 0) {
        let Some(name) = std::str::from_utf8(name).ok().filter(|name| name.starts_with(PREFIX)) else {
            continue;
        };
        let Ok(size) = rustix::fs::lgetxattr(path, name, &mut value[..]) else {
            continue;
        };
        let text = String::from_utf8_lossy(value.get(..size).unwrap_or_default()).into_owned();
        found.insert(name.trim_start_matches(PREFIX).to_owned(), text);
    }
    found
}

/// Whether an error means that the file system has no such attributes.
pub(crate) fn is_unsupported(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::NOTSUP | Errno::PERM | Errno::ACCESS)
    )
}
