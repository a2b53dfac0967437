//! `cargo xtask test`: all checks and tests, cheapest first, and one table at the end.
//! Every stage runs even when an earlier one failed (its own needs excepted), so that one run shows all that is wrong.

mod logs;
mod stage;
mod table;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use clap::Args;

use crate::checkout::{CheckoutError, Workspace, cargo};
use crate::packages::{self, RequireError, Wanted};
use crate::testbed::{self, GuestArch, Machine, TestbedArgs};
use crate::{docs, layers, with_causes};
use stage::{Runner, StageOutcome};

/// How long a machine may run. On an idle machine it takes one or two minutes; the rest is room for a loaded one.
const TESTBED_TIMEOUT_S: u64 = 900;
/// The environment variable by which the end-to-end tests find the binary.
const BINARY_VARIABLE: &str = "RINGWALL_BIN";
/// The virtual machine monitor.
const VMM_VARIABLE: &str = "RINGWALL_VMM_BIN";
/// The attempts' executable, which they start inside.
const ATTEMPTS_VARIABLE: &str = "RINGWALL_ATTEMPTS_BIN";

/// By which the interpreter's tests find a python with a kernel, and where Debian's is.
const PYTHON_VARIABLE: &str = "RINGWALL_TEST_PYTHON";
const IPYKERNEL: &str = "/usr/lib/python3/dist-packages/ipykernel";

/// Arguments of `cargo xtask test`.
#[derive(Debug, Args)]
pub(crate) struct TestArgs {
    /// Only what needs no release build: format, lints, layers, unit tests.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Leave the virtual machines out.
    #[arg(long)]
    pub(crate) no_testbed: bool,
}

