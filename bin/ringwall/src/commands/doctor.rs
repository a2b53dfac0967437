//! `ringwall doctor`: what this machine offers. Exits 0 if any tier is usable.

use std::process::ExitCode;

use super::names;
use crate::args::DoctorArgs;
use crate::failure::Failure;
use crate::ui;

/// Examines the machine.
pub(crate) fn execute(args: &DoctorArgs) -> Result<ExitCode, Failure> {
    let doctor = ringwall_probe::probe(names::state()?.path());
    if args.json {
        ui::line(&serde_json::to_string_pretty(&doctor).map_err(Failure::own)?);
    } else {
        ui::out(&doctor.render_text());
    }
    Ok(if doctor.usable() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
