//! `cargo xtask bench vmm`: `ringwall-vmm` from outside, with the guest of tests/e2e/payload, against the floor: a C program that only makes
//! KVM's calls (floor.c). What the kernel takes for a VM differs by host and by the minute, so every time is also given as a ratio to the
//! floor's in the same rounds.
//!
//! `programs` builds what is started, `process` starts and drives it, `starts`, `snapshots` and `clones` measure, `smaps` tells a VMM's
//! memory from its guest's, `tables` holds the figures against the targets.

mod clones;
mod process;
mod programs;
mod smaps;
mod snapshots;
mod starts;
mod tables;

use std::error::Error;
use std::path::PathBuf;
use std::time::Instant;

use programs::{Build, Programs};
use starts::{Ground, Way};

use super::report::Report;

/// The guest's memory.
const MEMORY_MIB: u64 = 128;

/// Arguments of `cargo xtask bench vmm`.
#[derive(Debug, clap::Args)]
pub(super) struct VmmArgs {
    /// Rounds of each measurement; every round starts everything once.
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// The VMM to measure, in place of fresh release builds.
    #[arg(long, value_name = "PATH")]
    vmm: Option<PathBuf>,
    /// Where snapshots lie.
    #[arg(long, value_name = "DIR", default_value_os_t = std::env::temp_dir())]
    dir: PathBuf,
    /// Appends the figures to docs/benchmarks.md.
    #[arg(long)]
    markdown: bool,
}

/// The samples of one way to start, in milliseconds.
#[derive(Debug)]
struct Timings {
    way: Way,
    build: Build,
    samples: Vec<f64>,
}

impl Timings {
    fn of(way: Way, build: &Build) -> Self {
        Self {
            way,
            build: build.clone(),
            samples: Vec::new(),
        }
    }
}

fn millis(begun: Instant) -> f64 {
    begun.elapsed().as_secs_f64() * 1000.0
}

/// Runs all measurements.
///
/// # Errors
/// This host can't run the guest, or something that is measured failed.
pub(super) fn run(args: &VmmArgs) -> Result<(), Box<dyn Error>> {
    if cfg!(not(target_arch = "x86_64")) {
        return Err("the benchmark's guest is for x86_64".into());
    }
    // An open of our own says why there is no VM before anything is built.
    std::fs::File::open("/dev/kvm").map_err(|error| format!("can't open /dev/kvm: {error}"))?;
    let folder = tempfile::Builder::new()
        .prefix("ringwall-bench-")
        .tempdir_in(&args.dir)?;
    let programs = Programs::build(folder.path(), args.vmm.as_deref())?;
    let ground = Ground::prepare(folder.path(), &programs)?;
    let mut report = Report::start(super::machine::heading(&programs.vmm.path));
    report.section(tables::starts(&starts::measure(&ground, &programs, args.rounds)?));
    let found = snapshots::measure(&ground, &programs.vmm, folder.path(), args.rounds)?;
    report.section(tables::snapshots(&found));
    report.section(tables::memory(&ground, &programs)?);
    report.section(tables::clones(&clones::measure(&ground, &programs.vmm, args.rounds)?));
    if args.markdown {
        report.append_to_docs()?;
    }
    Ok(())
}
