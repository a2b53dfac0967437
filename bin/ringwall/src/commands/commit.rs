//! `ringwall commit NAME`: applies a name's changes, all or nothing; finishes a commit that was interrupted.

use std::process::ExitCode;

use ringwall_backend_process::StoredSandbox;
use ringwall_layer::{CommitError, CommitOptions, LockHeld};

use super::names;
use crate::args::CommitArgs;
use crate::failure::Failure;
use crate::ui;

/// Commits.
pub(crate) fn execute(args: &CommitArgs) -> Result<ExitCode, Failure> {
    let (stored, mut capture) = match names::open_stored(&args.name)? {
        (stored, Some(capture)) => (stored, capture),
        (stored, None) => return finish(stored),
    };
    let options = CommitOptions {
        force: args.force,
        ..CommitOptions::default()
    };
    let target = capture.target().to_owned();
    let report = capture
        .commit(LockHeld::assert(stored.lock()), options)
        .map_err(|error| {
            let hint = match &error {
                CommitError::Conflicts { .. } => Some(format!(
                    "look at `ringwall diff {0}`; `ringwall commit --force {0}` applies it all the same",
                    args.name
                )),
                CommitError::Stuck { .. } => Some(format!(
                    "free what the cause names, then `ringwall commit {}` again",
                    args.name
                )),
                _ => None,
            };
            let failure = Failure::own(error);
            match hint {
                Some(hint) => failure.hint(hint),
                None => failure,
            }
        })?;
    for stripped in &report.stripped {
        ui::note(&format!(
            "not applied, for safety: {} of {}",
            stripped.what, stripped.path
        ));
    }
    stored.remove().map_err(Failure::own)?;
    ui::note(&format!("{} committed to {}", args.name, target.display()));
    Ok(ExitCode::SUCCESS)
}

/// Finishes a commit that was killed while it tidied up: everything is applied, only its own files are left.
fn finish(stored: StoredSandbox) -> Result<ExitCode, Failure> {
    let name = stored.name().clone();
    // A run that was to capture has a description until its changes are settled; a name without a record is on its way out.
    if stored.record().is_some_and(|record| record.changes == "none") {
        return Err(names::no_changes(&name));
    }
    ringwall_layer::sweep(stored.path(), LockHeld::assert(stored.lock())).map_err(Failure::own)?;
    stored.remove().map_err(Failure::own)?;
    ui::note(&format!(
        "{name} has been settled before; what was left of it is removed"
    ));
    Ok(ExitCode::SUCCESS)
}
