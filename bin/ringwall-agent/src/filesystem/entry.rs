//! Everything a client may know of one path.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use ringwall_agent_proto::filesystem::{EntryInfo, FileType};

use super::metadata;
use crate::users::{name_of, read_accounts};

/// Names of users and groups, read once for many entries.
#[derive(Debug, Clone)]
pub(crate) struct Accounts {
    passwd: String,
    group: String,
}

impl Accounts {
    /// Reads both files.
    pub(crate) fn read() -> Self {
        Accounts {
            passwd: read_accounts(Path::new("/etc/passwd")),
            group: read_accounts(Path::new("/etc/group")),
        }
    }
}

/// Describes a path. For a link, what it is (kind, size, mode) is the target's, as clients ask to know whether they can list it.
///
/// # Errors
/// What lstat(2) says.
pub(crate) fn describe(path: &Path, accounts: &Accounts) -> io::Result<EntryInfo> {
    let own = std::fs::symlink_metadata(path)?;
    let is_symlink = own.file_type().is_symlink();
    let target = is_symlink.then(|| std::fs::metadata(path).ok()).flatten();
    let shown = target.as_ref().unwrap_or(&own);
    let name = path.file_name().unwrap_or(path.as_os_str());
    Ok(EntryInfo {
        name: name.to_string_lossy().into_owned(),
        kind: kind(shown),
        path: path.to_string_lossy().into_owned(),
        size: i64::try_from(shown.size()).unwrap_or(i64::MAX),
        mode: shown.mode() & 0o7777,
        permissions: permissions(own.mode()),
        owner: name_of(own.uid(), &accounts.passwd),
        group: name_of(own.gid(), &accounts.group),
        modified_time: time(&own),
        symlink_target: is_symlink
            .then(|| std::fs::read_link(path).ok())
            .flatten()
            .map(|target| target.to_string_lossy().into_owned()),
        metadata: metadata::load(path),
        is_symlink,
    })
}

fn kind(found: &Metadata) -> FileType {
    let kind = found.file_type();
    if kind.is_file() {
        FileType::File
    } else if kind.is_dir() {
        FileType::Directory
    } else if kind.is_symlink() {
        FileType::Symlink
    } else {
        FileType::Unspecified
    }
}

fn time(found: &Metadata) -> Option<String> {
    let nanoseconds = i32::try_from(found.mtime_nsec()).ok()?;
    jiff::Timestamp::new(found.mtime(), nanoseconds)
        .ok()
        .map(|time| time.to_string())
}

/// Writes a mode as `ls -l` does.
fn permissions(mode: u32) -> String {
    let kind = match mode & 0o170_000 {
        0o040_000 => 'd',
        0o120_000 => 'l',
        0o020_000 => 'c',
        0o060_000 => 'b',
        0o010_000 => 'p',
        0o140_000 => 's',
        _ => '-',
    };
    let mut text = String::from(kind);
    // Per class: shift of its bits, its special bit, the letter for that.
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 == 0 { '-' } else { 'r' });
        text.push(if bits & 2 == 0 { '-' } else { 'w' });
        text.push(match (bits & 1 != 0, mode & special != 0) {
            (true, false) => 'x',
            (false, false) => '-',
            (true, true) => letter,
            (false, true) => letter.to_ascii_uppercase(),
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_written_as_ls_does() {
        assert_eq!(permissions(0o100_644), "-rw-r--r--");
        assert_eq!(permissions(0o041_777), "drwxrwxrwt");
        assert_eq!(permissions(0o104_755), "-rwsr-xr-x");
        assert_eq!(permissions(0o120_777), "lrwxrwxrwx");
    }

    #[test]
    fn links_show_their_target() {
        let directory = tempfile::tempdir().unwrap();
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(directory.path(), &link).unwrap();
        let entry = describe(&link, &Accounts::read()).unwrap();
        assert_eq!((entry.kind, entry.is_symlink), (FileType::Directory, true));
        assert_eq!(entry.symlink_target.as_deref(), directory.path().to_str());
        let dangling = directory.path().join("dangling");
        std::os::unix::fs::symlink("/nowhere/x", &dangling).unwrap();
        assert_eq!(describe(&dangling, &Accounts::read()).unwrap().kind, FileType::Symlink);
    }
}
