//! Finding stored sandboxes by name, for the commands that work on one.

use std::path::PathBuf;

use ringwall_backend_process::{OpenStateError, StateDir, StoredSandbox};
use ringwall_layer::{Capture, OpenCaptureError};
use ringwall_types::SandboxName;

use crate::failure::Failure;

/// Returns this user's state directory.
pub(crate) fn state() -> Result<StateDir, Failure> {
    StateDir::locate(|name| std::env::var_os(name).map(PathBuf::from)).map_err(Failure::usage)
}

/// Turns a failed look-up into what the user is told.
pub(crate) fn failed(error: OpenStateError) -> Failure {
    match error {
        OpenStateError::Unknown { .. } => Failure::usage(error).hint("`ringwall ps -a` lists the names there are"),
        OpenStateError::Busy { .. } => Failure::own(error).hint("wait until it has ended, or `ringwall kill` it"),
        _ => Failure::own(error),
    }
}

/// Opens a name that is not running, and the changes it holds.
pub(crate) fn open_capture(name: &SandboxName) -> Result<(StoredSandbox, Capture), Failure> {
    let stored = state()?.open(name).map_err(failed)?;
    let capture = Capture::open(stored.path()).map_err(|error| match error {
        OpenCaptureError::NotFound { .. } => Failure::usage(format!("{name} holds no changes")),
        error => Failure::own(error),
    })?;
    Ok((stored, capture))
}
