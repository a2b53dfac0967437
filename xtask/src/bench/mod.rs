//! `cargo xtask bench`: measures ringwall against bare processes and against the sandboxes found on the `PATH`.
//!
//! `plan` turns the arguments into a bed (where things lie), a binary and contestants; each benchmark is then either timed in
//! interleaved rounds (`timed`, `rounds`), or a measurement of its own (`memory`, `crowd`). `figures` reckons, `report` prints.
//! Nothing here decides whether ringwall is right: a command that fails in the sandbox ends the benchmark with its message.

mod bed;
mod binary;
mod contestant;
mod crowd;
mod figures;
mod machine;
mod memory;
mod oci;
mod opens;
mod processes;
mod report;
mod rounds;
mod serve;
mod timed;
mod vmm;

use std::error::Error;
use std::path::PathBuf;

use bed::Bed;
use report::Report;

/// Arguments of `cargo xtask bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Runs benchmarks: all of them, or those named.
    Run(RunArgs),
    /// Measures `ringwall serve`: starts, commands, files, memory, churn.
    Serve(serve::ServeArgs),
    /// Measures `ringwall-vmm`: boots, snapshots, restores, clones, memory.
    Vmm(vmm::VmmArgs),
    /// Lists the benchmarks.
    List,
}

/// Arguments of `cargo xtask bench run`.
#[derive(Debug, clap::Args)]
struct RunArgs {
    /// The benchmarks to run; all when none is named.
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(names()))]
    names: Vec<String>,
    /// Rounds of each timed benchmark; every round runs each contestant once.
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Sandboxes of the benchmark `crowd`.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    crowd: u32,
    /// The binary to measure, in place of a fresh static release build.
    #[arg(long, value_name = "PATH")]
    ringwall: Option<PathBuf>,
    /// Where projects and captured writes lie (`untar` mounts a tmpfs there, unless it is one).
    #[arg(long, value_name = "DIR", default_value_os_t = std::env::temp_dir())]
    dir: PathBuf,
    /// Appends the figures to docs/benchmarks.md.
    #[arg(long)]
    markdown: bool,
}

/// The benchmarks that aren't timed command by command, with what they measure.
const OTHERS: [(&str, &str); 2] = [
    (
        memory::NAME,
        "PSS of 50 idle sandboxes, keeper included, per sandbox in kB",
    ),
    (
        crowd::NAME,
        "1,000 sandboxes of `sleep 5` at once: seconds until all have ended, and what is left",
    ),
];

fn names() -> Vec<&'static str> {
    all().map(|(name, _)| name).collect()
}

fn all() -> impl Iterator<Item = (&'static str, &'static str)> {
    timed::BENCHMARKS
        .iter()
        .map(|benchmark| (benchmark.name, benchmark.what))
        .chain(OTHERS)
}

/// Runs the benchmarks.
///
/// # Errors
/// No binary, no place to work in, or a command that failed bare or in ringwall. A peer that fails is only left out, and said.
pub(crate) fn run(args: BenchArgs) -> Result<(), Box<dyn Error>> {
    match args.action {
        Action::Run(args) => measure(&args),
        Action::Serve(args) => {
            let binary = binary::under_test(args.ringwall.as_deref())?;
            let mut report = Report::start(machine::heading(&binary));
            for section in serve::run(&args, &binary)? {
                report.section(section);
            }
            if args.markdown {
                report.append_to_docs()?;
            }
            Ok(())
        }
        Action::Vmm(args) => vmm::run(&args),
        Action::List => {
            all().for_each(|(name, what)| println!("{name:<15}{what}"));
            Ok(())
        }
    }
}

fn measure(args: &RunArgs) -> Result<(), Box<dyn Error>> {
    let binary = binary::under_test(args.ringwall.as_deref())?;
    let mut report = Report::start(machine::heading(&binary));
    let is_wanted = |name: &str| args.names.is_empty() || args.names.iter().any(|wanted| wanted == name);
    for benchmark in timed::BENCHMARKS.iter().filter(|benchmark| is_wanted(benchmark.name)) {
        if let Some(why) = bed::why_not(&args.dir, benchmark.place)? {
            report.section(timed::left_out(benchmark, &why));
            continue;
        }
        let bed = Bed::make(&args.dir, &binary, benchmark.place)?;
        report.section(timed::run(benchmark, &bed, args.rounds)?);
        bed.remove()?;
    }
    if is_wanted(memory::NAME) {
        let bed = Bed::make(&args.dir, &binary, bed::Kind::AsItIs)?;
        report.section(memory::run(&bed)?);
        bed.remove()?;
    }
    if is_wanted(crowd::NAME) {
        let bed = Bed::make(&args.dir, &binary, bed::Kind::AsItIs)?;
        report.section(crowd::run(&bed, args.crowd)?);
        bed.remove()?;
    }
    if args.markdown {
        report.append_to_docs()?;
    }
    Ok(())
}
