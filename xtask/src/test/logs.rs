//! Where the output of `cargo xtask test` is kept: a folder for each run, outside of the checkout, which may be gone by the time that
//! somebody asks why a test failed.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The runs that are kept, this one included.
const KEPT: usize = 8;

/// Makes the folder of this run, named after the second it began and its process, and removes those of old ones.
/// What doesn't work is no reason not to test: the output is on the terminal too.
pub(crate) fn make(all: &Path) -> PathBuf {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs();
    let folder = all.join(format!("{now}-{}", std::process::id()));
    if let Err(error) = fs::create_dir_all(&folder) {
        println!("can't keep logs in {}: {error}", folder.display());
    }
    for old in superseded(all) {
        drop(fs::remove_dir_all(old));
    }
    folder
}

/// All but the newest; nothing that isn't named as ours.
fn superseded(all: &Path) -> Vec<PathBuf> {
    let began = |path: &Path| -> Option<(u64, u32)> {
        let (second, process) = path.file_name()?.to_str()?.split_once('-')?;
        Some((second.parse().ok()?, process.parse().ok()?))
    };
    let entries = fs::read_dir(all).into_iter().flatten().flatten();
    let mut runs: Vec<_> = entries
        .filter_map(|entry| Some((began(&entry.path())?, entry.path())))
        .collect();
    runs.sort();
    runs.truncate(runs.len().saturating_sub(KEPT));
    runs.into_iter().map(|(_, path)| path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_runs_are_kept_and_nothing_else_is_touched() {
        let all = tempfile::tempdir().unwrap();
        // Numbers, not texts: 9 is before 10.
        for name in [
            "9-1", "10-1", "11-3", "11-20", "12-1", "13-1", "14-1", "15-1", "notes", "x-1",
        ] {
            fs::create_dir(all.path().join(name)).unwrap();
        }
        let made = make(all.path());
        assert!(made.is_dir());
        let mut left: Vec<_> = fs::read_dir(all.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| *path != made)
            .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
            .collect();
        left.sort();
        assert_eq!(
            left,
            ["10-1", "11-20", "11-3", "12-1", "13-1", "14-1", "15-1", "notes", "x-1"]
        );
    }
}
