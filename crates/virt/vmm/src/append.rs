//! Files that are written to at their end: the log, counters, the guest's serial output.
//!
//! What is there is used as it is, named pipes and links to them included (`/dev/stdout` is one). What is not there is made, but not
//! through a link: whoever may write to the directory must not choose where else a file of this user's comes to be.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::OFlags;

/// Opens a file to append to. With `both` it is opened for reading too: a named pipe can then be opened before its reader comes (fifo(7)).
/// A full pipe is an error when it is written to, and nothing waits.
///
/// # Errors
/// What opening says; "already exists" for a link that leads nowhere.
pub(crate) fn open(path: &Path, both: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(both).append(true).mode(0o600);
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    options.custom_flags(flags.bits().try_into().unwrap_or_default());
    match options.open(path) {
        // O_EXCL follows no link (open(2)).
        Err(error) if error.kind() == io::ErrorKind::NotFound => options.create_new(true).open(path),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn what_is_there_is_appended_to_and_what_is_not_is_made() {
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("log"), folder.path().join("link"));
        symlink(&path, &link).unwrap();
        open(&path, true).unwrap().write_all(b"one").unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        open(&link, false).unwrap().write_all(b" two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"one two");
    }

    #[test]
    fn a_file_is_never_made_through_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let (elsewhere, link) = (folder.path().join("elsewhere"), folder.path().join("log"));
        symlink(&elsewhere, &link).unwrap();
        for both in [true, false] {
            let error = open(&link, both).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        }
        assert!(!elsewhere.exists());
    }
}
