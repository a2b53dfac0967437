//! The log: one line for each event, to standard error or a file; both, and how much, may be changed while the VMM runs.

use std::fs::File;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};

use ringwall_vmm_proto::Level;
use tracing::Metadata;
use tracing_subscriber::fmt::MakeWriter;

/// Where lines go; standard error without.
static FILE: Mutex<Option<File>> = Mutex::new(None);
/// Lines up to this severity are written: 0 none, 1 errors, 5 all.
static LEVEL: AtomicU8 = AtomicU8::new(2);

/// The log's end, which decides line by line.
#[derive(Debug, Clone, Copy)]
struct Log;

/// The end for one line.
#[derive(Debug)]
struct Line {
    is_written: bool,
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line { is_written: true }
    }

    fn make_writer_for(&'a self, about: &Metadata<'_>) -> Line {
        let severity = match *about.level() {
            tracing::Level::ERROR => 1,
            tracing::Level::WARN => 2,
            tracing::Level::INFO => 3,
            tracing::Level::DEBUG => 4,
            tracing::Level::TRACE => 5,
        };
        Line {
            is_written: severity <= LEVEL.load(Ordering::Relaxed),
        }
    }
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.is_written {
            return Ok(bytes.len());
        }
        match &mut *FILE.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(file) => file.write(bytes),
            None => io::stderr().write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Begins to log. Once for a process.
pub(crate) fn begin(level: Option<Level>, show_level: bool, show_origin: bool) {
    set_level(level.unwrap_or(Level::Warn));
    // Nothing of this program's logs often enough that formatting what is not written would show.
    let begun = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_level(show_level)
        .with_target(show_origin)
        .with_writer(Log)
        .try_init();
    // A second time is a test's; the first stays.
    drop(begun);
}

/// Logs to a file from now on.
pub(crate) fn to_file(file: File) {
    *FILE.lock().unwrap_or_else(PoisonError::into_inner) = Some(file);
}

/// Changes what is logged.
pub(crate) fn set_level(level: Level) {
    let most = match level {
        Level::Off => 0,
        Level::Error => 1,
        Level::Warn => 2,
        Level::Info => 3,
        Level::Debug => 4,
        Level::Trace => 5,
    };
    LEVEL.store(most, Ordering::Relaxed);
}
