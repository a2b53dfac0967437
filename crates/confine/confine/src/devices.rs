//! The device nodes a sandbox has: those that give nothing but bytes, and its own terminals.

/// Nodes bound from the host. All are character devices that any user may open everywhere (Documentation/admin-guide/devices.txt,
/// major 1 and `/dev/tty`).
pub const NODES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// Symbolic links in `/dev`.
pub const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];
