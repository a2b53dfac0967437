//! Counts tests from what test programs print: cargo's `test result:` lines, our suites' `N passed, N failed, N skipped`
//! lines, and `SKIPPED: why` lines. A pure reader of lines; it must never count a test as passed that said it was skipped.

use std::fmt;
use std::ops::AddAssign;

/// How many tests there were, by what became of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Ran, and all was well.
    pub(crate) passed: u64,
    /// Ran, and found something wrong.
    pub(crate) failed: u64,
    /// Did not run, for a reason that was printed.
    pub(crate) skipped: u64,
}

impl Counts {
    /// Whether there was no test at all.
    pub(crate) fn is_none(self) -> bool {
        self == Self::default()
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        )
    }
}

/// A running count over the lines of one test program or stage.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// What was counted so far.
    pub(crate) counts: Counts,
    /// Why tests were skipped, in the order printed.
    pub(crate) reasons: Vec<String>,
    /// SKIPPED lines that no summary has accounted for yet.
    unclaimed: u64,
    /// Skips that a suite's summary counted before their lines came.
    foretold: u64,
    /// Tests of cargo's that failed, by name.
    pub(crate) failures: Vec<String>,
    /// Whether a list of failures is being read.
    in_failures: bool,
}

impl Tally {
    /// Takes in one line of output.
    pub(crate) fn feed(&mut self, line: &str) {
        if let Some(why) = skip_reason(line) {
            self.reasons.push(why.to_owned());
            if self.foretold > 0 {
                self.foretold -= 1
            } else {
                self.unclaimed += 1
            }
        }
        match line {
            "failures:" => self.in_failures = true,
            "successes:" => self.in_failures = false,
            _ => {}
        }
        if let Some(name) = line.strip_prefix("    ").filter(|_| self.in_failures)
            && is_test_name(name)
            && !self.failures.iter().any(|known| known == name)
        {
            self.failures.push(name.to_owned());
        }
        if let Some(result) = cargo_result(line) {
            self.in_failures = false;
            // libtest knows no "skipped at run time": such a test says SKIPPED and returns, and libtest calls it passed.
            let renamed = self.unclaimed.min(result.passed);
            self.counts += Counts {
                passed: result.passed - renamed,
                failed: result.failed,
                skipped: result.skipped + renamed,
            };
            (self.unclaimed, self.foretold) = (0, 0);
        } else if let Some(suite) = suite_counts(line) {
            // The suite has counted its own SKIPPED lines; they must not also turn a cargo test into a skipped one.
            self.foretold += suite.skipped.saturating_sub(self.unclaimed);
            self.unclaimed = self.unclaimed.saturating_sub(suite.skipped);
            self.counts += suite;
        }
    }
}

fn is_test_name(text: &str) -> bool {
    !text.is_empty()
        && text
            .chars()
            .all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '_' | ':'))
}

/// The text after `SKIPPED:`. With --nocapture it may follow `test NAME ... ` on the same line.
fn skip_reason(line: &str) -> Option<&str> {
    let (before, why) = line.split_once("SKIPPED: ")?;
    (before.is_empty() || before.ends_with([' ', '\t'])).then(|| why.trim())
}

/// Parses `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.00s`.
fn cargo_result(line: &str) -> Option<Counts> {
    let (_, rest) = line.split_once("test result: ")?;
    let (_, rest) = rest.split_once(". ")?;
    let number = |what: &str| {
        rest.split("; ")
            .find_map(|part| part.strip_suffix(what)?.trim().parse().ok())
    };
    Some(Counts {
        passed: number(" passed")?,
        failed: number(" failed")?,
        skipped: number(" ignored")?,
    })
}

/// Parses a line that ends in `N passed, N failed, N skipped`.
pub(crate) fn suite_counts(line: &str) -> Option<Counts> {
    let (rest, skipped) = line.trim_end().strip_suffix(" skipped")?.rsplit_once(", ")?;
    let (rest, failed) = rest.strip_suffix(" failed")?.rsplit_once(", ")?;
    let passed = rest.strip_suffix(" passed")?.rsplit(' ').next()?;
    Some(Counts {
        passed: passed.parse().ok()?,
        failed: failed.parse().ok()?,
        skipped: skipped.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(lines: &[&str]) -> Tally {
        let mut tally = Tally::default();
        lines.iter().for_each(|line| tally.feed(line));
        tally
    }

    const fn counts(passed: u64, failed: u64, skipped: u64) -> Counts {
        Counts {
            passed,
            failed,
            skipped,
        }
    }

    #[test]
    fn failed_tests_are_known_by_name() {
        let seen = tally(&[
            "successes:",
            "    a::passes",
            "failures:",
            "---- a::fails stdout ----",
            "    left: 3",
            "failures:",
            "    a::fails",
            "    other",
            "",
            "test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out",
            "    not_this",
        ]);
        assert_eq!(seen.failures, ["a::fails", "other"]);
    }

    #[test]
    fn cargo_and_suite_lines_add_up() {
        let seen = tally(&[
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.10s",
            "test escapes ... escapes: 70 passed, 1 failed, 0 skipped",
            "test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 9.10s",
        ]);
        assert_eq!(seen.counts, counts(84, 2, 1));
    }

    #[test]
    fn a_test_that_says_skipped_is_not_passed() {
        let seen = tally(&[
            "test kvm ... SKIPPED: no /dev/kvm",
            "test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.10s",
        ]);
        assert_eq!(seen.counts, counts(1, 0, 1));
        assert_eq!(seen.reasons, ["no /dev/kvm"]);
    }

    #[test]
    fn skips_counted_by_a_suite_are_not_counted_again() {
        let result = "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.1s";
        let before = [
            "SKIPPED: a",
            "SKIPPED: b",
            "suite: 5 passed, 0 failed, 2 skipped",
            result,
        ];
        let after = [
            "suite: 5 passed, 0 failed, 2 skipped",
            "SKIPPED: a",
            "SKIPPED: b",
            result,
        ];
        assert_eq!(tally(&before).counts, counts(8, 0, 2));
        assert_eq!(tally(&after).counts, counts(8, 0, 2));
    }

    #[test]
    fn other_lines_are_no_summaries() {
        let seen = tally(&[
            "1 passed, 2 skipped",
            "x passed, 0 failed, 0 skipped",
            "NOTSKIPPED: a",
            "test result: ok",
        ]);
        assert_eq!((seen.counts, seen.reasons.len()), (Counts::default(), 0));
    }
}
