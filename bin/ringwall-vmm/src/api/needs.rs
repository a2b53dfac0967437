//! Whether what an action names is on the host, looked up when it is asked for and not only when the machine starts: Firecracker opens files at
//! once, and clients rely on the early 400.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ringwall_vmm::files::{Access, Files, OpenFileError};
use ringwall_vmm::open::kind_name;
use ringwall_vmm_proto::{Action, Fault, HostPath, Need, Place};
use rustix::fs::OFlags;

/// What isn't as the action needs it.
#[derive(Debug, thiserror::Error)]
pub enum UnmetNeedError {
    /// A file can't be opened. The cause is part of the text, for a client that sees nothing else.
    #[error("can't open {path}: {cause}")]
    Open {
        /// The file.
        path: PathBuf,
        /// Why not.
        cause: io::Error,
    },
    /// A descriptor that is not what it should be, or a path that this VMM may not open.
    #[error(transparent)]
    Given(#[from] OpenFileError),
    /// There is something else.
    #[error("{path} is {is}; a file or block device is needed")]
    NotFile {
        /// The path.
        path: PathBuf,
        /// What is there.
        is: &'static str,
    },
}

impl From<UnmetNeedError> for Fault {
    fn from(error: UnmetNeedError) -> Self {
        Self::bad_request(&error)
    }
}

/// Looks for everything that `action` names. Tap devices aren't looked for: opening one that doesn't exist makes it.
///
/// # Errors
/// What is missing first.
pub fn check_needs(action: &Action, files: &Files) -> Result<(), UnmetNeedError> {
    for need in action.needs() {
        match need {
            Need::ReadableFile(path) => check_file(path, false, files)?,
            Need::WritableFile(path) => check_file(path, true, files)?,
            Need::Tap(_) => {}
        }
    }
    Ok(())
}

fn check_file(path: &HostPath, is_written: bool, files: &Files) -> Result<(), UnmetNeedError> {
    let path: &Path = match path.place() {
        Place::Path(path) => path,
        Place::Descriptor(_) => {
            // Of a drive, perhaps; what else must be a file is looked at when it is used.
            files.open("file", path, Access::Disk { writable: is_written })?;
            return Ok(());
        }
    };
    files.reach("file", path)?;
    let failed = |cause| match files.failed("file", path, cause) {
        OpenFileError::Open { source: cause, .. } => UnmetNeedError::Open {
            path: path.to_owned(),
            cause,
        },
        outside => outside.into(),
    };
    // Without waiting: a named pipe would hold us up until somebody writes to it.
    let flags = i32::try_from((OFlags::NONBLOCK | OFlags::NOCTTY).bits()).unwrap_or_default();
    let opened = OpenOptions::new()
        .read(true)
        .write(is_written)
        .custom_flags(flags)
        .open(path);
    // What can't be opened may still be known: a directory for writing, or a socket.
    let found = match &opened {
        Ok(file) => file.metadata(),
        Err(_) => path.metadata(),
    };
    match found.map(|found| found.file_type()) {
        Ok(kind) if !kind.is_file() && !kind.is_block_device() => {
            return Err(UnmetNeedError::NotFile {
                path: path.to_owned(),
                is: kind_name(kind),
            });
        }
        Err(error) if opened.is_ok() => return Err(failed(error)),
        _ => {}
    }
    opened.map(drop).map_err(failed)
}
