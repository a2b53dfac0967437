//! The benchmarks that time one command per contestant and round: a table of them, and how one is run.

use std::error::Error;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::bed::{Bed, Kind};
use super::contestant::{Contestant, on_path};
use super::figures::Figures;
use super::opens;
use super::report::{Section, verdict};
use super::rounds::{Runner, interleave};
use crate::command;

/// How far one contestant's median may be from another's.
#[derive(Debug, Clone, Copy)]
enum Limit {
    /// At most this many times the other's.
    Times(f64),
    /// At most this many milliseconds more.
    MoreMs(f64),
}

/// What the project promises of a benchmark (issue 2, "What must be shown", 3).
#[derive(Debug, Clone, Copy)]
struct Target {
    who: Contestant,
    than: Contestant,
    limit: Limit,
}

/// One benchmark.
pub(super) struct Benchmark {
    /// Its name on the command line.
    pub(super) name: &'static str,
    /// What it measures.
    pub(super) what: &'static str,
    /// Where it must lie.
    pub(super) place: Kind,
    contestants: &'static [Contestant],
    /// Fills the project; run bare, once.
    set_up: fn(&Bed) -> Result<(), Box<dyn Error>>,
    /// What is run: a path and arguments.
    payload: fn(&Bed) -> Result<Vec<OsString>, String>,
    /// Whether the payload is the program of `opens`, which must be compiled, be shown in the sandbox, and prints its own time.
    is_opener: bool,
    /// What the command writes into the project: removed after each round where it was written directly. Captured writes are
    /// thrown away instead, which isn't timed either.
    writes: &'static [&'static str],
    /// Exit codes besides 0 that mean the work was done.
    also_fine: &'static [i32],
    targets: &'static [Target],
}

/// Files in the repository of `git` and in the archive of `untar`.
const REPOSITORY_FILES: u32 = 200;
const ARCHIVE_FILES: u32 = 5000;
/// Opens per round of `opens`.
const OPENS: &str = "20000";
/// A file of the host's tree that every Linux distribution has (os-release(5)).
const SYSTEM_FILE: &str = "/usr/lib/os-release";

use Contestant::{
    Bare, Bubblewrap, Crun, Firejail, Ringwall, RingwallLandlock, RingwallOwnPath, RingwallReadOnly, Unshare,
};

const OPENERS: &[Contestant] = &[
    Bare,
    Ringwall,
    RingwallReadOnly,
    RingwallLandlock,
    Bubblewrap,
    Crun,
    Unshare,
];

const fn at_most(who: Contestant, than: Contestant, limit: Limit) -> Target {
    Target { who, than, limit }
}

/// All of them.
pub(super) const BENCHMARKS: [Benchmark; 7] = [
    Benchmark {
        name: "start",
        what: "start and end of /bin/true",
        place: Kind::AsItIs,
        contestants: &[
            Bare,
            Ringwall,
            RingwallOwnPath,
            RingwallReadOnly,
            RingwallLandlock,
            Bubblewrap,
            Crun,
            Firejail,
            Unshare,
        ],
        set_up: |_| Ok(()),
        payload: |_| Ok(words(&["/bin/true"])),
        is_opener: false,
        writes: &[],
        also_fine: &[],
        targets: &[
            at_most(Ringwall, Bubblewrap, Limit::Times(1.0)),
            at_most(Ringwall, Bare, Limit::MoreMs(2.0)),
        ],
    },
    Benchmark {
        name: "opens",
        what: "20,000 opens of a file in /usr, without the start",
        place: Kind::AsItIs,
        contestants: OPENERS,
        set_up: opens::compile,
        payload: |bed| Ok(opener(bed, Path::new(SYSTEM_FILE))),
        is_opener: true,
        writes: &[],
        also_fine: &[],
        targets: &[at_most(Ringwall, Bare, Limit::Times(1.1))],
    },
    Benchmark {
        name: "opens-project",
        what: "20,000 opens of a file in the project, without the start",
        place: Kind::AsItIs,
        contestants: OPENERS,
        set_up: |bed| {
            std::fs::write(bed.project().join("file"), "text")?;
            opens::compile(bed)
        },
        payload: |bed| Ok(opener(bed, &bed.project().join("file"))),
        is_opener: true,
        writes: &[],
        also_fine: &[],
        targets: &[at_most(Ringwall, Bare, Limit::Times(1.1))],
    },
    Benchmark {
        name: "find",
        what: "find /usr",
        place: Kind::AsItIs,
        contestants: &[Bare, Ringwall, RingwallLandlock, Bubblewrap],
        set_up: |_| Ok(()),
        payload: |_| program("find", &["/usr"]),
        is_opener: false,
        writes: &[],
        // find's own word for "some directories may not be read": there are such below /usr, to ordinary users and in sandboxes.
        also_fine: &[1],
        targets: &[at_most(Ringwall, Bubblewrap, Limit::Times(1.1))],
    },
    Benchmark {
        name: "gcc",
        what: "gcc compiles three files and links them",
        place: Kind::AsItIs,
        contestants: &[Bare, Ringwall, Bubblewrap],
        set_up: write_c_project,
        payload: |_| program("gcc", &["-O1", "-o", "program", "main.c", "sort.c", "words.c"]),
        is_opener: false,
        writes: &["program"],
        also_fine: &[],
        targets: &[at_most(Ringwall, Bubblewrap, Limit::Times(1.1))],
    },
    Benchmark {
        name: "git",
        what: "git status in a repository of 200 files",
        place: Kind::AsItIs,
        contestants: &[Bare, Ringwall, RingwallReadOnly, Bubblewrap],
        set_up: make_repository,
        payload: |_| program("git", &["status", "--short"]),
        is_opener: false,
        writes: &[],
        also_fine: &[],
        targets: &[at_most(Ringwall, Bubblewrap, Limit::Times(1.1))],
    },
    Benchmark {
        name: "untar",
        what: "tar unpacks 5,000 files; project and state on tmpfs",
        place: Kind::Tmpfs,
        contestants: &[Bare, Ringwall, Bubblewrap],
        set_up: make_archive,
        payload: |_| program("tar", &["-xf", "files.tar"]),
        is_opener: false,
        writes: &["files"],
        also_fine: &[],
        targets: &[at_most(Ringwall, Bare, Limit::Times(1.5))],
    },
];

