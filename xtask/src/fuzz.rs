//! `cargo xtask fuzz`: gives each target of `fuzz/` to libFuzzer until it has used so many minutes of CPU time.
//!
//! Not a part of `cargo xtask test`, which replays the corpora: this takes hours, a nightly compiler and cargo-fuzz. What libFuzzer
//! finds its way to is kept in the cache and taken up again by the next run; a finding is to be added to `fuzz/corpus` by hand, under a name
//! that says what it is.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::checkout::{CheckoutError, Workspace, cargo};
use crate::command::{self, CommandError};
use crate::testbed::cache_folder;

/// Longest run of a fuzzer before its CPU time is looked at, in seconds of the clock.
const SLICE_S: u64 = 60;
/// Longest time that one input may take, in seconds; it is a finding then.
const INPUT_S: u64 = 10;
/// Most memory, in MiB; more is a finding.
const MEMORY_MIB: u64 = 2048;

/// Arguments of `cargo xtask fuzz`.
#[derive(Debug, clap::Args)]
pub(crate) struct FuzzArgs {
    /// CPU time for each target, in minutes.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    minutes: u64,
    /// Which targets; all that there are if none is named.
    targets: Vec<String>,
}

/// Why there was no fuzzing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FuzzError {
    /// The workspace couldn't be looked at.
    #[error("can't find the workspace")]
    Checkout(#[from] CheckoutError),
    /// A program.
    #[error(
        "can't build the targets (`rustup toolchain install nightly` and `cargo install cargo-fuzz` give what it takes)"
    )]
    Build(#[source] CommandError),
    /// A file couldn't be read or written.
    #[error("can't use {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Something that isn't a target.
    #[error("there is no target {name}; there are: {}", known.join(", "))]
    Unknown {
        /// As typed.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
}

fn at(path: &Path) -> impl Fn(io::Error) -> FuzzError + '_ {
    move |source| FuzzError::File {
        path: path.to_owned(),
        source,
    }
}

/// How it went with one target.
#[derive(Debug, Default)]
struct Outcome {
    cpu: Duration,
    inputs: u64,
    has_finding: bool,
}

/// Fuzzes; false if there was a finding.
///
/// # Errors
/// [`FuzzError`].
pub(crate) fn run(args: &FuzzArgs) -> Result<bool, FuzzError> {
    let workspace = Workspace::load()?;
    let fuzz = workspace.workspace_root.join("fuzz");
    let known = targets(&fuzz.join("fuzz_targets"))?;
    if let Some(name) = args.targets.iter().find(|name| !known.contains(name)) {
        let name = name.clone();
        return Err(FuzzError::Unknown { name, known });
    }
    let chosen = if args.targets.is_empty() { &known } else { &args.targets };
    let cache = cache_folder().join("fuzz");
    let target_dir = cache.join("target");
    let mut build = cargo();
    build
        .args(["+nightly", "fuzz", "build", "-O", "--target-dir"])
        .arg(&target_dir)
        .current_dir(&workspace.workspace_root)
        // Of the cargo that runs this, which is another one.
        .env_remove("CARGO")
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("CARGO_TARGET_DIR");
    command::run(&mut build).map_err(FuzzError::Build)?;
    let binaries = target_dir
        .join(format!("{}-unknown-linux-gnu", std::env::consts::ARCH))
        .join("release");
    println!("| target | CPU time | inputs | |\n|---|---|---|---|");
    let mut is_clean = true;
    for name in chosen {
        let place = Place {
            binary: binaries.join(name),
            seeds: fuzz.join("corpus").join(name),
            found: cache.join("corpus").join(name),
            findings: cache.join("findings").join(name),
            log: cache.join(format!("{name}.log")),
        };
        let outcome = place.fuzz(Duration::from_secs(args.minutes * 60))?;
        let verdict = if outcome.has_finding {
            format!("FINDING: {}, {}", place.findings.display(), place.log.display())
        } else {
            "none found".to_owned()
        };
        let minutes = outcome.cpu.as_secs_f64() / 60.0;
        println!("| {name} | {minutes:.1} min | {} | {verdict} |", outcome.inputs);
        is_clean &= !outcome.has_finding;
    }
    Ok(is_clean)
}

