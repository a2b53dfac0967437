//! `ringwall logs NAME`: the output of a run with `--log`.

use std::fs::File;
use std::process::ExitCode;

use ringwall_types::SandboxName;

use super::names;
use crate::failure::Failure;

/// Prints it, as it is.
pub(crate) fn execute(name: &SandboxName) -> Result<ExitCode, Failure> {
    let state = names::state()?;
    state.look_up(name).map_err(names::failed)?;
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
