//! What was measured as tables, with the targets of issue 4.

use std::error::Error;

use super::clones::{CLONES, Clones};
use super::programs::Programs;
use super::snapshots::Snapshots;
use super::starts::{Ground, Way};
use super::{MEMORY_MIB, Timings, smaps};
use crate::bench::figures::Figures;
use crate::bench::report::{Section, verdict};

/// Milliseconds of a boot and of a restore, from the spawn: Firecracker's on a quiet machine (design/testbeds.md: 11.2 and 11.8).
const START_MS: f64 = 12.0;
/// What Firecracker's boot took of the floor's time there: 11.2 of 9.8 ms. Beside [`START_MS`], because the floor's own time is another with
/// another guest or a busy machine.
const BOOT_RATIO: f64 = 1.15;
/// Milliseconds of a restore by a prepared VMM.
const PREPARED_MS: f64 = 3.0;
/// Milliseconds and bytes of a snapshot of 8 MiB.
const SNAPSHOT_MS: f64 = 40.0;
const SNAPSHOT_BYTES: f64 = 12e6;
/// Memory of a VMM in kB.
const RSS_KB: f64 = 4096.0;
/// MiB of what the clones may take together: what Firecracker's took is 6.7, and each may have written a few pages of its own.
const CLONES_MIB: f64 = 10.0;

const COLUMNS: [&str; 5] = ["min", "median", "p95", "to the floor", "floor median"];

fn head(first: &str, others: &[&str]) -> Vec<String> {
    std::iter::once(first)
        .chain(others.iter().copied())
        .map(str::to_owned)
        .collect()
}

/// A row of times; `floor` is the median that it is held against.
fn row(name: String, samples: &[f64], floor: f64) -> Vec<String> {
    let Some(figures) = Figures::of(samples) else {
        return vec![name];
    };
    vec![
        name,
        format!("{:.2}", figures.min),
        format!("{:.2}", figures.median),
        format!("{:.2}", figures.p95),
        format!("{:.2}", figures.median / floor),
        format!("{floor:.2}"),
    ]
}

fn median(samples: &[f64]) -> f64 {
    Figures::of(samples).map_or(f64::NAN, |figures| figures.median)
}

fn at_most(what: &str, found: f64, most: f64, unit: &str) -> String {
    verdict(
        found <= most,
        &format!("{what}: {found:.1} {unit}, wanted at most {most:.1}"),
    )
}

/// Starts, with the floor's rows first.
pub(super) fn starts(all: &[Timings]) -> Section {
    let floor = |way: Way| {
        let found = all.iter().find(|timings| timings.way == way.floor());
        found.map_or(f64::NAN, |timings| median(&timings.samples))
    };
    let rows = all.iter().map(|timings| {
        let name = if timings.way == timings.way.floor() {
            timings.way.name().to_owned()
        } else {
            format!("{}, {}", timings.way.name(), timings.build.name)
        };
        row(name, &timings.samples, floor(timings.way))
    });
    let found = |way: Way| {
        let first = all.iter().find(|timings| timings.way == way);
        first.map_or(f64::NAN, |timings| median(&timings.samples))
    };
    let rounds = all.first().map_or(0, |timings| timings.samples.len());
    let ratio = found(Way::Boot) / floor(Way::Boot);
    Section {
        title: format!("vmm: to the guest's first byte, {MEMORY_MIB} MiB, 1 vCPU, {rounds} rounds"),
        head: head("ms", &COLUMNS),
        rows: rows.collect(),
        notes: vec![
            at_most("cold boot", found(Way::Boot), START_MS, "ms"),
            verdict(
                ratio <= BOOT_RATIO,
                &format!("cold boot: {ratio:.2} times the floor, wanted at most {BOOT_RATIO}"),
            ),
            at_most("restore", found(Way::Restore), START_MS, "ms"),
            at_most("restore, socket awaited", found(Way::RestoreByPath), START_MS, "ms"),
            at_most("restore, prepared", found(Way::Prepared), PREPARED_MS, "ms"),
        ],
    }
}

