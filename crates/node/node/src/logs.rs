//! The log of a sandbox: what happened to it, a JSON line each, in its state directory, so that it survives the node.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;

use ringwall_sandbox::service::LogEntry;

use crate::clock::now_ms;

/// File name below the sandbox's directory.
const FILE: &str = "events.jsonl";
/// Longest log; nothing is added beyond.
const MAX_BYTES: u64 = 1 << 20;

/// Adds a line. A log that can't be written does not stop what it is about.
pub(crate) fn add(directory: &Path, level: &str, message: &str, fields: &[(&str, String)]) {
    let entry = LogEntry {
        at_ms: now_ms(),
        level: level.to_owned(),
        message: message.to_owned(),
        fields: fields
            .iter()
            .map(|(key, value)| ((*key).to_owned(), value.clone()))
            .collect::<BTreeMap<_, _>>(),
    };
    let written = (|| {
        let mut line = serde_json::to_vec(&entry)?;
        line.push(b'\n');
        let mut file = fs::File::options()
            .create(true)
            .append(true)
            .open(directory.join(FILE))?;
        if file.metadata()?.len() < MAX_BYTES {
            file.write_all(&line)?;
        }
        Ok::<(), std::io::Error>(())
    })();
    if let Err(error) = written {
        tracing::warn!(%error, "can't write a sandbox's log");
    }
}

/// Reads all lines.
pub(crate) fn read(directory: &Path) -> Vec<LogEntry> {
    let Ok(file) = fs::File::open(directory.join(FILE)) else {
        return Vec::new();
    };
    BufReader::new(file)
        .lines()
        .map_while(Result::ok)
        .filter_map(|line| serde_json::from_str(&line).ok())
        .collect()
}
