//! The numbers: per changed file its added and removed lines with a bar, then their sums.

use std::io::Write;

use similar::ChangeTag;

use super::content::{Side, Sides, compare};
use super::{DiffError, DiffOptions};
use crate::attr::FileKind;
use crate::capture::Capture;
use crate::change::{ChangeKind, Scan};

/// Most signs in a bar.
const BAR: u64 = 40;

/// Writes the numbers of lines.
///
/// # Errors
/// [`DiffError`].
pub fn write_stat(capture: &Capture, scan: &Scan, options: DiffOptions, out: &mut dyn Write) -> Result<(), DiffError> {
    let mut sides = Sides::open(capture, options.max_file_bytes)?;
    let result = write_all(&mut sides, scan, out);
    sides.close()?;
    result
}

fn write_all(sides: &mut Sides<'_>, scan: &Scan, out: &mut dyn Write) -> Result<(), DiffError> {
    let (mut files, mut all_added, mut all_removed) = (0_u64, 0_u64, 0_u64);
    for change in &scan.changes {
        if change.file_type == FileKind::Directory && change.old_type.is_none() {
            if change.kind == ChangeKind::MetadataOnly {
                writeln!(out, " {}/ | metadata", change.path)?;
            }
            continue;
        }
        files += 1;
        let what = match (sides.before(change), sides.after(change)) {
            _ if change.kind == ChangeKind::MetadataOnly => "metadata".to_owned(),
            (Side::Text(_) | Side::Absent, Side::Special(kind)) | (Side::Special(kind), Side::Absent) => {
                format!("{kind:?}").to_lowercase()
            }
            (Side::Binary(_) | Side::TooLarge(_), _) | (_, Side::Binary(_) | Side::TooLarge(_)) => {
                let old = change_size(sides.before(change));
                format!(
                    "Bin {old} -> {} bytes",
                    if change.kind == ChangeKind::Deleted {
                        0
                    } else {
                        change.size
                    }
                )
            }
            (Side::Unreadable, _) | (_, Side::Unreadable) => "unreadable".to_owned(),
            (before, after) => {
                let (added, removed) = count_lines(&text(before), &text(after));
                all_added += added;
                all_removed += removed;
                format!("{} {}", added + removed, bar(added, removed))
            }
        };
        writeln!(out, " {} | {}", change.path, what.trim_end())?;
    }
    writeln!(
        out,
        " {files} files changed, {all_added} insertions(+), {all_removed} deletions(-)"
    )?;
    Ok(())
}

fn text(side: Side) -> Vec<u8> {
    match side {
        Side::Text(bytes) => bytes,
        _ => Vec::new(),
    }
}

fn change_size(side: Side) -> u64 {
    match side {
        Side::Binary(size) | Side::TooLarge(size) => size,
        Side::Text(bytes) => u64::try_from(bytes.len()).unwrap_or(u64::MAX),
        _ => 0,
    }
}

fn count_lines(old: &[u8], new: &[u8]) -> (u64, u64) {
    let (mut added, mut removed) = (0, 0);
    for change in compare(old, new).iter_all_changes() {
        match change.tag() {
            ChangeTag::Insert => added += 1,
            ChangeTag::Delete => removed += 1,
            ChangeTag::Equal => {}
        }
    }
    (added, removed)
}

/// Plus and minus signs in proportion, at least one for what there is.
fn bar(added: u64, removed: u64) -> String {
    let scale = |count: u64| {
        let total = added + removed;
        let signs = if total <= BAR {
            count
        } else {
            (count * BAR / total).max(u64::from(count > 0))
        };
        usize::try_from(signs).unwrap_or(0)
    };
    format!("{}{}", "+".repeat(scale(added)), "-".repeat(scale(removed)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_bounded_and_shows_every_direction() {
        assert_eq!(bar(2, 1), "++-");
        let long = bar(1_000_000, 1);
        assert!(long.len() <= 41 && long.ends_with('-'), "{long}");
    }

    #[test]
    fn lines_are_counted_by_direction() {
        assert_eq!(count_lines(b"a\nb\nc\n", b"a\nB\nc\nd\n"), (2, 1));
    }
}
