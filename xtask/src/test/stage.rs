//! One stage of `cargo xtask test`: a command or a function, how long it took, and what its output says about tests.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use super::STAGE_TIMEOUT;
use crate::command::shown;
use crate::stream::{Ended, stream};
use crate::tally::{Counts, Tally};
use crate::with_causes;

/// What came of a stage.
#[derive(Debug, Default)]
pub(crate) struct StageOutcome {
    /// The tests that it ran.
    pub(crate) counts: Counts,
    /// Why tests were skipped.
    pub(crate) reasons: Vec<String>,
    /// What is wrong beyond failed tests.
    pub(crate) problems: Vec<String>,
    /// Tests that failed, and passed when they were run again alone.
    pub(crate) flaky: Vec<String>,
}

impl StageOutcome {
    /// A stage that could not do its work; one failure, so that no total reads "0 failed".
    pub(crate) fn broken(why: &str) -> Self {
        let counts = Counts {
            failed: 1,
            ..Counts::default()
        };
        Self {
            counts,
            problems: vec![why.to_owned()],
            ..Self::default()
        }
    }

    /// A check without tests of its own: one passed or one failed.
    pub(crate) fn of_result(result: Result<(), String>) -> Self {
        let passed = Self {
            counts: Counts {
                passed: 1,
                ..Counts::default()
            },
            ..Self::default()
        };
        result.map_or_else(|why| Self::broken(&why), |()| passed)
    }

    /// Whether anything is wrong.
    pub(crate) fn is_failed(&self) -> bool {
        self.counts.failed > 0 || !self.problems.is_empty()
    }
}

/// A stage that has been run.
#[derive(Debug)]
pub(crate) struct Stage {
    /// Its name.
    pub(crate) name: String,
    /// How long it took.
    pub(crate) took: Duration,
    /// What came of it.
    pub(crate) outcome: StageOutcome,
}

/// Runs stages one after the other and keeps what came of them.
#[derive(Debug)]
pub(crate) struct Runner {
    logs: PathBuf,
    /// The stages so far.
    pub(crate) stages: Vec<Stage>,
}

impl Runner {
    /// Begins; each stage's output is also written to `logs`.
    pub(crate) const fn new(logs: PathBuf) -> Self {
        Self {
            logs,
            stages: Vec::new(),
        }
    }

    /// Runs a function as a stage; returns whether it went well.
    pub(crate) fn call(&mut self, name: &str, run: impl FnOnce() -> StageOutcome) -> bool {
        println!("\n=== {name}");
        let begun = Instant::now();
        let outcome = run();
        for problem in &outcome.problems {
            println!("FAILED: {name}: {problem}");
        }
        let is_well = !outcome.is_failed();
        self.stages.push(Stage {
            name: name.to_owned(),
            took: begun.elapsed(),
            outcome,
        });
        is_well
    }

    /// Runs a check: one that passes or fails as a whole.
    pub(crate) fn command(&mut self, name: &str, command: Command) -> bool {
        let logs = self.logs.clone();
        self.call(name, || {
            let (ended, _) = follow(&logs, name, command);
            StageOutcome::of_result(ended)
        })
    }

    /// Runs test programs and counts their tests. No test at all is a failure: something is named wrongly then.
    pub(crate) fn tests(&mut self, name: &str, command: Command) -> bool {
        let logs = self.logs.clone();
        self.call(name, || {
            let (ended, tally) = follow(&logs, name, command);
            judge(ended, tally)
        })
    }

    /// Likewise; tests that failed are run once more, alone, by `again`, which is told their names. One that passes then is reported as
    /// flaky, and is no failure: most tests measure time somewhere, and the machine may be anybody's. What is about escapes is never
    /// tried twice: an attempt that succeeds once has succeeded.
    pub(crate) fn tests_tried_twice(
        &mut self,
        name: &str,
        command: Command,
        again: impl FnOnce(&[String]) -> Command,
    ) -> bool {
        let logs = self.logs.clone();
        self.call(name, || {
            let (ended, tally) = follow(&logs, name, command);
            let failures = tally.failures.clone();
            let mut outcome = judge(ended, tally);
            if failures.is_empty() || failures.len() > MOST_TRIED_TWICE || failures.iter().any(|test| is_final(test)) {
                return outcome;
            }
            println!("\n=== {name}: once more: {}", failures.join(" "));
            let (ended, second) = follow(&logs, &format!("{name} again"), again(&failures));
            let wanted = u64::try_from(failures.len()).unwrap_or(u64::MAX);
            if ended.is_ok() && second.counts.failed == 0 && second.counts.passed + second.counts.skipped >= wanted {
                outcome.counts.passed += wanted;
                outcome.counts.failed = 0;
                outcome.problems.clear();
                outcome.flaky = failures;
            }
            outcome
        })
    }
}

