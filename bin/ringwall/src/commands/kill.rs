//! `ringwall kill NAME`: ends a running sandbox. Its keeper then settles what it changed.

use std::process::ExitCode;

use ringwall_backend_process::RunState;
use ringwall_types::SandboxName;

use super::names;
use crate::failure::Failure;
use crate::ui;

/// Kills. A sandbox that does not run is already as asked.
pub(crate) fn execute(name: &SandboxName) -> Result<ExitCode, Failure> {
    let (record, state) = names::state()?.look_up(name).map_err(names::failed)?;
    match (record, state) {
        (Some(record), RunState::Running) => {
            record
                .ask_keeper_to_kill()
                .map_err(|error| Failure::own(format!("can't kill {name}: {error}")))?;
            ui::note(&format!("{name} killed"));
        }
        (None, RunState::Running) => return Err(Failure::own(format!("{name} is just starting")).hint("try again")),
        (_, RunState::Ended | RunState::Interrupted) => ui::note(&format!("{name} is not running")),
    }
    Ok(ExitCode::SUCCESS)
}
