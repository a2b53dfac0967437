//! `cargo xtask testbed NAME`: boots a Debian kernel in QEMU and runs our static binaries there.
//!
//! cache (`cache.rs`): kernel and root image, made once from Debian packages (`apt.rs`, `kernel.rs`, `root.rs`)
//! -> job (`job.rs`): this checkout's binaries and scripts, and an initramfs (`cpio.rs`)
//! -> boot (`boot.rs`) -> console (`console.rs`): the verdict is read from what the guest prints.
//! A guest that says nothing has failed: a missing summary, a panic and a timeout are all errors.

mod apt;
mod boot;
mod cache;
mod console;
mod cpio;
mod guest_kernel;
mod inner;
mod job;
mod kernel;
mod machine;
mod root;

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::checkout::{CheckoutError, Workspace};
use crate::command::CommandError;
use crate::packages::{self, RequireError, Wanted};
use crate::tally::{Counts, Tally};

/// Where downloads, kernels and build outputs are kept, outside of the checkout.
pub(crate) fn cache_folder() -> PathBuf {
    cache::Cache::place()
}

pub(crate) use guest_kernel::{GuestArch, GuestKernelArgs, prepare as prepare_guest_kernel, run as run_guest_kernel};
pub(crate) use machine::Machine;

/// The suites that testbed/guest/run-tests knows, in the order they run.
pub(crate) const SUITES: [&str; 12] = [
    "kvm",
    "vmm",
    "doctor",
    "unit",
    "smoke-root",
    "smoke-user",
    "serve-root",
    "serve-user",
    "namespace-root",
    "namespace-user",
    "landlock-root",
    "landlock-user",
];

/// Arguments of `cargo xtask testbed`.
#[derive(Debug, clap::Args)]
pub(crate) struct TestbedArgs {
    /// Which machine to boot.
    #[arg(value_enum)]
    pub(crate) machine: Machine,
    /// Keep the images that this run makes, and show how QEMU was called.
    #[arg(long)]
    pub(crate) keep: bool,
    /// Make the cached kernel and root image anew from the packages that are current now.
    #[arg(long)]
    pub(crate) refresh: bool,
    /// How long the machine may run, in seconds.
    #[arg(long, default_value_t = 600)]
    pub(crate) timeout: u64,
    /// The suites to run; by default all that the machine is for.
    #[arg(last = true, value_parser = SUITES)]
    pub(crate) tests: Vec<String>,
}

/// Why a testbed couldn't be run to a verdict.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TestbedError {
    /// The host lacks something.
    #[error("the testbed's needs are not met")]
    Require(#[from] RequireError),
    /// The workspace couldn't be looked at.
    #[error("can't find the workspace")]
    Checkout(#[from] CheckoutError),
    /// A program failed.
    #[error("can't make the testbed ready")]
    Command(#[from] CommandError),
    /// A file couldn't be read or written.
    #[error("can't use {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// apt offers no kernel of the series.
    #[error("apt offers no {series} kernel: {meta} depends on {found:?}")]
    NoKernel {
        /// The series, such as 6.12.
        series: &'static str,
        /// The meta package that was asked.
        meta: &'static str,
        /// What it depends on.
        found: Vec<String>,
    },
    /// A module that the guest can't do without is neither in the package nor built in.
    #[error("the kernel {kernel} has no module {module}")]
    NoModule {
        /// The kernel's version.
        kernel: String,
        /// The module.
        module: String,
    },
    /// apt doesn't have the pinned source.
    #[error(
        "apt has {package} in the versions {found:?}, not the pinned {wanted}: raise it in guest/kernel/source.txt"
    )]
    NoSource {
        /// The package.
        package: String,
        /// The pinned version.
        wanted: String,
        /// The versions that there are.
        found: Vec<String>,
    },
    /// The kernel's configuration has not taken over what we want.
    #[error("the {arch} kernel's configuration drops these lines of guest/kernel: {lines:?}")]
    Unmet {
        /// The architecture.
        arch: GuestArch,
        /// The lines.
        lines: Vec<String>,
    },
    /// A package has another shape than expected.
    #[error("{package} holds no {wanted}")]
    Package {
        /// The package, or where it was unpacked.
        package: PathBuf,
        /// What was looked for.
        wanted: &'static str,
    },
}

