//! `ringwall logs NAME`: the output of a run with `--log`, or what happened to a service's sandbox.

use std::fs::File;
use std::process::ExitCode;

use ringwall_backend_process::OpenStateError;
use serde_json::Value;

use super::names;
use crate::args::LogsArgs;
use crate::failure::Failure;
use crate::remote::Search;
use crate::remote::wire::LogLine;
use crate::{remote, ui};

/// Prints it: output as it is, events a line each.
pub(crate) fn execute(args: &LogsArgs) -> Result<ExitCode, Failure> {
    let name = &args.name;
    let state = names::state()?;
    match state.look_up(name) {
        Err(unknown @ OpenStateError::Unknown { .. }) => {
            return events(args)?.ok_or_else(|| names::failed(unknown));
        }
        found => found.map_err(names::failed)?,
    };
    let path = state.path().join(name.as_str()).join("output.log");
    let mut file = File::open(&path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            Failure::usage(format!("the output of {name} was not stored")).hint("run it with --log")
        }
        _ => Failure::own(error),
    })?;
    match std::io::copy(&mut file, &mut std::io::stdout().lock()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Failure::own(error)),
        _ => Ok(ExitCode::SUCCESS),
    }
}

fn events(args: &LogsArgs) -> Result<Option<ExitCode>, Failure> {
    remote::run_if_any(Search::IfAny, async |service| {
        let path = format!("/v2/sandboxes/{}/logs?limit=1000", args.name);
        let mut logs: Value = service.get("a question for logs", &path).await?;
        let lines = logs["logs"].take();
        if args.json {
            ui::json(&lines)?;
            return Ok(ExitCode::SUCCESS);
        }
        let lines: Vec<LogLine> = remote::read(lines, "a question for logs")?;
        for line in lines {
            let mut text = format!("{} {:<5} {}", line.timestamp, line.level, line.message);
            for (name, value) in &line.fields {
                text.push_str(&format!(" {name}={value}"));
            }
            ui::line(&ui::visible(&text.replace('\n', "\\n")));
        }
        Ok(ExitCode::SUCCESS)
    })
}
