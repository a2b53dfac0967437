//! `ringwall create`: a sandbox that stays until its time is up.

use std::process::ExitCode;

use serde_json::{Value, json};

use crate::args::{CreateArgs, map};
use crate::failure::Failure;
use crate::{remote, ui};

/// Makes it and prints its id.
pub(crate) fn execute(args: &CreateArgs) -> Result<ExitCode, Failure> {
    let mut body = json!({
        "templateID": args.template,
        "envVars": map(&args.env),
        "metadata": map(&args.label),
        "autoPause": args.auto_pause,
    });
    if let Some(timeout) = args.timeout {
        body["timeout"] = seconds(timeout).into();
    }
    remote::run(async |service| {
        let (_, made): (_, Value) = service.post("a create", "/v2/sandboxes", &body).await?;
        if args.json {
            ui::json(&made)?;
        } else {
            let id = made["sandboxID"].as_str();
            ui::line(id.ok_or_else(|| Failure::own("the service does not say what it has made"))?);
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// Whole seconds, at least 1: the service counts in those.
pub(super) fn seconds(time: ringwall_types::WallTime) -> u64 {
    time.0.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX)
}
