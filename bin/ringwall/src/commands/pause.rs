//! `ringwall pause ID`.

use std::process::ExitCode;

use serde_json::json;

use crate::failure::Failure;
use crate::remote::CallError;
use crate::{remote, ui};

/// Freezes. A sandbox that is paused already is as asked.
pub(crate) fn execute(id: &str) -> Result<ExitCode, Failure> {
    let path = format!("/sandboxes/{}/pause", remote::encode(id));
    remote::run(async |service| match service.order(&path, &json!({})).await {
        Err(CallError::Refused { status, .. }) if status == http::StatusCode::CONFLICT => {
            ui::note(&format!("{id} is paused already"));
            Ok(ExitCode::SUCCESS)
        }
        result => Ok(result.map(|()| ExitCode::SUCCESS)?),
    })
}
