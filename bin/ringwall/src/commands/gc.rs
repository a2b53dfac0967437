//! `ringwall gc`: removes what crashes left over; `--dry-run` says what and why.

use std::process::ExitCode;

use super::names;
use crate::args::GcArgs;
use crate::failure::{Failure, OWN};
use crate::ui;

/// Collects.
pub(crate) fn execute(args: &GcArgs) -> Result<ExitCode, Failure> {
    let found = ringwall_backend_process::collect(&names::state()?, args.dry_run).map_err(Failure::own)?;
    if found.is_empty() {
        ui::line("nothing left over");
    }
    let mut has_failed = false;
    for leftover in found {
        let verb = match (&leftover.error, leftover.removable, args.dry_run) {
            (Some(_), ..) => "failed",
            (None, false, _) => "kept",
            (None, true, true) => "would remove",
            (None, true, false) => "removed",
        };
        let mut text = format!("{}: {verb} {}: {}", leftover.name, leftover.what, leftover.why);
        if let Some(error) = &leftover.error {
            has_failed = true;
            text.push_str(&format!(" ({error})"));
        }
        ui::line(&text);
    }
    Ok(if has_failed {
        ExitCode::from(OWN)
    } else {
        ExitCode::SUCCESS
    })
}
