//! What /proc says about running processes: who descends from whom, how much memory they have, and who can still see a directory.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

/// One process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Process {
    /// Its id.
    pub(super) pid: u32,
    /// Its parent's id.
    pub(super) parent: u32,
    /// Its name, at most 15 bytes long (proc_pid_comm(5)).
    pub(super) name: String,
}

/// All processes there are. One that ends meanwhile is left out.
///
/// # Errors
/// /proc couldn't be read.
pub(super) fn all() -> io::Result<Vec<Process>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let entry = entry?;
        if !entry
            .file_name()
            .to_string_lossy()
            .bytes()
            .all(|byte| byte.is_ascii_digit())
        {
            continue;
        }
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        found.extend(parse_stat(&stat));
    }
    Ok(found)
}

/// Reads a line of /proc/PID/stat. The name is whatever the process chose, brackets and spaces included: it ends at the last one.
fn parse_stat(stat: &str) -> Option<Process> {
    let (pid, rest) = stat.split_once(" (")?;
    let (name, rest) = rest.rsplit_once(')')?;
    let parent = rest.split_whitespace().nth(1)?;
    Some(Process {
        pid: pid.parse().ok()?,
        parent: parent.parse().ok()?,
        name: name.to_owned(),
    })
}

/// The processes of `roots` and everything below them.
pub(super) fn below(roots: &[u32], all: &[Process]) -> Vec<Process> {
    let mut children: BTreeMap<u32, Vec<&Process>> = BTreeMap::new();
    for process in all {
        children.entry(process.parent).or_default().push(process);
    }
    let mut found: Vec<Process> = all
        .iter()
        .filter(|process| roots.contains(&process.pid))
        .cloned()
        .collect();
    let mut next = 0;
    while let Some(parent) = found.get(next).map(|process| process.pid) {
        found.extend(children.remove(&parent).into_iter().flatten().cloned());
        next += 1;
    }
    found
}

/// The proportional set size of a process in kB: its private pages, and its share of those it has together with others.
///
/// # Errors
/// It ended, or it may not be looked at.
pub(super) fn pss_kb(pid: u32) -> Result<f64, String> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = std::fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let number = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse().ok());
    number.ok_or_else(|| format!("{path} has no Pss line"))
}

/// The processes in whose mount namespace a path below `directory` is mounted. Scratch directories have names of their own, so
/// nobody else's processes are among them.
///
/// # Errors
/// /proc couldn't be read.
pub(super) fn with_mounts_of(directory: &Path) -> io::Result<Vec<Process>> {
    let directory = directory.to_string_lossy().into_owned();
    let mounts_it = |process: &Process| {
        std::fs::read_to_string(format!("/proc/{}/mountinfo", process.pid))
            .is_ok_and(|mounts| mounts.contains(&directory))
    };
    Ok(all()?.into_iter().filter(mounts_it).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: u32, parent: u32) -> Process {
        Process {
            pid,
            parent,
            name: "x".to_owned(),
        }
    }

    #[test]
    fn a_name_may_hold_brackets_and_spaces() {
        let found = parse_stat("12 (a) S 1 (b) S 7 12 12 0").unwrap();
        assert_eq!((found.pid, found.parent, found.name.as_str()), (12, 7, "a) S 1 (b"));
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn grandchildren_are_below_and_strangers_are_not() {
        let all = [
            process(1, 0),
            process(5, 1),
            process(6, 5),
            process(7, 6),
            process(8, 1),
        ];
        let pids: Vec<u32> = below(&[5], &all).iter().map(|process| process.pid).collect();
        assert_eq!(pids, [5, 6, 7]);
    }
}
