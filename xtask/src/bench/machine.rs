//! What was measured, when and on which machine: figures mean nothing without it.

use std::path::Path;
use std::process::Command;

use crate::command;

/// The lines above the figures; the first is the title.
pub(super) fn heading(binary: &Path) -> Vec<String> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let date = said("date", &["-u", "+%Y-%m-%d %H:%M UTC"]);
    let commit = said(
        "git",
        &["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty"],
    );
    let peers = ["bwrap", "crun", "firejail", "unshare"].map(|peer| {
        let version = said(peer, &["--version"]);
        if version == "unknown" {
            format!("no {peer}")
        } else {
            version
        }
    });
    vec![
        format!("{date}, {} {}", std::env::consts::ARCH, processor()),
        format!("command: `cargo xtask {}`", arguments.join(" ")),
        format!("binary: `{}`, checkout at {commit}", binary.display()),
        format!(
            "machine: {} CPUs, {}, Linux {}, uid {}, load {} at the start",
            std::thread::available_parallelism().map_or(1, usize::from),
            memory(),
            said("uname", &["-r"]),
            rustix::process::geteuid().as_raw(),
            first_word("/proc/loadavg"),
        ),
        format!("peers: {}", peers.join(", ")),
    ]
}

/// The first line that a program prints, or "unknown".
fn said(program: &str, arguments: &[&str]) -> String {
    let text = command::text(Command::new(program).args(arguments)).unwrap_or_default();
    let line = text.lines().next().unwrap_or_default().trim();
    if line.is_empty() { "unknown" } else { line }.to_owned()
}

fn processor() -> String {
    field("/proc/cpuinfo", "model name").unwrap_or_else(|| "processor".to_owned())
}

fn memory() -> String {
    field("/proc/meminfo", "MemTotal").unwrap_or_else(|| "unknown memory".to_owned())
}

/// The value of the first `name: value` line of a /proc file.
fn field(path: &str, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let mut pairs = text.lines().filter_map(|line| line.split_once(':'));
    pairs
        .find(|(key, _)| key.trim() == name)
        .map(|(_, value)| value.trim().to_owned())
}

fn first_word(path: &str) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().next().unwrap_or("unknown").to_owned()
}
