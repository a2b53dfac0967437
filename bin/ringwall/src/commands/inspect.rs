//! `ringwall inspect NAME`: the record of its last run, its changes, and whether a commit was interrupted.

use std::process::ExitCode;

use ringwall_layer::{Capture, Pending};
use ringwall_types::SandboxName;
use serde_json::json;

use super::names;
use crate::failure::Failure;
use crate::ui;

/// Prints JSON.
pub(crate) fn execute(name: &SandboxName) -> Result<ExitCode, Failure> {
    let state = names::state()?;
    let (record, run_state) = state.look_up(name).map_err(names::failed)?;
    let path = state.path().join(name.as_str());
    let changes = Capture::open(&path).ok().map(|capture| {
        let pending = match capture.pending() {
            Ok(Pending::Nothing) => "nothing",
            Ok(Pending::StaleStage) => "stale-stage",
            Ok(Pending::Commit) => "commit",
            Ok(Pending::Rollback) => "rollback",
            Ok(Pending::Cleanup) => "cleanup",
            Err(_) => "unknown",
        };
        json!({ "target": capture.target(), "started_ns": capture.started_ns(), "pending": pending })
    });
    let text = json!({ "name": name, "state": run_state, "path": path, "record": record, "changes": changes });
    ui::line(&serde_json::to_string_pretty(&text).map_err(Failure::own)?);
    Ok(ExitCode::SUCCESS)
}
