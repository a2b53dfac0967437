//! `ringwall run`: policy, spec, run, and what the user is told at the end.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use ringwall_backend_process::{PlanError, RunError};
use ringwall_sandbox::{ExitReason, Report, RunSpec};

use super::{names, policy};
use crate::args::RunArgs;
use crate::failure::{Failure, OWN, USAGE};
use crate::ui;

/// Runs the command and returns its exit code.
pub(crate) fn execute(args: RunArgs) -> Result<ExitCode, Failure> {
    let current_dir = std::env::current_dir().map_err(|error| {
        Failure::usage(format!("can't find the current directory: {error}"))
            .hint("it may have been removed; change to one that exists")
    })?;
    let policy = policy::effective(args.policy, &current_dir)?;
    let spec = RunSpec {
        command: args.command,
        policy,
        current_dir,
        caller_env: std::env::vars_os().collect(),
        record_denials: args.report.is_some(),
        log_output: args.log,
        guest: None,
    };
    // Opened before the run: a command must not run whose report then can't be written.
    let report_file = args.report.as_deref().map(open_report).transpose()?;
    let report = ringwall_backend_process::run(&spec, &names::state()?).map_err(explain)?;
    tell_of_start(&report);
    if !args.quiet {
        tell(&report);
    }
    if let Some(file) = report_file {
        write_report(&report, file)?;
    }
    Ok(ExitCode::from(
        u8::try_from(report.exit_code.clamp(0, 255)).unwrap_or(OWN),
    ))
}

/// Says why the command did not start; its exit code alone would be silent.
fn tell_of_start(report: &Report) {
    let command = report.command.first().map_or("", String::as_str);
    let command = if command.is_empty() {
        "an empty command"
    } else {
        command
    };
    match &report.exit {
        ExitReason::NotFound => ui::note(&format!("{command}: command not found inside the sandbox")),
        ExitReason::NotExecutable { why } => ui::note(&format!("{command}: can't be executed: {why}")),
        _ => {}
    }
}

/// Says in a line each what the user would not know otherwise; nothing when all went as it does without a sandbox.
fn tell(report: &Report) {
    for why in &report.passed_over {
        ui::note(&format!("ran in the {} tier: {why}", report.tier));
    }
    match &report.exit {
        ExitReason::Timeout => ui::note("ended: its time is up"),
        ExitReason::Memory => ui::note("ended by the kernel: it used more memory than its limit"),
        ExitReason::Disk => ui::note("ended: it wrote more than its disk limit"),
        ExitReason::Killed => ui::note("the sandbox was killed from outside"),
        ExitReason::Pids { .. } => ui::note("it was refused processes beyond its limit"),
        ExitReason::Exited { .. }
        | ExitReason::Signal { .. }
        | ExitReason::NotFound
        | ExitReason::NotExecutable { .. } => {}
    }
    for note in &report.notes {
        ui::note(note);
    }
    if let Some(changes) = &report.changes {
        let counts = format!(
            "{} added, {} modified, {} deleted",
            changes.added, changes.modified, changes.deleted
        );
        let target = changes.target.display();
        let name = &report.name;
        match changes.state.as_str() {
            "kept" => ui::note(&format!(
                "changes in {target} kept as {name} ({counts}): see `ringwall diff {name}`, then `ringwall commit {name}` or `ringwall discard {name}`"
            )),
            state => ui::note(&format!("changes in {target} {state} ({counts})")),
        }
    }
}

/// Where a report goes.
enum ReportFile {
    Output,
    File(fs::File, PathBuf),
}

fn open_report(path: &Path) -> Result<ReportFile, Failure> {
    if path == Path::new("-") {
        return Ok(ReportFile::Output);
    }
    match fs::File::create(path) {
        Ok(file) => Ok(ReportFile::File(file, path.to_owned())),
        Err(error) => Err(Failure::usage(format!(
            "can't write the report to {}: {error}",
            path.display()
        ))),
    }
}

fn write_report(report: &Report, to: ReportFile) -> Result<(), Failure> {
    let mut text = serde_json::to_string_pretty(report).map_err(Failure::own)?;
    text.push('\n');
    match to {
        ReportFile::Output => {
            ui::err(&text);
            Ok(())
        }
        ReportFile::File(mut file, path) => file
            .write_all(text.as_bytes())
            .map_err(|error| Failure::own(format!("can't write the report to {}: {error}", path.display()))),
    }
}

/// Chooses exit code and hint for a run that did not start.
fn explain(error: RunError) -> Failure {
    let (code, hint) = match &error {
        RunError::Plan(
            PlanError::Path { .. } | PlanError::Nul { .. } | PlanError::NoVariable { .. } | PlanError::Tier { .. },
        ) => (USAGE, None),
        RunError::Plan(PlanError::Limit { .. }) => (OWN, Some("`ringwall doctor` says what this machine can enforce")),
        RunError::Unavailable { .. } | RunError::NoTier { .. } => (
            OWN,
            Some("`ringwall doctor` says what is missing and what would fix it"),
        ),
        RunError::State(ringwall_backend_process::OpenStateError::Busy { .. }) => {
            (OWN, Some("choose another --name, or wait for the other run"))
        }
        _ => (OWN, None),
    };
    let failure = Failure {
        error: Box::new(error),
        hint: None,
        code,
    };
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}
