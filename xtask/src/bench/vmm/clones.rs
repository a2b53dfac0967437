//! Ten clones of one snapshot at once: the time until the last has spoken, and what all of them take of the machine's memory.

use std::time::{Duration, Instant};

use super::process::{Failure, Vmm};
use super::programs::Build;
use super::smaps;
use super::starts::{Ground, Way};
use super::{MEMORY_MIB, millis};

/// How many.
pub(super) const CLONES: usize = 10;
/// How long everything gets to become idle before memory is looked at.
const SETTLE: Duration = Duration::from_millis(100);

/// What was measured, a sample per round.
#[derive(Debug, Default)]
pub(super) struct Clones {
    /// Milliseconds from the first spawn to the last first byte.
    pub(super) took: Vec<f64>,
    /// The same of ten floors.
    pub(super) floor: Vec<f64>,
    /// What MemAvailable fell by, in MiB. Others on the machine are in it.
    pub(super) machine: Vec<f64>,
    /// Sum of PSS without the guests' memory, in MiB.
    pub(super) pss: Vec<f64>,
    /// Sum of PSS of the guests' memory, in MiB; the page cache's part of the snapshot's file is in it.
    pub(super) guest_pss: Vec<f64>,
}

/// Starts ten at once in each round, and ten floors.
///
/// # Errors
/// One failed.
pub(super) fn measure(ground: &Ground, build: &Build, rounds: u32) -> Result<Clones, Failure> {
    let mut found = Clones::default();
    for _ in 0..rounds {
        let (floors, took) = crowd(ground, build, Way::FloorLoad)?;
        found.floor.push(took);
        drop(floors);
        std::thread::sleep(SETTLE);
        let before = available_mib()?;
        let (clones, took) = crowd(ground, build, Way::Restore)?;
        found.took.push(took);
        std::thread::sleep(SETTLE);
        found.machine.push(before - available_mib()?);
        let (mut pss, mut guest) = (0.0, 0.0);
        for clone in &clones {
            let usage = smaps::usage(clone.pid(), MEMORY_MIB << 20)?;
            pss += usage.pss / 1024.0;
            guest += usage.guest_pss / 1024.0;
        }
        found.pss.push(pss);
        found.guest_pss.push(guest);
    }
    Ok(found)
}

fn crowd(ground: &Ground, build: &Build, way: Way) -> Result<(Vec<Vmm>, f64), Failure> {
    let begun = Instant::now();
    let launched: Result<Vec<_>, _> = (0..CLONES).map(|_| ground.launch(way, build)).collect();
    let mut launched = launched?;
    for one in &mut launched {
        one.speak(way)?;
    }
    let took = millis(begun);
    Ok((launched.into_iter().map(|one| one.vmm).collect(), took))
}

fn available_mib() -> Result<f64, Failure> {
    let text = std::fs::read_to_string("/proc/meminfo").map_err(|error| error.to_string())?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kb: Option<f64> = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse().ok());
    kb.map(|kb| kb / 1024.0)
        .ok_or_else(|| "/proc/meminfo has no MemAvailable".to_owned())
}
