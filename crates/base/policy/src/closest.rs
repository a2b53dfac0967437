//! The known word closest to a mistyped one, for `did you mean`.

/// Longest word compared: the table grows with it, and nobody means a known key by more.
const MAX_CHARS: usize = 32;

/// Returns the one of `known` that `word` was most likely meant to be, if any is close enough.
pub(crate) fn closest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    let word = word.to_lowercase().replace('-', "_");
    let typed: Vec<char> = word.chars().take(MAX_CHARS + 1).collect();
    if typed.len() > MAX_CHARS {
        return None;
    }
    // One slip per three letters; more and the guess is noise.
    let tolerance = (typed.len() / 3).max(1);
    known
        .iter()
        .map(|candidate| (distance(&typed, &candidate.chars().collect::<Vec<_>>()), *candidate))
        .filter(|(distance, _)| *distance <= tolerance)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Counts the insertions, deletions, replacements and swaps of neighbours between two words (optimal string alignment).
fn distance(one: &[char], other: &[char]) -> usize {
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=other.len()).collect();
    for (row, letter) in one.iter().enumerate() {
        let mut current = vec![row + 1];
        for (column, against) in other.iter().enumerate() {
            let replaced = last[column] + usize::from(letter != against);
            let mut best = replaced.min(last[column + 1] + 1).min(current[column] + 1);
            if row > 0 && column > 0 && *letter == other[column - 1] && one[row - 1] == *against {
                best = best.min(before_last[column - 1] + 1);
            }
            current.push(best);
        }
        before_last = last;
        last = current;
    }
    last.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_recognised_and_noise_is_not() {
        let known = ["memory", "cpus", "pids", "files", "disk", "timeout", "allow_degraded"];
        for (typed, meant) in [
            ("memroy", Some("memory")),
            ("Memory", Some("memory")),
            ("cpu", Some("cpus")),
            ("time_out", Some("timeout")),
            ("allow-degraded", Some("allow_degraded")),
            ("zzz", None),
            ("", None),
        ] {
            assert_eq!(closest(typed, &known), meant, "{typed}");
        }
        assert_eq!(closest(&"m".repeat(100_000), &known), None);
    }
}
