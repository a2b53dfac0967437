//! Reads a guest's console and judges it. The guest's script marks each suite with `TESTBED-SUITE NAME` and
//! `TESTBED-END NAME STATUS`, and its own end with `TESTBED-DONE`; between them the suites print their summaries.
//! Silence is never success: what is missing is a problem like what failed.

use crate::stream::Ended;
use crate::tally::Tally;

/// One suite, as far as it came.
#[derive(Debug)]
pub(crate) struct Suite {
    /// Its name.
    pub(crate) name: String,
    /// What its lines say.
    pub(crate) tally: Tally,
    /// Its exit status, once it ended.
    status: Option<u32>,
}

/// The console so far.
#[derive(Debug, Default)]
pub(crate) struct Console {
    /// The suites that began, in their order.
    pub(crate) suites: Vec<Suite>,
    panic: Option<String>,
    is_done: bool,
}

/// Something that makes a boot a failure.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Problem {
    /// The guest's kernel died.
    #[error("the guest's kernel panicked: {0}")]
    Panic(String),
    /// The machine didn't end in time.
    #[error("the machine ran out of time{}", .0.as_ref().map(|suite| format!(" in {suite}")).unwrap_or_default())]
    Timeout(Option<String>),
    /// QEMU ended before the guest's script did.
    #[error("the guest ended without TESTBED-DONE ({0})")]
    NotDone(String),
    /// A suite never began.
    #[error("{0} did not run")]
    Missing(String),
    /// A suite began and did not end.
    #[error("{0} began and did not end")]
    Unfinished(String),
    /// A suite printed no summary, or one without a test.
    #[error("{0} told of no test (`N passed, N failed, N skipped`)")]
    NoSummary(String),
    /// A suite had failures.
    #[error("{suite}: {failed} failed, exit status {status}")]
    Failed {
        /// The suite.
        suite: String,
        /// How many of its tests failed.
        failed: u64,
        /// Its exit status.
        status: u32,
    },
}

impl Problem {
    /// Whether failed tests tell of it too; otherwise it counts as a failure of its own, so that no total reads "0 failed".
    pub(crate) const fn is_counted(&self) -> bool {
        matches!(self, Self::Failed { failed: 1.., .. })
    }

    /// The suite that it is about, if it is about one.
    pub(crate) fn suite(&self) -> Option<&str> {
        match self {
            Self::Missing(suite) | Self::Unfinished(suite) | Self::NoSummary(suite) | Self::Failed { suite, .. } => {
                Some(suite)
            }
            Self::Panic(_) | Self::Timeout(_) | Self::NotDone(_) => None,
        }
    }
}

impl Console {
    /// Takes in one line.
    pub(crate) fn feed(&mut self, line: &str) {
        if let Some(panic) = line.find("Kernel panic - not syncing") {
            self.panic
                .get_or_insert_with(|| line.get(panic..).unwrap_or(line).to_owned());
        } else if let Some(name) = line.strip_prefix("TESTBED-SUITE ") {
            self.suites.push(Suite {
                name: name.to_owned(),
                tally: Tally::default(),
                status: None,
            });
        } else if let Some(end) = line.strip_prefix("TESTBED-END ") {
            let (name, status) = end.split_once(' ').unwrap_or((end, ""));
            if let Some(suite) = self.suites.iter_mut().rfind(|suite| suite.name == name) {
                // A status that can't be read is not success.
                suite.status = Some(status.trim().parse().unwrap_or(u32::MAX));
            }
        } else if line == "TESTBED-DONE" {
            self.is_done = true;
        } else if let Some(suite) = self.suites.last_mut().filter(|suite| suite.status.is_none()) {
            suite.tally.feed(line);
        }
    }

