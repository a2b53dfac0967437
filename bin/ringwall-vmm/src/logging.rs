//! The log: one line for each event, to standard error or a file; both, and how much, may be changed while the VMM runs. It waits for nobody:
//! a line that is not taken is lost, and the next one that is says how many were.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ringwall_vmm_proto::Level;
use tracing::Metadata;
use tracing_subscriber::fmt::MakeWriter;

use crate::outlet::Outlet;

/// Where lines go.
static LINES: Mutex<Lines> = Mutex::new(Lines {
    outlet: None,
    rest: Vec::new(),
    lost: 0,
});
/// How long [`say`] waits for its reader.
const PATIENCE: Duration = Duration::from_secs(1);

/// Lines on their way.
#[derive(Debug)]
struct Lines {
    /// Standard error, or a file; nothing if the former is closed.
    outlet: Option<Outlet>,
    /// The rest of a line that was taken in part; at most one line.
    rest: Vec<u8>,
    /// Lines that were not taken since the last that was.
    lost: u64,
}

impl Lines {
    fn put(&mut self, line: &[u8]) {
        let rest = std::mem::take(&mut self.rest);
        if !rest.is_empty() {
            self.rest = self.offer(rest);
        }
        if self.rest.is_empty() && self.lost > 0 {
            let told = format!("{} log lines were lost: nobody read them\n", self.lost).into_bytes();
            let length = told.len();
            let rest = self.offer(told);
            if rest.len() < length {
                (self.lost, self.rest) = (0, rest);
            }
        }
        if !self.rest.is_empty() || self.lost > 0 {
            self.lost = self.lost.saturating_add(1);
            return;
        }
        let rest = self.offer(line.to_vec());
        if rest.len() < line.len() {
            self.rest = rest;
        } else {
            self.lost = self.lost.saturating_add(1);
        }
    }

    /// Writes what is taken; the rest.
    fn offer(&mut self, mut bytes: Vec<u8>) -> Vec<u8> {
        let Some(outlet) = &mut self.outlet else {
            return Vec::new();
        };
        while !bytes.is_empty() {
            match outlet.write(&bytes) {
                Ok(taken) if taken > 0 => drop(bytes.drain(..taken.min(bytes.len()))),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => break,
            }
        }
        bytes
    }
}

fn lines() -> MutexGuard<'static, Lines> {
    LINES.lock().unwrap_or_else(PoisonError::into_inner)
}

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
        lines().put(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Begins to log. Once for a process.
pub(crate) fn begin(level: Option<Level>, show_level: bool, show_origin: bool) {
    set_level(level.unwrap_or(Level::Warn));
    lines().outlet = standard_error();
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
    let mut lines = lines();
    lines.outlet = Some(Outlet::own(file));
    lines.rest.clear();
}

fn standard_error() -> Option<Outlet> {
    Outlet::shared(io::stderr().as_fd()).ok()
}

/// Says something on standard error, whatever is logged and where; whoever does not read it is waited for only a moment.
pub(crate) fn say(text: &str) {
    if let Some(mut outlet) = standard_error() {
        outlet.write_within(format!("{text}\n").as_bytes(), PATIENCE);
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    #[test]
    fn lines_that_nobody_reads_are_counted_and_the_others_are_whole() {
        let (mut reader, writer) = io::pipe().unwrap();
        let mut lines = Lines {
            outlet: Some(Outlet::shared(writer.as_fd()).unwrap()),
            rest: Vec::new(),
            lost: 0,
        };
        drop(writer);
        let long = "x".repeat(5_000);
        for number in 0..100 {
            lines.put(format!("{number} {long}\n").as_bytes());
        }
        assert!(lines.lost > 0);
        let mut bytes = vec![0; 40_000];
        reader.read_exact(&mut bytes).unwrap();
        let lost = lines.lost;
        lines.put(b"last\n");
        assert_eq!(lines.lost, 0);
        drop(lines);
        reader.read_to_end(&mut bytes).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        let (ends, told) = (
            text.split_terminator('\n').rev(),
            format!("{lost} log lines were lost: nobody read them"),
        );
        assert_eq!(ends.take(2).collect::<Vec<_>>(), ["last", told.as_str()]);
        for (number, line) in text.split_terminator('\n').enumerate().take(text.lines().count() - 2) {
            assert_eq!(line, format!("{number} {long}"), "a line is cut or out of order");
        }
    }
}
