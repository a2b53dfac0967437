//! `ringwall run`: policy, spec, run, and what the user is told at the end.

use std::fs;
use std::path::Path;
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
    };
    let report = ringwall_backend_process::run(&spec, &names::state()?).map_err(explain)?;
    if !args.quiet {
        tell(&report);
    }
    if let Some(file) = &args.report {
        write_report(&report, file)?;
    }
    Ok(ExitCode::from(
        u8::try_from(report.exit_code.clamp(0, 255)).unwrap_or(OWN),
    ))
}

/// Says in a line each what the user would not know otherwise; nothing when all went as it does without a sandbox.
fn tell(report: &Report) {
    for why in &report.passed_over {
        ui::note(&format!("ran in the {} tier: {why}", report.tier));
    }
    let command = report.command.first().map_or("", String::as_str);
    match &report.exit {
        ExitReason::NotFound => ui::note(&format!(
            "{}: command not found inside the sandbox",
            command.escape_debug()
        )),
        ExitReason::NotExecutable { why } => ui::note(&format!("{}: can't be executed: {why}", command.escape_debug())),
        ExitReason::Timeout => ui::note("ended: its time is up"),
        ExitReason::Memory => ui::note("ended by the kernel: it used more memory than its limit"),
        ExitReason::Disk => ui::note("ended: it wrote more than its disk limit"),
        ExitReason::Killed => ui::note("the sandbox was killed from outside"),
        ExitReason::Pids { .. } => ui::note("it was refused processes beyond its limit"),
        ExitReason::Exited { .. } | ExitReason::Signal { .. } => {}
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

fn write_report(report: &Report, file: &Path) -> Result<(), Failure> {
    let mut text = serde_json::to_string_pretty(report).map_err(Failure::own)?;
    text.push('\n');
    if file == Path::new("-") {
        // Standard output is the program's.
        eprint_report(&text);
        return Ok(());
    }
    fs::write(file, text)
        .map_err(|error| Failure::own(format!("can't write the report to {}: {error}", file.display())))
}

fn eprint_report(text: &str) {
    use std::io::Write;
    drop(std::io::stderr().lock().write_all(text.as_bytes()));
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
