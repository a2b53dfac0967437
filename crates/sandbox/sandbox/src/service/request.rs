//! What can be asked for.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::SandboxState;

/// A sandbox wanted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct CreateSandbox {
    /// Name, id or name:tag of a template, or the id of a snapshot.
    pub template: String,
    /// Seconds until it ends.
    pub timeout_s: u64,
    /// Whether it is paused when its time is up, and not killed.
    pub auto_pause: bool,
    /// Whether such a pause keeps the processes.
    pub auto_pause_memory: bool,
    /// Whether traffic to it resumes it.
    pub auto_resume: bool,
    /// The caller's own labels.
    pub metadata: BTreeMap<String, String>,
    /// Variables of every process.
    pub env: BTreeMap<String, String>,
    /// Network rules.
    pub network: Network,
    /// The caller's key for this very request: asked twice, it is done once.
    pub idempotency_key: Option<String>,
}

/// Network rules as asked for. Today's tiers have no way out at all, so only rules that ask for no more than that are accepted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Network {
    /// What may be reached although denied below.
    pub allow_out: Vec<String>,
    /// What may not be reached.
    pub deny_out: Vec<String>,
    /// The way out as a whole: `Some(false)` shuts it, `Some(true)` is the clients' default and no promise.
    pub internet: Option<bool>,
    /// Whether the sandbox's ports are open to whoever knows its name; else a token is needed.
    pub public_traffic: Option<bool>,
    /// The Host header that services inside see, with `${PORT}` for the port.
    pub mask_request_host: Option<String>,
    /// Things asked for that no tier of today can do, by name.
    pub unsupported: Vec<String>,
}

/// A paused sandbox wanted back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ConnectSandbox {
    /// Seconds until it ends, from now.
    pub timeout_s: u64,
    /// Whether its processes are started anew.
    pub reboot: bool,
    /// A new choice for the end of its time.
    pub auto_pause: Option<bool>,
}

/// How to pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PauseSandbox {
    /// Whether the processes are kept.
    pub memory: bool,
}

/// How to take a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TakeSnapshot {
    /// A name for it.
    pub name: Option<String>,
}

/// How to fork.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ForkSandbox {
    /// Seconds until the copies end.
    pub timeout_s: u64,
    /// How many copies.
    pub count: usize,
}

/// Which sandboxes to list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    /// Labels that all must be there.
    pub metadata: BTreeMap<String, String>,
    /// States; empty for all.
    pub states: Vec<SandboxState>,
    /// Name or id of the template.
    pub template: Option<String>,
    /// Milliseconds since 1970: only those started later.
    pub started_after_ms: Option<u64>,
    /// Whether the oldest come first.
    pub ascending: bool,
    /// Most on a page.
    pub limit: usize,
    /// Where the last page ended.
    pub next: Option<String>,
}

/// Which snapshots to list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SnapshotFilter {
    /// Of this sandbox only.
    pub sandbox: Option<String>,
    /// With this name only.
    pub name: Option<String>,
    /// Most on a page.
    pub limit: usize,
    /// Where the last page ended.
    pub next: Option<String>,
}
