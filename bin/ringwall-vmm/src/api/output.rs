//! A file or named pipe that lines are written to, for the log and the counters. Writing never waits: a pipe that nobody reads loses lines, and
//! not the VMM's time.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::OFlags;

/// An open output.
#[derive(Debug)]
pub struct Output {
    file: Mutex<File>,
    lost: AtomicU64,
}

/// Why an output can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenOutputError {
    /// It can't be opened or made. The cause is part of the text, for a client that sees nothing else.
    #[error("can't open {path}: {cause}")]
    Open {
        /// The path.
        path: PathBuf,
        /// Why not.
        cause: io::Error,
    },
    /// There is something else.
    #[error("{path} is neither a file nor a named pipe")]
    Kind {
        /// The path.
        path: PathBuf,
    },
}

impl Output {
    /// Opens a file to append to, which is made if it isn't there, or a named pipe.
    ///
    /// # Errors
    /// [`OpenOutputError`].
    pub fn open(path: &Path) -> Result<Self, OpenOutputError> {
        let failed = |cause| OpenOutputError::Open {
            path: path.to_owned(),
            cause,
        };
        let flags = i32::try_from((OFlags::NONBLOCK | OFlags::NOCTTY).bits()).unwrap_or_default();
        // For reading too: the opening end of a pipe would wait for a reader, or fail without one (fifo(7)).
        let mut options = OpenOptions::new();
        let options = options
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(flags);
        let file = options.open(path).map_err(failed)?;
        let kind = file.metadata().map_err(failed)?.file_type();
        if !kind.is_file() && !kind.is_fifo() {
            return Err(OpenOutputError::Kind { path: path.to_owned() });
        }
        Ok(Self {
            file: Mutex::new(file),
            lost: AtomicU64::new(0),
        })
    }

    /// Writes a line, which has its line break already. What can't be written at once is lost and counted.
    pub fn write_line(&self, line: &[u8]) {
        let written = match self.file.lock() {
            // One write, so that lines of other writers aren't mixed in (`O_APPEND`; pipe(7) up to PIPE_BUF).
            Ok(mut file) => file.write(line).is_ok_and(|count| count == line.len()),
            Err(_) => false,
        };
        if !written {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many lines were lost.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_made_private_and_appended_to() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        for _ in 0..2 {
            Output::open(&path).unwrap().write_line(b"a\n");
        }
        assert_eq!(std::fs::read(&path).unwrap(), b"a\na\n");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o077, 0);
        assert!(matches!(
            Output::open(directory.path()),
            Err(OpenOutputError::Open { .. })
        ));
        assert!(matches!(
            Output::open("/dev/null".as_ref()),
            Err(OpenOutputError::Kind { .. })
        ));
        assert!(matches!(
            Output::open(&directory.path().join("a/b")),
            Err(OpenOutputError::Open { .. })
        ));
    }

    #[test]
    fn a_pipe_that_nobody_reads_loses_lines_and_never_waits() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pipe");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let output = Output::open(&path).unwrap();
        // 65,536 bytes fit into a pipe (pipe(7)).
        for _ in 0..100 {
            output.write_line(&[b'x'; 1024]);
        }
        assert_eq!(output.lost(), 36);
    }
}