/// More failures than this are no accident.
const MOST_TRIED_TWICE: usize = 8;

/// Whether a test's first word is its last.
fn is_final(test: &str) -> bool {
    ["escape", "attempt"].iter().any(|word| test.contains(word))
}

fn judge(ended: Result<(), String>, tally: Tally) -> StageOutcome {
    let mut outcome = StageOutcome {
        counts: tally.counts,
        reasons: tally.reasons,
        ..StageOutcome::default()
    };
    if let Err(why) = ended {
        outcome.problems.push(why);
    } else if outcome.counts.is_none() {
        outcome.problems.push("no test ran".to_owned());
    }
    if !outcome.problems.is_empty() && outcome.counts.failed == 0 {
        outcome.counts.failed = 1;
    }
    outcome
}

/// Runs a command with its output shown, logged and counted.
fn follow(logs: &PathBuf, name: &str, command: Command) -> (Result<(), String>, Tally) {
    let mut tally = Tally::default();
    println!("$ {}", shown(&command));
    // A log that can't be written is no reason not to test: everything is on the terminal too.
    let mut log = fs::create_dir_all(logs)
        .and_then(|()| File::create(logs.join(name.replace(' ', "-") + ".log")))
        .ok();
    let ended = stream(command, STAGE_TIMEOUT, |line| {
        println!("{line}");
        log = log.take().filter(|mut log| writeln!(log, "{line}").is_ok());
        tally.feed(line);
    });
    let ended = match ended {
        Ok(Ended::Exited(status)) if status.success() => Ok(()),
        Ok(Ended::Exited(status)) => Err(status.to_string()),
        Ok(Ended::TimedOut) => Err(format!("took longer than {} s", STAGE_TIMEOUT.as_secs())),
        Err(error) => Err(with_causes(&error)),
    };
    (ended, tally)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tests(script: &str) -> StageOutcome {
        let logs = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let mut runner = Runner::new(logs.path().to_owned());
        runner.tests("a stage", command);
        assert!(logs.path().join("a-stage.log").exists());
        runner.stages.remove(0).outcome
    }

    /// Two failing tests; run again, `script` decides.
    fn tried_twice(first: &str, script: &str) -> StageOutcome {
        let logs = tempfile::tempdir().unwrap();
        let sh = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            command
        };
        let text = format!(
            "printf 'failures:\\n    {first}\\n    b\\ntest result: FAILED. 7 passed; 2 failed; 0 ignored; 0 measured\\n'; exit 101"
        );
        let mut runner = Runner::new(logs.path().to_owned());
        runner.tests_tried_twice("a stage", sh(&text), |names| {
            assert_eq!(names, ["a", "b"]);
            sh(script)
        });
        runner.stages.remove(0).outcome
    }

    #[test]
    fn a_failure_is_tried_again_and_reported_as_flaky() {
        let outcome = tried_twice("a", "echo 'test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured'");
        assert_eq!((outcome.counts.passed, outcome.counts.failed), (9, 0));
        assert!(!outcome.is_failed());
        assert_eq!(outcome.flaky, ["a", "b"]);
    }

    #[test]
    fn a_second_failure_or_a_missing_test_is_a_failure() {
        for script in [
            "echo 'test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured'; exit 101",
            "echo 'test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured'",
            "echo 'test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured'; exit 1",
        ] {
            let outcome = tried_twice("a", script);
            assert!(outcome.is_failed() && outcome.counts.failed == 2, "{script}");
        }
    }

    #[test]
    fn an_escape_is_never_tried_twice() {
        let outcome = tried_twice(
            "no_escape_succeeds",
            "echo 'test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured'",
        );
        assert_eq!(outcome.counts.failed, 2);
    }

    #[test]
    fn tests_are_counted() {
        let outcome = tests("echo 'SKIPPED: no kvm'; echo 'a: 3 passed, 0 failed, 1 skipped'");
        assert_eq!(
            outcome.counts,
            Counts {
                passed: 3,
                failed: 0,
                skipped: 1
            }
        );
        assert!(!outcome.is_failed());
        assert_eq!(outcome.reasons, ["no kvm"]);
    }

    #[test]
    fn silence_and_a_bad_status_are_failures() {
        assert_eq!(tests("true").counts.failed, 1);
        assert_eq!(
            tests("echo 'test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured'")
                .counts
                .failed,
            1
        );
        assert!(tests("echo 'a: 3 passed, 0 failed, 1 skipped'; exit 1").is_failed());
        assert!(tests("echo 'a: 3 passed, 2 failed, 1 skipped'").is_failed());
        let missing = judge(Err("can't start".to_owned()), Tally::default());
        assert!(missing.is_failed());
    }
}
