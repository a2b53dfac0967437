//! The benchmark `memory`: what an idle sandbox costs, as the PSS of its processes, keeper and init included, payload counted too
//! but also told apart. Memory that the kernel itself holds for namespaces and mounts is no process's and isn't seen here.

use std::collections::BTreeMap;
use std::error::Error;
use std::ffi::OsString;
use std::process::Child;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::bed::Bed;
use super::contestant::Contestant;
use super::processes::{self, Process};
use super::report::{Section, verdict};

/// Its name on the command line.
pub(super) const NAME: &str = "memory";
/// Sandboxes measured together, so that pages which all of them share weigh little.
const SANDBOXES: u32 = 50;
/// What a sandbox may cost, in kB (issue 2).
const TARGET_KB: f64 = 600.0;
/// The payload's name in /proc/PID/comm.
const PAYLOAD: &str = "sleep";
/// How long all payloads may take to appear.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How long starting programs get to become idle.
const SETTLE: Duration = Duration::from_millis(500);

/// Runs the benchmark.
///
/// # Errors
/// A sandbox didn't start, or /proc couldn't be read.
pub(super) fn run(bed: &Bed) -> Result<Section, Box<dyn Error>> {
    let mut section = Section {
        title: format!("{NAME}: PSS of {SANDBOXES} idle sandboxes of `sleep`, kB per sandbox"),
        head: ["kB per sandbox", "all", "sandbox", "payload", "processes"]
            .map(str::to_owned)
            .into(),
        rows: Vec::new(),
        notes: Vec::new(),
    };
    // Not crun: its process is gone once the container runs, and a bundle here names one container.
    let contestants = [
        Contestant::Bare,
        Contestant::Ringwall,
        Contestant::RingwallReadOnly,
        Contestant::RingwallLandlock,
        Contestant::Bubblewrap,
    ];
    for contestant in contestants {
        let usage = match idle(contestant, bed) {
            Ok(usage) => usage,
            // An ordinary user may not look at processes that run under ids of the sandbox's own; root always may.
            Err(why) if contestant.is_required() && rustix::process::geteuid().is_root() => {
                return Err(format!("{}: {why}", contestant.name()).into());
            }
            Err(why) => {
                section.notes.push(format!("SKIPPED: {}: {why}", contestant.name()));
                continue;
            }
        };
        section.rows.push(vec![
            contestant.name().to_owned(),
            format!("{:.0}", usage.sandbox_kb + usage.payload_kb),
            format!("{:.0}", usage.sandbox_kb),
            format!("{:.0}", usage.payload_kb),
            format!("{:.1}", usage.processes),
        ]);
        if contestant == Contestant::Ringwall {
            // One contestant's figures are enough for the target; the others are for comparison.
            let all = usage.sandbox_kb + usage.payload_kb;
            let what = format!("an idle sandbox has {all:.0} kB, `sleep` included (target {TARGET_KB:.0} kB)");
            section.notes.push(verdict(all <= TARGET_KB, &what));
            section.notes.push(format!("of ringwall by process: {}", usage.by_name));
        }
    }
    Ok(section)
}

/// Averages over the sandboxes.
struct Usage {
    sandbox_kb: f64,
    payload_kb: f64,
    processes: f64,
    by_name: String,
}

/// Starts the sandboxes, measures them, and ends them whatever came of that.
fn idle(contestant: Contestant, bed: &Bed) -> Result<Usage, String> {
    let payload: Vec<OsString> = vec!["/bin/sleep".into(), "600".into()];
    let mut children = Vec::new();
    let mut result = Ok(());
    for _ in 0..SANDBOXES {
        let child = contestant
            .command(bed, &[], &payload)
            .and_then(|mut command| command.spawn().map_err(|error| error.to_string()));
        match child {
            Ok(child) => children.push(child),
            Err(why) => {
                result = Err(why);
                break;
            }
        }
    }
    let usage = result.and_then(|()| measure(&children));
    let ended = end(children);
    let usage = usage?;
    ended?;
    Ok(usage)
}

fn measure(children: &[Child]) -> Result<Usage, String> {
    let roots: Vec<u32> = children.iter().map(Child::id).collect();
    let found = wait_for_payloads(&roots)?;
    let (mut sandbox_kb, mut payload_kb) = (0.0, 0.0);
    let mut by_name: BTreeMap<(usize, &str), f64> = BTreeMap::new();
    for process in &found {
        let pss = processes::pss_kb(process.pid)?;
        if process.name == PAYLOAD {
            payload_kb += pss;
        } else {
            sandbox_kb += pss;
        }
        *by_name.entry((depth(process, &found), &process.name)).or_default() += pss;
    }
    let count = f64::from(SANDBOXES);
    let by_name = by_name
        .into_iter()
        .map(|((_, name), pss)| format!("{name} {:.0}", pss / count));
    Ok(Usage {
        sandbox_kb: sandbox_kb / count,
        payload_kb: payload_kb / count,
        processes: found.iter().map(|_| 1.0).sum::<f64>() / count,
        by_name: by_name.collect::<Vec<_>>().join(", "),
    })
}

/// How many of the found processes are above this one: tells a keeper from an init of the same name.
fn depth(process: &Process, found: &[Process]) -> usize {
    let mut parent = process.parent;
    let mut depth = 0;
    while let Some(above) = found.iter().find(|candidate| candidate.pid == parent) {
        parent = above.parent;
        depth += 1;
    }
    depth
}

/// Waits until every sandbox runs its payload, and then until they have become idle.
fn wait_for_payloads(roots: &[u32]) -> Result<Vec<Process>, String> {
    let start = Instant::now();
    let look = || {
        processes::all()
            .map(|all| processes::below(roots, &all))
            .map_err(|error| error.to_string())
    };
    loop {
        let running = look()?.iter().filter(|process| process.name == PAYLOAD).count();
        if running >= roots.len() {
            std::thread::sleep(SETTLE);
            return look();
        }
        if start.elapsed() > START_TIMEOUT {
            return Err(format!("only {running} of {} payloads run", roots.len()));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Asks the sandboxes to end, as a user would, and waits for them.
fn end(children: Vec<Child>) -> Result<(), String> {
    for child in &children {
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // It may have ended by itself; `wait` below tells.
            let _ = kill_process(pid, Signal::TERM);
        }
    }
    for mut child in children {
        child.wait().map_err(|error| error.to_string())?;
    }
    Ok(())
}
