//! One run as asked for.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use ringwall_policy::Policy;

/// One command to be run in a sandbox.
#[derive(Debug)]
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
    /// Set for a sandbox that serves: its command is the agent.
    pub guest: Option<Guest>,
}

/// A long-lived sandbox, in which an agent is the first process and starts all others. Its root file system is a stack of layers; what is
/// written stays in the writable layer of the sandbox's name until that name is removed.
///
/// The agent listens on two sockets in the name's state directory, which it inherits and which its arguments name: `--listen-fd N` is
/// `agent.sock` (a stream: HTTP), `--ports-fd M` is `ports.sock` (packets: descriptors of ports inside).
#[derive(Debug)]
pub struct Guest {
    /// Read-only layers of the root file system, the topmost first: directories in the form that overlayfs reads. Never empty.
    pub lowers: Vec<PathBuf>,
    /// Whether the host's programs and libraries are shown, read-only, upon these layers.
    pub shows_host_system: bool,
    /// The agent's executable on the host. It need not be visible inside.
    pub agent: PathBuf,
    /// Gets one byte once the agent's sockets exist in the sandbox's state directory, and is then closed.
    pub ready: OwnedFd,
}
