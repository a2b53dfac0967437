//! `ringwall snapshot`: taken, listed, removed.

use std::process::ExitCode;

use serde_json::{Value, json};

use crate::args::{SnapshotArgs, SnapshotCommand};
use crate::failure::{Failure, OWN};
use crate::remote::wire::Snapshot;
use crate::{remote, ui};

/// Does what is asked.
pub(crate) fn execute(args: &SnapshotArgs) -> Result<ExitCode, Failure> {
    match (&args.command, &args.id) {
        (Some(SnapshotCommand::Ls { sandbox, json }), _) => list(sandbox.as_deref(), *json),
        (Some(SnapshotCommand::Rm { ids }), _) => remove(ids),
        (None, Some(id)) => take(id, args),
        // clap asks for one of them.
        (None, None) => Err(Failure::usage("name a sandbox")),
    }
}

fn take(id: &str, args: &SnapshotArgs) -> Result<ExitCode, Failure> {
    let path = format!("/sandboxes/{}/snapshots", remote::encode(id));
    let body = match &args.name {
        Some(name) => json!({ "name": name }),
        None => json!({}),
    };
    remote::run(async |service| {
        let (_, taken): (_, Value) = service.post("a snapshot", &path, &body).await?;
        if args.json {
            ui::json(&taken)?;
        } else {
            let id = taken["snapshotID"].as_str();
            ui::line(id.ok_or_else(|| Failure::own("the service does not say what it has made"))?);
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn list(sandbox: Option<&str>, as_json: bool) -> Result<ExitCode, Failure> {
    let mut path = "/snapshots?limit=100".to_owned();
    if let Some(id) = sandbox {
        path.push_str(&format!("&sandboxID={}", remote::encode(id)));
    }
    remote::run(async |service| {
        let found = service.list("a list of snapshots", &path).await?;
        if as_json {
            ui::json(&found)?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut rows = Vec::new();
        for item in found {
            let snapshot: Snapshot = remote::read(item, "a list of snapshots")?;
            rows.push(vec![
                snapshot.snapshot_id,
                snapshot.names.join(","),
                snapshot.sandbox_id,
                snapshot.created_at,
            ]);
        }
        ui::table(&["ID", "NAME", "SANDBOX", "CREATED"], &rows);
        Ok(ExitCode::SUCCESS)
    })
}

fn remove(ids: &[String]) -> Result<ExitCode, Failure> {
    remote::run(async |service| super::template::remove_all(service, ids).await)
}

/// The exit code of a command that did only some of what it was asked.
pub(super) fn partly(has_failed: bool) -> ExitCode {
    if has_failed {
        ExitCode::from(OWN)
    } else {
        ExitCode::SUCCESS
    }
}
