//! `ringwall diff NAME`: what a sandbox changed, by name, in numbers, or line by line.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use ringwall_layer::diff::{DiffError, DiffOptions, write_names, write_patch, write_stat};

use super::names;
use crate::args::DiffArgs;
use crate::failure::Failure;
use crate::ui;

/// Prints.
pub(crate) fn execute(args: &DiffArgs) -> Result<ExitCode, Failure> {
    let (_stored, capture) = names::open_capture(&args.name)?;
    let scan = capture.scan().map_err(Failure::own)?;
    for note in &scan.notes {
        ui::note(&note.to_string());
    }
    let mut out = io::BufWriter::new(io::stdout().lock());
    // Contents were written by an untrusted program: a terminal must not be driven by them, a file gets them as they are.
    let options = DiffOptions {
        escape_controls: io::stdout().is_terminal(),
        ..DiffOptions::default()
    };
    let written = if args.patch {
        write_patch(&capture, &scan, options, &mut out)
    } else if args.stat {
        write_stat(&capture, &scan, options, &mut out)
    } else {
        write_names(&scan, &mut out).map_err(DiffError::Output)
    };
    match written.and_then(|()| out.flush().map_err(DiffError::Output)) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(DiffError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        Err(error) => Err(Failure::own(error)),
    }
}
