//! Opening what a configuration or a client names, without waiting for it: open(2) of a named pipe waits for its other end, and that of a device
//! does what the device likes. Only what is what it should be comes out of here.

use std::fs::{File, FileType, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use thiserror::Error;

/// A file that can't be had.
#[derive(Debug, Error)]
pub enum OpenError {
    /// It can't be opened.
    #[error("can't open the {what} {path}")]
    Open {
        /// What it is for.
        what: &'static str,
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// There is something else.
    #[error("the {what} {path} is {is}; it must be {wanted}")]
    Kind {
        /// What it is for.
        what: &'static str,
        /// Which.
        path: PathBuf,
        /// What is there.
        is: &'static str,
        /// What can be used.
        wanted: &'static str,
    },
}

/// Opens a file.
///
/// # Errors
/// See [`OpenError`]; above all that it is no file.
pub fn file(what: &'static str, path: &Path, writable: bool) -> Result<File, OpenError> {
    open(what, path, writable, "a file", FileType::is_file)
}

/// Opens what a drive is of: a file or a block device.
///
/// # Errors
/// See [`OpenError`]; above all that it is neither.
pub fn disk(path: &Path, writable: bool) -> Result<File, OpenError> {
    open("drive", path, writable, "a file or a block device", |kind| {
        kind.is_file() || kind.is_block_device()
    })
}

fn open(
    what: &'static str,
    path: &Path,
    writable: bool,
    wanted: &'static str,
    is_usable: impl Fn(&FileType) -> bool,
) -> Result<File, OpenError> {
    let failed = |source| OpenError::Open {
        what,
        path: path.to_owned(),
        source,
    };
    let other = |kind: FileType| OpenError::Kind {
        what,
        path: path.to_owned(),
        is: kind_name(kind),
        wanted,
    };
    let flags = i32::try_from((OFlags::NONBLOCK | OFlags::NOCTTY).bits()).unwrap_or_default();
    let opened = OpenOptions::new()
        .read(true)
        .write(writable)
        .custom_flags(flags)
        .open(path);
    let file = match opened {
        Ok(file) => file,
        // Of a directory "is a directory", of a socket "no such device or address": what it is says more.
        Err(error) => match path.metadata().as_ref().map(Metadata::file_type) {
            Ok(kind) if !is_usable(&kind) => return Err(other(kind)),
            _ => return Err(failed(error)),
        },
    };
    let kind = file.metadata().map_err(failed)?.file_type();
    if !is_usable(&kind) {
        return Err(other(kind));
    }
    // Without it for what comes: io_uring would answer EAGAIN where it should wait for a disk.
    let flags = fcntl_getfl(&file).map_err(|error| failed(error.into()))?;
    fcntl_setfl(&file, flags - OFlags::NONBLOCK).map_err(|error| failed(error.into()))?;
    Ok(file)
}

/// What something is, in words.
#[must_use]
pub fn kind_name(kind: FileType) -> &'static str {
    if kind.is_dir() {
        "a directory"
    } else if kind.is_fifo() {
        "a named pipe"
    } else if kind.is_socket() {
        "a socket"
    } else if kind.is_char_device() {
        "a character device"
    } else if kind.is_block_device() {
        "a block device"
    } else if kind.is_symlink() {
        "a link"
    } else {
        "a file"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn what_is_no_file_is_named_and_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        rustix::fs::mkfifoat(rustix::fs::CWD, at("pipe"), rustix::fs::Mode::RWXU).unwrap();
        let _listener = UnixListener::bind(at("socket")).unwrap();
        std::fs::write(at("file"), "x").unwrap();
        for (path, is) in [
            (folder.path().to_owned(), "a directory"),
            (at("pipe"), "a named pipe"),
            (at("socket"), "a socket"),
            (PathBuf::from("/dev/null"), "a character device"),
        ] {
            for writable in [false, true] {
                let wanted = format!("the kernel {} is {is}; it must be a file", path.display());
                assert_eq!(file("kernel", &path, writable).unwrap_err().to_string(), wanted);
                let wanted = format!(
                    "the drive {} is {is}; it must be a file or a block device",
                    path.display()
                );
                assert_eq!(disk(&path, writable).unwrap_err().to_string(), wanted);
            }
        }
        let missing = file("kernel", &at("none"), false).unwrap_err().to_string();
        assert_eq!(missing, format!("can't open the kernel {}", at("none").display()));
        for writable in [false, true] {
            let opened = disk(&at("file"), writable).unwrap();
            assert!(!fcntl_getfl(&opened).unwrap().contains(OFlags::NONBLOCK));
            file("kernel", &at("file"), writable).unwrap();
        }
    }
}
