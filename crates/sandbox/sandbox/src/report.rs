//! What came of a run; `--report` writes it as JSON.

use std::path::PathBuf;

use ringwall_types::{LimitKind, SandboxName, Tier};
use serde::{Deserialize, Serialize};

/// Version of the report's JSON shape.
pub const REPORT_VERSION: u32 = 1;

/// What came of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`REPORT_VERSION`].
    pub version: u32,
    /// The sandbox's name.
    pub name: SandboxName,
    /// The command, lossily as text.
    pub command: Vec<String>,
    /// The tier achieved.
    pub tier: Tier,
    /// Why stronger tiers were not used, when `auto` had to go down.
    pub passed_over: Vec<String>,
    /// Each protection, on or off, and why.
    pub protections: Vec<Protection>,
    /// Each limit asked for and how it holds.
    pub limits: Vec<LimitReport>,
    /// What of the caller's home was made visible for tools.
    pub exposed: Exposed,
    /// How it ended.
    pub exit: ExitReason,
    /// The code that `ringwall run` exits with.
    pub exit_code: i32,
    /// What it used.
    pub usage: Usage,
    /// How long each phase of the start took.
    pub timings: Timings,
    /// System calls denied, if they were recorded.
    pub denials: Vec<Denial>,
    /// Whether denials were recorded at all.
    pub denials_recorded: bool,
    /// Captured changes, if the run captured.
    pub changes: Option<ChangeSummary>,
    /// Anything else that the caller should know.
    pub notes: Vec<String>,
}

/// One protection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Protection {
    /// Which.
    pub name: String,
    /// Whether it is on.
    pub on: bool,
    /// What it does here, or why it is off.
    pub why: String,
}

/// One limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitReport {
    /// Which.
    pub limit: LimitKind,
    /// Its value as text.
    pub value: String,
    /// By what it holds.
    pub mechanism: String,
    /// Whether this is weaker than what was asked for (only with `--allow-degraded`).
    pub degraded: bool,
}

/// What of the host was made visible without being asked for by path.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Exposed {
    /// Tool roots below the home directory, read-only.
    pub home_tools: Vec<PathBuf>,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "kebab-case")]
pub enum ExitReason {
    /// The command called exit.
    Exited {
        /// Its code.
        code: i32,
    },
    /// A signal killed the command.
    Signal {
        /// Which.
        signal: i32,
    },
    /// The wall time ran out.
    Timeout,
    /// It was killed for using too much memory.
    Memory,
    /// It was killed for writing too much.
    Disk,
    /// The command ended after it was refused more processes.
    Pids {
        /// Its code, 128+n for a signal.
        code: i32,
    },
    /// `ringwall kill` or the host ended the sandbox.
    Killed,
    /// The command could not be executed.
    NotExecutable {
        /// Why.
        why: String,
    },
    /// The command was not found.
    NotFound,
}

/// What a run used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Wall time, microseconds.
    pub wall_us: u64,
    /// CPU time in user mode, microseconds.
    pub user_us: u64,
    /// CPU time in kernel mode, microseconds.
    pub system_us: u64,
    /// Largest resident set of one process, KiB.
    pub max_rss_kib: u64,
    /// Most memory of all together, bytes, where a control group counted it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_memory_bytes: Option<u64>,
}

/// Start phases in microseconds, each from the end of the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Timings {
    /// Resolving paths, tools and limits.
    pub plan_us: u64,
    /// Making the state directory and the layer.
    pub state_us: u64,
    /// Making the first process in its namespaces.
    pub clone_us: u64,
    /// Building the root file system, by the first process.
    pub root_us: u64,
    /// Dropping privilege, until the program is executed.
    pub lockdown_us: u64,
}

/// A system call that was denied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denial {
    /// Its name, or its number when it has none.
    pub syscall: String,
    /// How often.
    pub count: u64,
}

/// How many paths a run changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeSummary {
    /// What became of them: `kept`, `committed` or `discarded`.
    pub state: String,
    /// The directory they belong to.
    pub target: PathBuf,
    /// Paths added.
    pub added: u64,
    /// Paths modified.
    pub modified: u64,
    /// Paths deleted.
    pub deleted: u64,
}
