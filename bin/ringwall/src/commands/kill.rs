//! `ringwall kill`: ends sandboxes, those of `run` (whose keeper then settles what they changed) and the service's.

use std::process::ExitCode;

use ringwall_backend_process::{OpenStateError, RunState};
use ringwall_types::SandboxName;

use super::names;
use super::snapshot::partly;
use crate::args::KillArgs;
use crate::failure::Failure;
use crate::remote::{Search, Service};
use crate::{remote, ui};

/// Kills. A sandbox that does not run is already as asked.
pub(crate) fn execute(args: &KillArgs) -> Result<ExitCode, Failure> {
    if args.all {
        return kill_all();
    }
    let state = names::state()?;
    let mut others = Vec::new();
    let mut failures = Vec::new();
    for name in &args.names {
        match state.look_up(name) {
            Err(OpenStateError::Unknown { .. }) => others.push(name),
            found => failures.extend(kill_run(name, found).err()),
        }
    }
    if !others.is_empty() {
        let done = remote::run_if_any(Search::IfAny, async |service| {
            Ok::<_, Failure>(kill_ids(service, &others).await)
        })?;
        match done {
            Some(more) => failures.extend(more),
            None => {
                for &name in &others {
                    failures.extend(state.look_up(name).map_err(names::failed).err());
                }
            }
        }
    }
    one_for_all(failures)
}

/// Of several failures all but the last are told at once.
fn one_for_all(mut failures: Vec<Failure>) -> Result<ExitCode, Failure> {
    let Some(last) = failures.pop() else {
        return Ok(ExitCode::SUCCESS);
    };
    for failure in &failures {
        // Only the last one's code can be returned.
        let _ = ui::failure(failure);
    }
    Err(last)
}

fn kill_run(
    name: &SandboxName,
    found: Result<(Option<ringwall_backend_process::Record>, RunState), OpenStateError>,
) -> Result<(), Failure> {
    match found.map_err(names::failed)? {
        (Some(record), RunState::Running) => {
            record
                .ask_keeper_to_kill()
                .map_err(|error| Failure::own(format!("can't kill {name}: {error}")))?;
            ui::note(&format!("{name} killed"));
            Ok(())
        }
        (None, RunState::Running) => Err(Failure::own(format!("{name} is just starting")).hint("try again")),
        (_, RunState::Ended | RunState::Interrupted) => {
            ui::note(&format!("{name} is not running"));
            Ok(())
        }
    }
}

async fn kill_ids(service: &Service, ids: &[&SandboxName]) -> Vec<Failure> {
    let mut failures = Vec::new();
    for id in ids {
        match service.delete(&format!("/sandboxes/{id}")).await {
            Ok(()) => ui::note(&format!("{id} killed")),
            Err(error) => failures.push(error.into()),
        }
    }
    failures
}

fn kill_all() -> Result<ExitCode, Failure> {
    let done = remote::run_if_any(Search::IfAny, async |service| {
        let mut has_failed = false;
        for item in service.list("a list of sandboxes", "/v2/sandboxes?limit=100").await? {
            let found: remote::wire::Detail = remote::read(item, "a list of sandboxes")?;
            let id = found.sandbox_id;
            match service.delete(&format!("/sandboxes/{}", remote::encode(&id))).await {
                // Its time may just have been up.
                Err(error) if !error.is_not_found() => {
                    has_failed = true;
                    ui::note(&format!("can't kill {id}: {error}"));
                }
                _ => ui::note(&format!("{id} killed")),
            }
        }
        Ok(partly(has_failed))
    })?;
    Ok(done.unwrap_or(ExitCode::SUCCESS))
}
