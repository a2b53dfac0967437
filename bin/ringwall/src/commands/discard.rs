//! `ringwall discard NAME`: throws a name's changes, and the name, away.

use std::process::ExitCode;

use ringwall_layer::{Capture, LockHeld, OpenCaptureError};
use ringwall_types::SandboxName;

use super::names;
use crate::failure::Failure;
use crate::ui;

/// Discards.
pub(crate) fn execute(name: &SandboxName) -> Result<ExitCode, Failure> {
    let stored = names::state()?.open(name).map_err(names::failed)?;
    let lock = LockHeld::assert(stored.lock());
    let freed = match Capture::open(stored.path()) {
        Ok(capture) => capture.discard(lock).map_err(Failure::own)?,
        // Nothing captured, or what an interrupted discard left.
        Err(OpenCaptureError::NotFound { .. }) => ringwall_layer::sweep(stored.path(), lock).map_err(Failure::own)?,
        Err(error) => return Err(Failure::own(error)),
    };
    stored.remove().map_err(Failure::own)?;
    ui::note(&format!("{name} discarded, {freed} bytes freed"));
    Ok(ExitCode::SUCCESS)
}
