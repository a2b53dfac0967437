//! `ringwall resume ID`.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::create::seconds;
use crate::args::ResumeArgs;
use crate::failure::Failure;
use crate::{remote, ui};

/// Lets it go on. One that runs already is as asked, and may live longer.
pub(crate) fn execute(args: &ResumeArgs) -> Result<ExitCode, Failure> {
    let path = format!("/v2/sandboxes/{}/connect", remote::encode(&args.id));
    let body = match args.timeout {
        Some(timeout) => json!({ "timeout": seconds(timeout) }),
        None => json!({}),
    };
    remote::run(async |service| {
        let (status, made): (_, Value) = service.post("a resume", &path, &body).await?;
        if status == http::StatusCode::OK {
            ui::note(&format!("{} runs already", args.id));
        }
        if args.json {
            ui::json(&made)?;
        }
        Ok(ExitCode::SUCCESS)
    })
}
