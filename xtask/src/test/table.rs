//! The table at the end of `cargo xtask test`, and the plain last line that scripts read. A pure function of the stages.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::stage::Stage;
use crate::tally::Counts;

/// Renders the reasons for skips, the table, what failed, and the last line.
pub(crate) fn render(stages: &[Stage]) -> String {
    let mut text = String::from("\n");
    for (why, times) in skips(stages) {
        push(&mut text, format_args!("SKIPPED ({times}x): {why}\n"));
    }
    push(
        &mut text,
        format_args!(
            "{:<24}{:>9}{:>9}{:>9}{:>9}\n",
            "stage", "seconds", "passed", "failed", "skipped"
        ),
    );
    let mut total = Counts::default();
    let mut seconds = 0.0;
    for stage in stages {
        total += stage.outcome.counts;
        seconds += stage.took.as_secs_f64();
        row(&mut text, &stage.name, stage.took.as_secs_f64(), stage.outcome.counts);
    }
    row(&mut text, "total", seconds, total);
    for stage in stages {
        for test in &stage.outcome.flaky {
            push(
                &mut text,
                format_args!("FLAKY: {}: {test} failed, and passed when run again\n", stage.name),
            );
        }
    }
    for stage in stages.iter().filter(|stage| stage.outcome.is_failed()) {
        push(
            &mut text,
            format_args!("FAILED: {}: {}\n", stage.name, stage.outcome.problems.join("; ")),
        );
    }
    push(&mut text, format_args!("{total}\n"));
    text
}

fn row(text: &mut String, name: &str, seconds: f64, counts: Counts) {
    let Counts {
        passed,
        failed,
        skipped,
    } = counts;
    push(
        text,
        format_args!("{name:<24}{seconds:>9.1}{passed:>9}{failed:>9}{skipped:>9}\n"),
    );
}

/// Each reason once, with how often it was given.
fn skips(stages: &[Stage]) -> BTreeMap<&str, usize> {
    let mut reasons = BTreeMap::new();
    for why in stages.iter().flat_map(|stage| &stage.outcome.reasons) {
        *reasons.entry(why.as_str()).or_default() += 1;
    }
    reasons
}

fn push(text: &mut String, words: std::fmt::Arguments<'_>) {
    // Writing to a String can't fail.
    let _ = text.write_fmt(words);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::stage::StageOutcome;
    use super::*;

    #[test]
    fn the_last_line_is_plain_and_failures_are_named() {
        let counts = Counts {
            passed: 3,
            failed: 1,
            skipped: 2,
        };
        let reasons = vec!["no kvm".to_owned(), "no kvm".to_owned()];
        let outcome = StageOutcome {
            counts,
            reasons,
            problems: vec!["exit status: 101".to_owned()],
            flaky: vec!["now_and_then".to_owned()],
        };
        let unit = Stage {
            name: "unit".to_owned(),
            took: Duration::from_millis(1500),
            outcome,
        };
        let fine = StageOutcome::of_result(Ok(()));
        let format = Stage {
            name: "format".to_owned(),
            took: Duration::ZERO,
            outcome: fine,
        };
        let text = render(&[format, unit]);
        assert_eq!(text.lines().last(), Some("4 passed, 1 failed, 2 skipped"));
        assert!(
            text.contains("SKIPPED (2x): no kvm") && text.contains("FAILED: unit: exit status: 101"),
            "{text}"
        );
        assert!(!text.contains("FAILED: format"), "{text}");
    }
}