/// Runs a benchmark.
///
/// # Errors
/// Its files couldn't be made, or its command failed bare or in ringwall.
pub(super) fn run(benchmark: &Benchmark, bed: &Bed, rounds: u32) -> Result<Section, Box<dyn Error>> {
    let payload = match (benchmark.payload)(bed) {
        Ok(payload) => payload,
        Err(why) => return Ok(left_out(benchmark, &why)),
    };
    let mut section = Section {
        title: format!("{}: {}, {rounds} rounds", benchmark.name, benchmark.what),
        head: ["ms", "min", "p25", "median", "p99", "x bwrap", "x bare"]
            .map(str::to_owned)
            .into(),
        rows: Vec::new(),
        notes: Vec::new(),
    };
    (benchmark.set_up)(bed)?;
    let (mut names, mut runners) = (Vec::new(), Vec::new());
    for &contestant in benchmark.contestants {
        match ready(benchmark, contestant, bed, &payload) {
            Ok(runner) => {
                names.push(contestant);
                runners.push(runner);
            }
            Err(why) if contestant.is_required() => return Err(failed(benchmark, contestant, &why)),
            Err(why) => section.notes.push(format!("SKIPPED: {}: {why}", contestant.name())),
        }
    }
    let samples = interleave(&mut runners, rounds).map_err(|(position, why)| {
        let contestant = names.get(position).copied().unwrap_or(Bare);
        failed(benchmark, contestant, &why)
    })?;
    let figures: Vec<(Contestant, Figures)> = names
        .into_iter()
        .zip(&samples)
        .filter_map(|(contestant, samples)| Some((contestant, Figures::of(samples)?)))
        .collect();
    fill(&mut section, &figures, benchmark.targets);
    let left = bed.left_in_state()?;
    if !left.is_empty() {
        section
            .notes
            .push(format!("left in the state directory: {}", left.join(" ")));
    }
    Ok(section)
}

/// What is reported of a benchmark that this machine can't run.
pub(super) fn left_out(benchmark: &Benchmark, why: &str) -> Section {
    Section {
        title: format!("{}: {}", benchmark.name, benchmark.what),
        head: Vec::new(),
        rows: Vec::new(),
        notes: vec![format!("SKIPPED: {why}")],
    }
}

fn failed(benchmark: &Benchmark, contestant: Contestant, why: &str) -> Box<dyn Error> {
    format!(
        "the benchmark {} failed in {}: {why}",
        benchmark.name,
        contestant.name()
    )
    .into()
}

/// Makes a contestant's runner and tries it out.
fn ready(benchmark: &Benchmark, contestant: Contestant, bed: &Bed, payload: &[OsString]) -> Result<Runner, String> {
    let opener = opens::program(bed);
    let shown: &[&Path] = if benchmark.is_opener { &[&opener] } else { &[] };
    let is_writing = !benchmark.writes.is_empty();
    let command = if is_writing {
        contestant.writing(bed, shown, payload)?
    } else {
        contestant.command(bed, shown, payload)?
    };
    let mut forget = if is_writing { contestant.forget(bed) } else { None };
    let written: Vec<PathBuf> = benchmark.writes.iter().map(|name| bed.project().join(name)).collect();
    let mut runner = Runner {
        command,
        restore: Box::new(move || match &mut forget {
            Some(command) => run_quietly(command),
            None => written.iter().try_for_each(|path| remove(path)),
        }),
        times_itself: benchmark.is_opener,
        also_fine: benchmark.also_fine,
    };
    runner.try_out()?;
    Ok(runner)
}

fn run_quietly(command: &mut Command) -> Result<(), String> {
    let status = command.status().map_err(|error| error.to_string())?;
    if status.success() {
        return Ok(());
    }
    Err(format!("`{}`: {status}", command::shown(command)))
}

