//! `ringwall ps`: this user's sandboxes of `run`, by their state directories, and the service's.

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use ringwall_backend_process::{Record, RunState};
use serde_json::{Value, json};

use super::names;
use crate::args::PsArgs;
use crate::failure::Failure;
use crate::remote::Search;
use crate::remote::wire::Detail;
use crate::{remote, ui};

/// Most characters of a command shown.
const MAX_COMMAND_CHARS: usize = 60;

/// Lists. When the service can't be asked, what `run` has is listed all the same, and then it is said.
pub(crate) fn execute(args: &PsArgs) -> Result<ExitCode, Failure> {
    let state = names::state()?;
    let mut rows = Vec::new();
    for name in state.names().map_err(Failure::own)? {
        // It may have ended since the names were read.
        let Ok((record, run_state)) = state.look_up(&name) else {
            continue;
        };
        if args.all || run_state == RunState::Running {
            let json = json!({ "name": name, "state": run_state, "record": record });
            rows.push((json, run_cells(name.to_string(), record.as_ref(), run_state)));
        }
    }
    let asked = served(args.all);
    let failure = match asked {
        Ok(more) => {
            rows.extend(more);
            None
        }
        Err(failure) => Some(failure),
    };
    if args.json {
        ui::json(&rows.into_iter().map(|(json, _)| json).collect::<Vec<_>>())?;
    } else {
        let cells: Vec<_> = rows.into_iter().map(|(_, cells)| cells).collect();
        ui::table(&["NAME", "STATE", "TIER", "AGE", "COMMAND"], &cells);
    }
    failure.map_or(Ok(ExitCode::SUCCESS), Err)
}

fn run_cells(name: String, record: Option<&Record>, state: RunState) -> Vec<String> {
    let state = match state {
        RunState::Running => "running",
        RunState::Ended => "ended",
        RunState::Interrupted => "interrupted",
    };
    let tier = record.map_or("-".to_owned(), |record| record.tier.to_string());
    let age = record.map_or("-".to_owned(), |record| {
        let started = SystemTime::UNIX_EPOCH + Duration::from_millis(record.started_ms);
        age(SystemTime::now().duration_since(started).unwrap_or_default().as_secs())
    });
    let command = record.map_or(String::new(), |record| record.command.join(" "));
    let command = command.chars().take(MAX_COMMAND_CHARS).collect();
    vec![name, state.to_owned(), tier, age, command]
}

/// The service's, if there is one.
fn served(all: bool) -> Result<Vec<(Value, Vec<String>)>, Failure> {
    let path = if all {
        "/v2/sandboxes?limit=100"
    } else {
        "/v2/sandboxes?limit=100&state=running"
    };
    let rows = remote::run_if_any(Search::IfAny, async |service| {
        let mut rows = Vec::new();
        for item in service.list("a list of sandboxes", path).await? {
            let found: Detail = remote::read(item.clone(), "a list of sandboxes")?;
            let json = json!({ "name": found.sandbox_id, "state": found.state, "sandbox": item });
            rows.push((json, service_cells(found)));
        }
        Ok(rows)
    })?;
    Ok(rows.unwrap_or_default())
}

fn service_cells(found: Detail) -> Vec<String> {
    let seconds = |text: &str| text.parse().ok().map(jiff::Timestamp::as_second);
    let now = jiff::Timestamp::now().as_second();
    let age_of =
        |seconds: Option<i64>| seconds.map_or("-".to_owned(), |seconds| age(u64::try_from(seconds).unwrap_or(0)));
    let template = found.alias.unwrap_or(found.template_id);
    let mut about = format!("template {template}");
    if found.state == "running" {
        about.push_str(&format!(
            ", ends in {}",
            age_of(seconds(&found.end_at).map(|end| end - now))
        ));
    }
    vec![
        found.sandbox_id,
        found.state,
        found.isolation.unwrap_or_else(|| "-".to_owned()),
        age_of(seconds(&found.started_at).map(|start| now - start)),
        about,
    ]
}

fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86400),
    }
}