    /// What is wrong, given which suites were asked for and how the machine ended; nothing when all is well.
    pub(crate) fn problems(&self, wanted: &[&str], ended: Ended) -> Vec<Problem> {
        let mut problems = Vec::new();
        if let Some(panic) = &self.panic {
            problems.push(Problem::Panic(panic.clone()));
        }
        match ended {
            Ended::TimedOut => {
                let running = self.suites.iter().find(|suite| suite.status.is_none());
                problems.push(Problem::Timeout(running.map(|suite| suite.name.clone())));
            }
            Ended::Exited(status) if !self.is_done => problems.push(Problem::NotDone(status.to_string())),
            Ended::Exited(_) => {}
        }
        for &name in wanted {
            let Some(suite) = self.suites.iter().find(|suite| suite.name == name) else {
                problems.push(Problem::Missing(name.to_owned()));
                continue;
            };
            let failed = suite.tally.counts.failed;
            match suite.status {
                None => problems.push(Problem::Unfinished(name.to_owned())),
                Some(status) if status != 0 || failed > 0 => {
                    problems.push(Problem::Failed {
                        suite: name.to_owned(),
                        failed,
                        status,
                    });
                }
                Some(_) if suite.tally.counts.is_none() => problems.push(Problem::NoSummary(name.to_owned())),
                Some(_) => {}
            }
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use super::*;

    fn judge(lines: &[&str], wanted: &[&str]) -> Vec<Problem> {
        judge_ended(lines, wanted, Ended::Exited(ExitStatus::from_raw(0)))
    }

    fn judge_ended(lines: &[&str], wanted: &[&str], ended: Ended) -> Vec<Problem> {
        let mut console = Console::default();
        lines.iter().for_each(|line| console.feed(line));
        console.problems(wanted, ended)
    }

    #[test]
    fn a_whole_run_is_fine() {
        let lines = [
            "booting",
            "TESTBED-SUITE a",
            "a: 2 passed, 0 failed, 1 skipped",
            "TESTBED-END a 0",
            "TESTBED-DONE",
        ];
        assert_eq!(judge(&lines, &["a"]), []);
    }

    #[test]
    fn silence_is_a_failure() {
        let not_done = Problem::NotDone("exit status: 0".to_owned());
        assert_eq!(judge(&[], &["a"]), [not_done, Problem::Missing("a".to_owned())]);
        let lines = ["TESTBED-SUITE a", "TESTBED-END a 0", "TESTBED-DONE"];
        assert_eq!(judge(&lines, &["a"]), [Problem::NoSummary("a".to_owned())]);
        let lines = [
            "TESTBED-SUITE a",
            "a: 0 passed, 0 failed, 0 skipped",
            "TESTBED-END a 0",
            "TESTBED-DONE",
        ];
        assert_eq!(judge(&lines, &["a"]), [Problem::NoSummary("a".to_owned())]);
        // A summary outside of its suite doesn't count.
        let lines = [
            "a: 1 passed, 0 failed, 0 skipped",
            "TESTBED-SUITE a",
            "TESTBED-END a 0",
            "TESTBED-DONE",
        ];
        assert_eq!(judge(&lines, &["a"]), [Problem::NoSummary("a".to_owned())]);
    }

    #[test]
    fn failures_and_statuses_are_seen() {
        let failed = |failed, status| Problem::Failed {
            suite: "a".to_owned(),
            failed,
            status,
        };
        let lines = [
            "TESTBED-SUITE a",
            "a: 2 passed, 1 failed, 0 skipped",
            "TESTBED-END a 0",
            "TESTBED-DONE",
        ];
        assert_eq!(judge(&lines, &["a"]), [failed(1, 0)]);
        assert!(failed(1, 0).is_counted() && !failed(0, 139).is_counted());
        let lines = [
            "TESTBED-SUITE a",
            "a: 2 passed, 0 failed, 0 skipped",
            "TESTBED-END a 139",
            "TESTBED-DONE",
        ];
        assert_eq!(judge(&lines, &["a"]), [failed(0, 139)]);
        let lines = [
            "TESTBED-SUITE a",
            "a: 2 passed, 0 failed, 0 skipped",
            "TESTBED-END a",
            "TESTBED-DONE",
        ];
        assert_eq!(judge(&lines, &["a"]), [failed(0, u32::MAX)]);
    }

    #[test]
    fn a_panic_and_a_timeout_are_named() {
        let lines = [
            "TESTBED-SUITE a",
            "[ 3.1] Kernel panic - not syncing: Attempted to kill init!",
        ];
        let problems = judge(&lines, &["a"]);
        let panic = Problem::Panic("Kernel panic - not syncing: Attempted to kill init!".to_owned());
        assert_eq!(problems.first(), Some(&panic));
        let problems = judge_ended(&lines[..1], &["a"], Ended::TimedOut);
        assert_eq!(
            problems,
            [
                Problem::Timeout(Some("a".to_owned())),
                Problem::Unfinished("a".to_owned())
            ]
        );
    }
}