/// Snapshots created.
pub(super) fn snapshots(found: &Snapshots) -> Section {
    let floor = median(&found.floor);
    #[expect(clippy::cast_precision_loss, reason = "a few MiB, for display")]
    let bytes = (found.memory_bytes + found.state_bytes) as f64;
    Section {
        title: "vmm: full snapshot of 8 touched MiB, both files synced".to_owned(),
        head: head("ms", &COLUMNS),
        rows: vec![
            row("floor: 8 MiB written, fdatasync".to_owned(), &found.floor, floor),
            row("snapshot".to_owned(), &found.create, floor),
        ],
        notes: vec![
            format!(
                "on disk: memory {} kB, state {} kB",
                found.memory_bytes / 1024,
                found.state_bytes / 1024
            ),
            at_most("snapshot", median(&found.create), SNAPSHOT_MS, "ms"),
            at_most("snapshot on disk", bytes / 1e6, SNAPSHOT_BYTES / 1e6, "MB"),
        ],
    }
}

/// Memory of one VMM of each build, and the size of its file.
///
/// # Errors
/// It doesn't start, or /proc can't be read.
pub(super) fn memory(ground: &Ground, programs: &Programs) -> Result<Section, Box<dyn Error>> {
    let mut section = Section {
        title: "vmm: memory without the guest's, kB".to_owned(),
        head: head("kB", &["RSS", "private", "PSS", "guest's RSS", "executable"]),
        rows: Vec::new(),
        notes: Vec::new(),
    };
    for build in std::iter::once(&programs.vmm).chain(&programs.other) {
        let size = build.path.metadata()?.len() / 1024;
        for way in [Way::Boot, Way::Restore] {
            let (vmm, _) = ground.start(way, build)?;
            // Past its start, when nothing more is touched.
            std::thread::sleep(std::time::Duration::from_millis(300));
            let usage = smaps::usage(vmm.pid(), MEMORY_MIB << 20)?;
            let mut row = vec![format!("{}, {}", way.name(), build.name)];
            row.extend([usage.rss, usage.private, usage.pss, usage.guest_rss].map(|kb| format!("{kb:.0}")));
            row.push(size.to_string());
            section.rows.push(row);
            if build.path == programs.vmm.path {
                section
                    .notes
                    .push(at_most(&format!("RSS after {}", way.name()), usage.rss, RSS_KB, "kB"));
                let mut parts: Vec<_> = usage.by_name.iter().filter(|(_, kb)| **kb >= 16.0).collect();
                parts.sort_by(|one, other| other.1.total_cmp(one.1));
                let parts = parts.into_iter().map(|(name, kb)| format!("{name} {kb:.0}"));
                section
                    .notes
                    .push(format!("of it: {}", parts.collect::<Vec<_>>().join(", ")));
            }
        }
    }
    Ok(section)
}

/// Clones.
pub(super) fn clones(found: &Clones) -> Section {
    let floor = median(&found.floor);
    let memory = |name: &str, samples: &[f64]| {
        let mut row = row(name.to_owned(), samples, 1.0);
        row.truncate(4);
        row
    };
    let total = median(&found.pss) + median(&found.guest_pss);
    Section {
        title: format!("vmm: {CLONES} clones at once"),
        head: head("", &COLUMNS),
        rows: vec![
            row("floors: until all have spoken, ms".to_owned(), &found.floor, floor),
            row("clones: until all have spoken, ms".to_owned(), &found.took, floor),
            memory("fall of MemAvailable, MiB", &found.machine),
            memory("sum of PSS without the guests', MiB", &found.pss),
            memory("sum of PSS of the guests' memory, MiB", &found.guest_pss),
        ],
        notes: vec![at_most("PSS of all", total, CLONES_MIB, "MiB")],
    }
}
