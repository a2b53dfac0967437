//! `ringwall diff NAME`: what a sandbox changed, by name, in numbers, or line by line.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use ringwall_layer::diff::{DiffError, DiffOptions, write_names, write_patch, write_stat};
use serde_json::Value;

use super::names;
use crate::args::DiffArgs;
use crate::failure::Failure;
use crate::{remote, ui};

/// Prints.
pub(crate) fn execute(args: &DiffArgs) -> Result<ExitCode, Failure> {
    if let Some(other) = &args.other {
        return compare(args.name.as_str(), other.as_str());
    }
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

/// What changed between two sandboxes or snapshots of the service: added, deleted, modified, mode or owner only (`m`).
fn compare(from: &str, to: &str) -> Result<ExitCode, Failure> {
    let path = format!("/ringwall/diff?from={}&to={}", remote::encode(from), remote::encode(to));
    remote::run(async |service| {
        let found: Vec<Value> = service.get("a comparison", &path).await?;
        for change in found {
            let text = |field: &str| change.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
            // Names were chosen by an untrusted program.
            ui::line(&format!("{} {}", text("kind"), text("path").escape_debug()));
        }
        Ok(ExitCode::SUCCESS)
    })
}
