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

/// Opens a name that is not running, and the changes it holds, if any.
pub(crate) fn open_stored(name: &SandboxName) -> Result<(StoredSandbox, Option<Capture>), Failure> {
    let stored = state()?.open(name).map_err(failed)?;
    match Capture::open(stored.path()) {
        Ok(capture) => Ok((stored, Some(capture))),
        Err(OpenCaptureError::NotFound { .. }) => Ok((stored, None)),
        Err(error) => Err(Failure::own(error)),
    }
}

/// Opens a name that is not running, and the changes it holds.
pub(crate) fn open_capture(name: &SandboxName) -> Result<(StoredSandbox, Capture), Failure> {
    match open_stored(name)? {
        (stored, Some(capture)) => Ok((stored, capture)),
        (_, None) => Err(no_changes(name)),
    }
}

/// What is said of a name without changes.
pub(crate) fn no_changes(name: &SandboxName) -> Failure {
    Failure::usage(format!("{name} holds no changes"))
}