/// Removes what a command must have written: if it isn't there, the command didn't do its work.
fn remove(path: &Path) -> Result<(), String> {
    let removed = if path.is_dir() {
        std::fs::remove_dir_all(path)
    } else {
        std::fs::remove_file(path)
    };
    removed.map_err(|error| format!("can't remove {}: {error}", path.display()))
}

/// Writes the rows and the verdicts.
fn fill(section: &mut Section, figures: &[(Contestant, Figures)], targets: &[Target]) {
    let median = |wanted: Contestant| {
        let found = figures.iter().find(|(contestant, _)| *contestant == wanted);
        found.map(|(_, figures)| figures.median)
    };
    for (contestant, figures) in figures {
        let ratio =
            |than: Contestant| median(than).map_or("-".to_owned(), |than| format!("{:.2}", figures.median / than));
        let mut row = vec![contestant.name().to_owned()];
        row.extend(
            [figures.min, figures.p25, figures.median, figures.p99].map(|seconds| format!("{:.3}", seconds * 1e3)),
        );
        row.extend([ratio(Bubblewrap), ratio(Bare)]);
        section.rows.push(row);
    }
    for target in targets {
        let (who, than) = (target.who.name(), target.than.name());
        let (Some(ours), Some(theirs)) = (median(target.who), median(target.than)) else {
            section
                .notes
                .push(format!("SKIPPED: {who} can't be compared with {than}"));
            continue;
        };
        section.notes.push(match target.limit {
            Limit::Times(limit) => {
                let got = ours / theirs;
                verdict(
                    got <= limit,
                    &format!("{who} is {got:.2} times {than} (target {limit:.1})"),
                )
            }
            Limit::MoreMs(limit) => {
                let got = (ours - theirs) * 1e3;
                verdict(
                    got <= limit,
                    &format!("{who} is {got:.2} ms over {than} (target {limit:.1} ms)"),
                )
            }
        });
    }
}

fn words(list: &[&str]) -> Vec<OsString> {
    list.iter().map(OsString::from).collect()
}

/// A program by its path, with arguments.
fn program(name: &str, arguments: &[&str]) -> Result<Vec<OsString>, String> {
    let mut payload = vec![on_path(name)?.into_os_string()];
    payload.extend(words(arguments));
    Ok(payload)
}

fn opener(bed: &Bed, file: &Path) -> Vec<OsString> {
    vec![opens::program(bed).into(), OPENS.into(), file.into()]
}

fn write_c_project(bed: &Bed) -> Result<(), Box<dyn Error>> {
    let main = "#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\nint compare(const void *, const void *);\nint \
                words(const char *);\nint main(int count, char **list) {\n  qsort(list + 1, count - 1, sizeof *list, \
                compare);\n  for (int i = 1; i < count; i++) printf(\"%s %d\\n\", list[i], words(list[i]));\n}\n";
    let sort = "#include <string.h>\nint compare(const void *a, const void *b) {\n  return strcmp(*(char *const *)a, *(char \
                *const *)b);\n}\n";
    let words = "#include <ctype.h>\nint words(const char *text) {\n  int found = 0;\n  for (int inside = 0; *text; text++) \
                 {\n    int letter = isalpha((unsigned char)*text);\n    found += letter && !inside;\n    inside = \
                 letter;\n  }\n  return found;\n}\n";
    for (name, text) in [("main.c", main), ("sort.c", sort), ("words.c", words)] {
        std::fs::write(bed.project().join(name), text)?;
    }
    Ok(())
}

fn write_tree(root: &Path, files: u32) -> std::io::Result<()> {
    for number in 0..files {
        let folder = root.join(format!("{:02}", number / 100));
        std::fs::create_dir_all(&folder)?;
        std::fs::write(
            folder.join(format!("{number:04}.txt")),
            format!("file {number}\n").repeat(40),
        )?;
    }
    Ok(())
}

fn make_repository(bed: &Bed) -> Result<(), Box<dyn Error>> {
    write_tree(&bed.project(), REPOSITORY_FILES)?;
    for arguments in [
        &["init", "--quiet"][..],
        &["add", "."],
        &[
            "-c",
            "user.name=bench",
            "-c",
            "user.email=bench@localhost",
            "commit",
            "--quiet",
            "--message",
            "files",
        ],
    ] {
        command::output(Command::new("git").args(arguments))?;
    }
    // Git distrusts its index for files as young as the index itself, and would read them at every `status`: once more, later.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    command::output(Command::new("git").args(["update-index", "--really-refresh"]))?;
    command::output(Command::new("git").args(["status", "--short"]))?;
    Ok(())
}

fn make_archive(bed: &Bed) -> Result<(), Box<dyn Error>> {
    let files = bed.project().join("files");
    write_tree(&files, ARCHIVE_FILES)?;
    command::output(Command::new("tar").args(["-cf", "files.tar", "files"]))?;
    std::fs::remove_dir_all(files)?;
    Ok(())
}
