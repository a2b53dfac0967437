//! What is answered.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Network, ServiceError};

/// Whether a sandbox runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SandboxState {
    /// It runs.
    Running,
    /// It is frozen, or only its files are there.
    Paused,
}

/// What happens when a sandbox's time is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnTimeout {
    /// It is ended and removed.
    Kill,
    /// It is paused.
    Pause,
}

/// What a pause kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PauseMode {
    /// Processes and files.
    Full,
    /// Files only: processes start anew.
    Filesystem,
}

/// One sandbox.
#[derive(Debug, Clone)]
pub struct SandboxInfo {
    /// Its id.
    pub id: String,
    /// Id of its template.
    pub template_id: String,
    /// Name of its template.
    pub template_name: Option<String>,
    /// Milliseconds since 1970.
    pub started_ms: u64,
    /// When it ends, milliseconds since 1970.
    pub end_ms: u64,
    /// Whether it runs.
    pub state: SandboxState,
    /// What the pause kept, if it is paused.
    pub pause_mode: Option<PauseMode>,
    /// What happens at the end.
    pub on_timeout: OnTimeout,
    /// Whether traffic resumes it.
    pub auto_resume: bool,
    /// The caller's labels.
    pub metadata: BTreeMap<String, String>,
    /// The agent's token.
    pub token: String,
    /// The token for its ports, if they are not public.
    pub traffic_token: Option<String>,
    /// Network rules.
    pub network: Network,
    /// CPUs it may use.
    pub cpu_count: u32,
    /// Memory it may use, MiB.
    pub memory_mb: u64,
    /// Disk it may use, MiB.
    pub disk_mb: u64,
    /// The isolation it has.
    pub tier: ringwall_types::Tier,
}

/// A sandbox one is connected to.
#[derive(Debug, Clone)]
pub struct Connected {
    /// The sandbox.
    pub sandbox: SandboxInfo,
    /// How it came to run.
    pub started: StartedAs,
}

/// How a sandbox came to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartedAs {
    /// It ran already.
    Running,
    /// It was resumed just now.
    Resumed,
}

/// One of the copies of a fork.
#[derive(Debug)]
pub struct Forked {
    /// The copy, or why there is none.
    pub result: Result<SandboxInfo, ServiceError>,
}

/// One page of a list.
#[derive(Debug, Clone)]
pub struct Page<T> {
    /// What is on it.
    pub items: Vec<T>,
    /// Where the next one starts; `None` at the end.
    pub next: Option<String>,
}

/// A frozen layer with a name.
#[derive(Debug, Clone)]
pub struct SnapshotInfo {
    /// Its id; also the name of a template to start from.
    pub id: String,
    /// Names given to it.
    pub names: Vec<String>,
    /// The sandbox it is of.
    pub sandbox: String,
    /// Milliseconds since 1970.
    pub created_ms: u64,
}

/// One measurement.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Metrics {
    /// Seconds since 1970.
    pub at_s: i64,
    /// CPUs there are.
    pub cpu_count: u32,
    /// Percent of one CPU in use.
    pub cpu_used_pct: f64,
    /// Bytes of memory in use.
    pub mem_used: u64,
    /// Bytes of memory there are.
    pub mem_total: u64,
    /// Bytes of file cache.
    pub mem_cache: u64,
    /// Bytes of disk in use.
    pub disk_used: u64,
    /// Bytes of disk there are.
    pub disk_total: u64,
}

/// One file that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileChange {
    /// `A` added, `D` removed, `M` other content, `m` other mode or owner only.
    pub kind: char,
    /// The path inside.
    pub path: String,
}

/// One line of a sandbox's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEntry {
    /// Milliseconds since 1970.
    pub at_ms: u64,
    /// `info`, `warn` or `error`.
    pub level: String,
    /// What happened.
    pub message: String,
    /// Particulars.
    pub fields: BTreeMap<String, String>,
}
