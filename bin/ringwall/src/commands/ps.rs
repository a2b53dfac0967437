//! `ringwall ps`: this user's sandboxes, by their state directories.

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use ringwall_backend_process::{Record, RunState};
use serde_json::json;

use super::names;
use crate::args::PsArgs;
use crate::failure::Failure;
use crate::ui;

/// Lists.
pub(crate) fn execute(args: &PsArgs) -> Result<ExitCode, Failure> {
    let state = names::state()?;
    let mut rows = Vec::new();
    for name in state.names().map_err(Failure::own)? {
        // It may have ended since the names were read.
        let Ok((record, run_state)) = state.look_up(&name) else {
            continue;
        };
        if args.all || run_state == RunState::Running {
            rows.push((name, record, run_state));
        }
    }
    if args.json {
        let rows: Vec<_> = rows
            .iter()
            .map(|(name, record, state)| json!({ "name": name, "state": state, "record": record }))
            .collect();
        ui::line(&serde_json::to_string_pretty(&rows).map_err(Failure::own)?);
        return Ok(ExitCode::SUCCESS);
    }
    ui::line(&format!(
        "{:<24} {:<12} {:<10} {:>8}  {}",
        "NAME", "STATE", "TIER", "AGE", "COMMAND"
    ));
    for (name, record, state) in rows {
        let state = match state {
            RunState::Running => "running",
            RunState::Ended => "ended",
            RunState::Interrupted => "interrupted",
        };
        let tier = record.as_ref().map_or("-".to_owned(), |record| record.tier.to_string());
        let age = record.as_ref().map_or("-".to_owned(), age);
        // What a program is called is its caller's text, but may hold anything.
        let command = record.as_ref().map_or(String::new(), |record| {
            record.command.join(" ").escape_debug().to_string()
        });
        let command: String = command.chars().take(60).collect();
        ui::line(&format!(
            "{:<24} {state:<12} {tier:<10} {age:>8}  {command}",
            name.to_string()
        ));
    }
    Ok(ExitCode::SUCCESS)
}

fn age(record: &Record) -> String {
    let started = SystemTime::UNIX_EPOCH + Duration::from_millis(record.started_ms);
    let seconds = SystemTime::now().duration_since(started).unwrap_or_default().as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86400),
    }
}