/// The names of the targets, in order.
fn targets(folder: &Path) -> Result<Vec<String>, FuzzError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(at(folder))? {
        let path = entry.map_err(at(folder))?.path();
        names.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
    }
    names.sort();
    Ok(names)
}

/// Where everything of a target is.
struct Place {
    binary: PathBuf,
    seeds: PathBuf,
    found: PathBuf,
    findings: PathBuf,
    log: PathBuf,
}

impl Place {
    fn fuzz(&self, wanted: Duration) -> Result<Outcome, FuzzError> {
        for folder in [&self.found, &self.findings] {
            fs::create_dir_all(folder).map_err(at(folder))?;
        }
        let mut outcome = Outcome::default();
        let begun = children_time()?;
        while outcome.cpu < wanted && !outcome.has_finding {
            let log = File::create(&self.log).map_err(at(&self.log))?;
            let left = (wanted - outcome.cpu).as_secs() + 1;
            let mut command = Command::new(&self.binary);
            command
                .arg(format!("-max_total_time={}", left.min(SLICE_S)))
                .arg(format!("-timeout={INPUT_S}"))
                .arg(format!("-rss_limit_mb={MEMORY_MIB}"))
                .arg(format!("-artifact_prefix={}/", self.findings.display()))
                .arg("-print_final_stats=1")
                .args([&self.found, &self.seeds])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log);
            let status = command.status().map_err(at(&self.binary))?;
            let said = fs::read(&self.log).map_err(at(&self.log))?;
            outcome.inputs += executed(&String::from_utf8_lossy(&said));
            outcome.has_finding = !status.success();
            outcome.cpu = children_time()?.saturating_sub(begun);
        }
        Ok(outcome)
    }
}

/// How many inputs libFuzzer says that it has tried.
fn executed(said: &str) -> u64 {
    said.lines()
        .find_map(|line| line.strip_prefix("stat::number_of_executed_units:"))
        .and_then(|count| count.trim().parse().ok())
        .unwrap_or(0)
}

/// CPU time of the children that have ended: cutime and cstime, fields 16 and 17 of /proc/self/stat (proc_pid_stat(5)), in ticks of 10 ms
/// (`USER_HZ`, which is 100 on every architecture that we know).
fn children_time() -> Result<Duration, FuzzError> {
    let path = Path::new("/proc/self/stat");
    let stat = fs::read_to_string(path).map_err(at(path))?;
    Ok(Duration::from_millis(10 * children_ticks(&stat)))
}

fn children_ticks(stat: &str) -> u64 {
    // The program's name, in parentheses, is the only field that may hold spaces; field 3 is the first behind it.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let field = |number: usize| -> u64 {
        fields
            .split_ascii_whitespace()
            .nth(number - 3)
            .and_then(|text| text.parse().ok())
            .unwrap_or(0)
    };
    field(16) + field(17)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_children_s_time_is_that_of_those_waited_for() {
        let line = "12 (a) b) S 1 2 3 4 5 6 7 8 9 10 11 12 130 7 20 0 1 0 99";
        assert_eq!(children_ticks(line), 137);
        let before = children_time().unwrap();
        command::run(Command::new("sh").args(["-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done"])).unwrap();
        assert!(children_time().unwrap() > before);
    }

    #[test]
    fn every_target_has_seeds_and_a_test_that_replays_them() {
        let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
        let replay = fs::read_to_string(fuzz.join("targets/tests/replay.rs")).unwrap();
        let manifest = fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
        let names = targets(&fuzz.join("fuzz_targets")).unwrap();
        assert!(names.len() >= 17);
        for name in names {
            assert!(fuzz.join("corpus").join(&name).is_dir(), "{name} has no corpus");
            assert!(replay.contains(&format!("fn {name}()")), "{name} is not replayed");
            assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} is not built");
        }
    }

    #[test]
    fn inputs_are_counted() {
        assert_eq!(executed("Done\nstat::number_of_executed_units: 42\n"), 42);
        assert_eq!(executed("crashed"), 0);
    }
}
