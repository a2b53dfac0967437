//! Reads and writes the small files of a control group. Every read is bounded; a write is one `write(2)`, as cgroup files want.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;

/// Most bytes read from one control file: `cgroup.procs` of a group with 8,000 processes fits, everything else is tiny.
const MAX_BYTES: u64 = 64 * 1024;

/// Reads a file up to [`MAX_BYTES`]; what lies beyond is left out.
pub(crate) fn read(path: &Path) -> io::Result<String> {
    read_up_to(path, MAX_BYTES)
}

/// Reads at most `limit` bytes; bytes that are not UTF-8 become replacement characters.
pub(crate) fn read_up_to(path: &Path, limit: u64) -> io::Result<String> {
    let mut bytes = Vec::with_capacity(4096);
    File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Writes a value to an existing file; never creates one.
pub(crate) fn write(path: &Path, value: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes())
}

/// Reads a file that holds one number.
pub(crate) fn read_number(path: &Path) -> Option<u64> {
    read(path).ok()?.trim().parse().ok()
}

/// Reads the number behind `key` in a file of `KEY NUMBER` lines.
pub(crate) fn read_keyed(path: &Path, key: &str) -> Option<u64> {
    let text = read(path).ok()?;
    let mut values = text
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter(|(name, _)| *name == key);
    values.next()?.1.trim().parse().ok()
}

/// Reads the pids in `cgroup.procs`; 0 stands for a process that this pid namespace can't see and is left out.
pub(crate) fn read_pids(path: &Path) -> io::Result<Vec<i32>> {
    Ok(read(path)?
        .lines()
        .filter_map(|line| line.trim().parse().ok())
        .filter(|pid| *pid > 0)
        .collect())
}