/// Names the file in an I/O error.
fn at(path: &Path) -> impl FnOnce(io::Error) -> TestbedError {
    |source| TestbedError::File {
        path: path.to_owned(),
        source,
    }
}

/// What came of one boot.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The tests that ran, with each problem that no test's failure tells of as a failure of its own.
    pub(crate) counts: Counts,
    /// Why tests were skipped.
    pub(crate) reasons: Vec<String>,
    /// What is wrong, one line each; none when all is well.
    pub(crate) problems: Vec<String>,
    /// The suites that something is wrong with, in the order they are run.
    pub(crate) failed_suites: Vec<&'static str>,
    /// The tests of all other suites.
    pub(crate) counts_of_others: Counts,
    /// What the guest printed.
    pub(crate) console_log: PathBuf,
}

/// Boots a machine and prints the verdict; `false` when something failed.
///
/// # Errors
/// [`TestbedError`]: it came to no verdict.
pub(crate) fn run(args: &TestbedArgs) -> Result<bool, TestbedError> {
    let outcome = boot_and_judge(args)?;
    println!("{}", outcome.counts);
    Ok(outcome.problems.is_empty())
}

/// Makes everything ready, boots, and judges what the guest printed.
///
/// # Errors
/// [`TestbedError`]: it came to no verdict.
pub(crate) fn boot_and_judge(args: &TestbedArgs) -> Result<Outcome, TestbedError> {
    packages::require(Wanted::Testbed)?;
    let machine = args.machine;
    packages::require_target(machine.triple())?;
    let workspace = Workspace::load()?;
    let suites: Vec<&'static str> = match &*args.tests {
        [] => machine.suites().to_vec(),
        wanted => SUITES
            .into_iter()
            .filter(|suite| wanted.iter().any(|name| name == suite))
            .collect(),
    };

    let begun = Instant::now();
    let cache = cache::Cache::open()?;
    let kernel = kernel::prepare(&cache, machine, args.refresh)?;
    let root = root::prepare(&cache, machine, &workspace.workspace_root, args.refresh)?;
    let job = job::prepare(&workspace, machine, &kernel, &root, &suites)?;
    drop(cache); // the images are only read from here on: others may prepare theirs
    println!(
        "testbed {machine}: kernel {}, ready after {:.1} s",
        kernel.version,
        begun.elapsed().as_secs_f64()
    );

    let begun = Instant::now();
    let booted = boot::boot(
        machine,
        &kernel,
        &root,
        &job,
        Duration::from_secs(args.timeout),
        args.keep,
    )?;
    let problems = booted.console.problems(&suites, booted.ended);
    if !args.keep {
        job.remove_images()?;
    }
    let failed_suites: Vec<&'static str> = suites
        .into_iter()
        .filter(|name| problems.iter().any(|problem| problem.suite() == Some(name)))
        .collect();
    let mut total = Tally::default();
    let mut counts_of_others = Counts::default();
    for suite in &booted.console.suites {
        total.counts += suite.tally.counts;
        total.reasons.extend(suite.tally.reasons.iter().cloned());
        if !failed_suites.contains(&&*suite.name) {
            counts_of_others += suite.tally.counts;
        }
        println!("testbed {machine}: {}: {}", suite.name, suite.tally.counts);
    }
    for problem in &problems {
        println!("testbed {machine}: FAILED: {problem}");
        total.counts.failed += u64::from(!problem.is_counted());
    }
    let problems = problems.iter().map(ToString::to_string).collect();
    println!(
        "testbed {machine}: {:.1} s, console in {}",
        begun.elapsed().as_secs_f64(),
        job.console_log.display()
    );
    Ok(Outcome {
        counts: total.counts,
        reasons: total.reasons,
        problems,
        failed_suites,
        counts_of_others,
        console_log: job.console_log,
    })
}
