//! `ringwall gc`: removes what crashes left over; `--dry-run` says what and why.

use std::process::ExitCode;
use std::time::Duration;

use super::names;
use crate::args::GcArgs;
use crate::failure::{Failure, OWN};
use crate::{remote, ui};

/// How long sandboxes whose time was up may take to end.
const END_PATIENCE: Duration = Duration::from_secs(30);

/// Collects.
pub(crate) fn execute(args: &GcArgs) -> Result<ExitCode, Failure> {
    let found = ringwall_backend_process::collect(&names::state()?, args.dry_run).map_err(Failure::own)?;
    let ended = if args.dry_run { Vec::new() } else { end_overdue()? };
    if found.is_empty() && ended.is_empty() {
        ui::line("nothing left over");
    }
    for id in ended {
        ui::line(&format!("{id}: ended or paused: its time was up"));
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

/// Ends sandboxes of this machine's service whose time is up, unless a server sees to that.
fn end_overdue() -> Result<Vec<String>, Failure> {
    let ended = remote::run_local(async |service| match service.host() {
        Some(host) => Ok(host.end_overdue(END_PATIENCE).await),
        None => Ok(Vec::new()),
    })?;
    Ok(ended.unwrap_or_default())
}
