//! The second look at the target, right before a commit's commit point: staging takes time, in which somebody may have worked.

use crate::attr::FileKind;
use crate::change::{ProblemKind, Problems};
use crate::error::{At, PathIoError};
use crate::path::RelPath;
use crate::plan::Planned;
use crate::tree::{Tree, os, stat_entry};

/// Looks again, right before the commit point, whether the target still is what the plan saw when it began at `planned_ns`.
///
/// # Errors
/// As for a scan.
pub(crate) fn find_changed_meanwhile(
    target: &Tree,
    operations: &[Planned],
    planned_ns: i128,
) -> Result<Problems, PathIoError> {
    let mut problems = Problems::default();
    for planned in operations {
        let now = target.stat(&planned.path).at("stat the target's", &planned.path)?;
        let is_same = match (&planned.seen, &now) {
            (None, None) => true,
            (Some(seen), Some(now)) => seen.inode == now.inode && seen.changed == now.changed,
            _ => false,
        };
        if !is_same {
            problems.push(&planned.path, ProblemKind::ChangedMeanwhile);
        } else if planned.removes_directory() {
            find_newer_below(target, &planned.path, planned_ns, &mut problems)?;
        }
    }
    Ok(problems)
}

/// Finds what changed after `planned_ns` below a directory that a single operation moves away.
fn find_newer_below(
    target: &Tree,
    top: &RelPath,
    planned_ns: i128,
    problems: &mut Problems,
) -> Result<(), PathIoError> {
    let mut pending = vec![top.clone()];
    while let Some(path) = pending.pop() {
        let directory = target.open_dir(&path).at("open the target's", &path)?;
        for name in crate::tree::names(&directory, usize::MAX).at("list the target's", &path)? {
            let entry = path.join(&name);
            let Some(now) = stat_entry(&directory, os(&name)).at("stat the target's", &entry)? else {
                continue;
            };
            if now.changed.total_ns() > planned_ns {
                problems.push(&entry, ProblemKind::ChangedMeanwhile);
            }
            if now.kind == FileKind::Directory {
                pending.push(entry);
            }
        }
    }
    Ok(())
}
