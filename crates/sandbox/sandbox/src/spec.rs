//! One run as asked for.

use std::ffi::OsString;
use std::path::PathBuf;

use ringwall_policy::Policy;

/// One command to be run in a sandbox.
#[derive(Debug, Clone)]
pub struct RunSpec {
    /// The command and its arguments; never empty.
    pub command: Vec<OsString>,
    /// What it may see, change and use.
    pub policy: Policy,
    /// The caller's current directory.
    pub current_dir: PathBuf,
    /// The caller's environment, from which a few variables are passed on.
    pub caller_env: Vec<(OsString, OsString)>,
    /// Whether denied system calls are recorded for the report (it costs a round trip for each).
    pub record_denials: bool,
    /// Whether standard output and error are also stored for `ringwall logs`.
    pub log_output: bool,
}
