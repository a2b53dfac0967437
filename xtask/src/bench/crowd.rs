//! The benchmark `crowd`: many sandboxes at once. How long until all have ended, and is everything gone: processes, mounts, state.

use std::error::Error;
use std::ffi::OsString;
use std::process::Child;
use std::time::Instant;

use super::bed::Bed;
use super::contestant::Contestant;
use super::processes;
use super::report::{Section, verdict};
use crate::command;

/// Its name on the command line.
pub(super) const NAME: &str = "crowd";
/// What each sandbox runs, in seconds.
const SLEEP: &str = "5";
/// When all of 1,000 must have ended, in seconds (issue 2).
const TARGET_SECONDS: f64 = 8.5;

/// Runs the benchmark with `size` sandboxes per contestant, one contestant after the other.
///
/// # Errors
/// /proc or the state directory couldn't be read. A sandbox that fails is counted, not an error: that is a result.
pub(super) fn run(bed: &Bed, size: u32) -> Result<Section, Box<dyn Error>> {
    let mut section = Section {
        title: format!("{NAME}: {size} sandboxes of `sleep {SLEEP}` at once"),
        head: ["seconds", "all started", "all ended", "failed", "left running"]
            .map(str::to_owned)
            .into(),
        rows: Vec::new(),
        notes: Vec::new(),
    };
    for contestant in [Contestant::Bare, Contestant::Ringwall, Contestant::Bubblewrap] {
        let outcome = match start_all(contestant, bed, size) {
            Ok(outcome) => outcome,
            Err(why) if contestant.is_required() => return Err(format!("{}: {why}", contestant.name()).into()),
            Err(why) => {
                section.notes.push(format!("SKIPPED: {}: {why}", contestant.name()));
                continue;
            }
        };
        let running = processes::with_mounts_of(bed.root())?;
        section.rows.push(vec![
            contestant.name().to_owned(),
            format!("{:.2}", outcome.started),
            format!("{:.2}", outcome.ended),
            outcome.failed.to_string(),
            running.len().to_string(),
        ]);
        if contestant == Contestant::Ringwall {
            let seconds = outcome.ended;
            let what = format!("all ended after {seconds:.2} s (target {TARGET_SECONDS} s for 1000)");
            section
                .notes
                .push(verdict(seconds <= TARGET_SECONDS && outcome.failed == 0, &what));
            section
                .notes
                .extend(outcome.why.map(|why| format!("one that failed: {why}")));
            section.notes.push(left(bed, running.len())?);
        }
    }
    Ok(section)
}

struct Outcome {
    /// Seconds until the last was started, that is, its process made.
    started: f64,
    /// Seconds until the last had ended.
    ended: f64,
    failed: usize,
    why: Option<String>,
}

fn start_all(contestant: Contestant, bed: &Bed, size: u32) -> Result<Outcome, String> {
    let payload: Vec<OsString> = vec!["/bin/sleep".into(), SLEEP.into()];
    let log = bed.root().join("crowd.log");
    let log = std::fs::File::create(log).map_err(|error| error.to_string())?;
    let mut command = contestant.command(bed, &[], &payload)?;
    // One file for all, not a pipe each: what a sandbox says is wanted only if it fails.
    command.stderr(log);
    let mut children: Vec<Child> = Vec::new();
    let mut why = None;
    let start = Instant::now();
    for _ in 0..size {
        match command.spawn() {
            Ok(child) => children.push(child),
            Err(error) => {
                why = Some(error.to_string());
                break;
            }
        }
    }
    let started = start.elapsed().as_secs_f64();
    let mut succeeded = 0;
    for mut child in children {
        let status = child.wait().map_err(|error| error.to_string())?;
        succeeded += usize::from(status.success());
    }
    let ended = start.elapsed().as_secs_f64();
    let said = std::fs::read_to_string(bed.root().join("crowd.log")).unwrap_or_default();
    Ok(Outcome {
        started,
        ended,
        failed: (size as usize).saturating_sub(succeeded),
        why: why.or_else(|| said.lines().next().map(str::to_owned)),
    })
}

/// Looks for what ringwall left: processes, entries of its state directory, and what its own `gc` finds.
fn left(bed: &Bed, running: usize) -> Result<String, Box<dyn Error>> {
    let state = bed.left_in_state()?;
    let mut gc = bed.command(&bed.ringwall);
    let found = command::output(gc.args(["gc", "--dry-run"]))?;
    let found = String::from_utf8_lossy(&found).trim().replace('\n', "; ");
    let found = if found.is_empty() { "nothing" } else { &found };
    let what = format!(
        "left: {running} processes, {} entries in the state directory; `gc --dry-run` lists {found}",
        state.len()
    );
    Ok(verdict(running == 0 && state.is_empty(), &what))
}