/// Why the tests couldn't be run at all.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TestError {
    /// The workspace couldn't be looked at.
    #[error("can't find the workspace")]
    Checkout(#[from] CheckoutError),
    /// Not even a build can be tried.
    #[error("the build's needs are not met")]
    Require(#[from] RequireError),
}

/// Runs the stages and prints the table; `false` when anything failed.
///
/// # Errors
/// [`TestError`]: nothing could be run.
pub(crate) fn run(args: &TestArgs) -> Result<bool, TestError> {
    packages::require(Wanted::Build)?;
    packages::require_component("rustfmt")?;
    packages::require_component("clippy")?;
    let workspace = Workspace::load()?;
    let logs = logs::make(&testbed::cache_folder().join("logs"));
    let mut runner = Runner::new(logs.clone());

    runner.command("format", with(cargo(), "fmt --all --check"));
    runner.call("layers", || {
        StageOutcome::of_result(layers::run().map_err(|error| with_causes(&error)))
    });
    runner.command(
        "clippy",
        with(cargo(), "clippy --workspace --all-targets -- -D warnings"),
    );
    if let Err(error) = packages::require(Wanted::E2e) {
        // The tests that can run still do; those that lack a program say so themselves.
        println!("{}", with_causes(&error));
    }
    let unit = || {
        let mut unit = with(
            cargo(),
            "test --workspace --exclude ringwall-e2e --exclude xtask --no-fail-fast -- --show-output",
        );
        if Path::new(IPYKERNEL).exists() {
            unit.env(PYTHON_VARIABLE, "/usr/bin/python3");
        }
        unit
    };
    runner.tests_tried_twice("unit", unit(), |tests| only(unit(), tests));
    // Apart and without output: its tests print made-up summaries, which would be counted.
    runner.tests("xtask", with(cargo(), "test -p xtask --no-fail-fast"));
    if !args.quick {
        release_stages(&mut runner, &workspace)?;
        if !args.no_testbed {
            // Apart from the boots that want them: from a cold cache each takes minutes.
            for arch in GuestArch::ALL {
                runner.call(&format!("guest kernel {arch}"), || build_kernel(&workspace, arch));
            }
            for machine in Machine::ALL {
                runner.call(&format!("testbed {machine}"), || {
                    boot_tried_twice(|suites| {
                        let nth = if suites.is_empty() { "" } else { "-again" };
                        boot(machine, suites, &logs.join(format!("testbed-{machine}{nth}.log")))
                    })
                });
            }
        }
    }
    let table = table::render(&runner.stages);
    // As with the logs: all of it is on the terminal too.
    drop(fs::write(logs.join("table.txt"), &table));
    println!("\nall output by stages: {}", logs.display());
    print!("{table}");
    Ok(!runner.stages.iter().any(|stage| stage.outcome.is_failed()))
}

/// The stages that need the real binary.
fn release_stages(runner: &mut Runner, workspace: &Workspace) -> Result<(), TestError> {
    let is_built = runner.command(
        "release build",
        with(
            cargo(),
            "build --release -p ringwall -p ringwall-attempts -p ringwall-vmm-bin",
        ),
    );
    if !is_built {
        runner.call("e2e", || StageOutcome::broken("the release build failed"));
        return Ok(());
    }
    if docs::is_kept(workspace) {
        let check = || docs::run(&docs::DocsArgs { check: true });
        runner.call("docs", || {
            StageOutcome::of_result(check().map_err(|error| with_causes(&error)))
        });
    }
    let binaries = [
        (BINARY_VARIABLE, workspace.release_binary("ringwall")?),
        (ATTEMPTS_VARIABLE, workspace.release_binary("ringwall-attempts")?),
        (VMM_VARIABLE, workspace.release_binary("ringwall-vmm")?),
    ];
    let e2e = || {
        let mut e2e = with(cargo(), "test -p ringwall-e2e --no-fail-fast -- --nocapture");
        e2e.envs(binaries.iter().map(|(variable, binary)| (variable, binary)));
        e2e
    };
    runner.tests_tried_twice("e2e", e2e(), |tests| only(e2e(), tests));
    Ok(())
}

/// Narrows a command of `cargo test`, which has words for the test programs already, to some tests.
fn only(mut command: Command, tests: &[String]) -> Command {
    command.arg("--exact").args(tests);
    command
}

fn build_kernel(workspace: &Workspace, arch: GuestArch) -> StageOutcome {
    let built = testbed::prepare_guest_kernel(&workspace.workspace_root, arch, false);
    StageOutcome::of_result(built.map(drop).map_err(|error| with_causes(&error)))
}

/// Boots a machine with all its suites. Those that failed are run once more in a boot of their own, under the same rules as single tests:
/// what passes then is reported as flaky, and what is about escapes is never tried twice.
fn boot_tried_twice(mut boot: impl FnMut(&[&str]) -> Result<testbed::Outcome, testbed::TestbedError>) -> StageOutcome {
    let first = match boot(&[]) {
        Ok(outcome) => outcome,
        Err(error) => return StageOutcome::broken(&with_causes(&error)),
    };
    let failed = first.failed_suites;
    let mut stage = StageOutcome {
        counts: first.counts,
        reasons: first.reasons,
        problems: first.problems,
        ..StageOutcome::default()
    };
    if failed.is_empty() || failed.iter().any(|suite| is_about_escapes(suite)) {
        return stage;
    }
    println!("\n=== once more: {}", failed.join(" "));
    match boot(&failed) {
        Ok(second) if second.problems.is_empty() => {
            stage.counts = first.counts_of_others;
            stage.counts += second.counts;
            stage.problems.clear();
            stage.flaky = failed.into_iter().map(str::to_owned).collect();
        }
        Ok(_) => {} // it has said why
        Err(error) => println!("{}", with_causes(&error)),
    }
    stage
}

/// Boots a machine with some suites, or with all if none is named; the console is kept in `log`.
fn boot(machine: Machine, suites: &[&str], log: &Path) -> Result<testbed::Outcome, testbed::TestbedError> {
    let outcome = testbed::boot_and_judge(&TestbedArgs {
        machine,
        keep: false,
        refresh: false,
        timeout: TESTBED_TIMEOUT_S,
        tests: suites.iter().map(|&suite| suite.to_owned()).collect(),
    })?;
    drop(fs::copy(&outcome.console_log, log)); // the lines were on the terminal too
    Ok(outcome)
}

/// The suites that run the attempts at getting out.
fn is_about_escapes(suite: &str) -> bool {
    suite.starts_with("namespace") || suite.starts_with("landlock")
}

fn with(mut command: Command, words: &str) -> Command {
    command.args(words.split(' '));
    command
}

/// How long one stage may take: far more than any needs, so that a hanging test fails instead of stopping everything.
const STAGE_TIMEOUT: Duration = Duration::from_secs(40 * 60);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tally::Counts;

    fn outcome(failed_suites: &[&'static str], problems: &[&str]) -> testbed::Outcome {
        let counts = |passed, failed| Counts {
            passed,
            failed,
            skipped: 1,
        };
        testbed::Outcome {
            counts: counts(9, failed_suites.len() as u64),
            reasons: Vec::new(),
            problems: problems.iter().map(|&text| text.to_owned()).collect(),
            failed_suites: failed_suites.to_vec(),
            counts_of_others: counts(4, 0),
            console_log: "console".into(),
        }
    }

    /// Boots that end as foretold; returns what the second was asked for.
    fn tried(first: testbed::Outcome, second: Option<testbed::Outcome>) -> (StageOutcome, Vec<String>) {
        let mut asked = Vec::new();
        let mut boots = [Some(first), second].into_iter().flatten();
        let stage = boot_tried_twice(|suites| {
            asked = suites.iter().map(|&suite| suite.to_owned()).collect();
            Ok(boots.next().expect("no boot that isn't foretold"))
        });
        (stage, asked)
    }

    #[test]
    fn a_suite_that_passes_in_a_second_boot_is_flaky() {
        let (stage, asked) = tried(outcome(&["vmm"], &["vmm: 1 failed"]), Some(outcome(&[], &[])));
        assert_eq!(asked, ["vmm"]);
        assert!(!stage.is_failed());
        assert_eq!(stage.flaky, ["vmm"]);
        assert_eq!(
            (stage.counts.passed, stage.counts.failed, stage.counts.skipped),
            (13, 0, 2)
        );
    }

    #[test]
    fn a_second_failure_counts_as_the_first_did() {
        let (stage, _) = tried(
            outcome(&["vmm"], &["vmm: 1 failed"]),
            Some(outcome(&["vmm"], &["again"])),
        );
        assert!(stage.is_failed() && stage.flaky.is_empty());
        assert_eq!(stage.problems, ["vmm: 1 failed"]);
        assert_eq!(stage.counts.failed, 1);
    }

    #[test]
    fn escapes_and_what_is_no_suites_fault_have_one_try() {
        for (suites, problem) in [
            (&["vmm", "namespace-root"][..], "escaped"),
            (&[][..], "no TESTBED-DONE"),
        ] {
            let (stage, _) = tried(outcome(suites, &[problem]), None);
            assert!(stage.is_failed() && stage.flaky.is_empty(), "{problem}");
        }
    }
}
