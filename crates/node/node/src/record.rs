//! What is written down: one record for each sandbox, snapshot and template. Fields that later versions add have defaults.

use std::collections::BTreeMap;

use ringwall_policy::Limits;
use ringwall_sandbox::service::{BuildLog, BuildState, Network, OnTimeout, PauseMode};
use ringwall_types::{ByteSize, CpuShare, LimitKind};
use serde::{Deserialize, Serialize};

/// Where in its life a sandbox is. Written before anything is done about it.
///
/// ```text
/// Starting -> Running <-> Pausing -> Paused -> Starting
///                |  \--> Freezing(layer) -> Starting, or Paused
///                v
///             Stopping -> (no record)          from every phase
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Phase {
    /// Its keeper is being started.
    Starting,
    /// It runs.
    Running,
    /// It is being paused.
    Pausing,
    /// It is paused.
    Paused(PauseMode),
    /// Its writable layer is being turned into the layer of this id.
    Freezing {
        layer: String,
        /// Whether it is to go on afterwards.
        was_running: bool,
    },
    /// It is being ended; nothing brings it back.
    Stopping,
}

/// A sandbox.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SandboxRecord {
    pub(crate) id: String,
    pub(crate) owner: String,
    pub(crate) phase: Phase,
    pub(crate) template_id: String,
    pub(crate) template_name: Option<String>,
    /// What it stands on.
    pub(crate) stack: Stack,
    pub(crate) started_ms: u64,
    pub(crate) end_ms: u64,
    pub(crate) on_timeout: OnTimeout,
    /// Whether a pause at the end of its time keeps the processes.
    pub(crate) auto_pause_memory: bool,
    pub(crate) auto_resume: bool,
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) network: Network,
    pub(crate) token: String,
    pub(crate) traffic_token: Option<String>,
    /// Whether its processes ended by themselves.
    #[serde(default)]
    pub(crate) died: bool,
    /// CPUs and memory (MiB) that its template asks for.
    #[serde(default)]
    pub(crate) size: Size,
    /// The caller's key of the request that made it, and the hash of that request.
    #[serde(default)]
    pub(crate) idempotency: Option<(String, u64)>,
}

/// What a sandbox stands on: read-only layers and how it is to be used.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Stack {
    /// Ids of layers, the topmost first.
    pub(crate) layers: Vec<String>,
    /// Whether the host's programs are shown.
    pub(crate) host_system: bool,
    /// Variables of every process.
    #[serde(default)]
    pub(crate) env: BTreeMap<String, String>,
    /// User that commands run as; `user` when absent.
    #[serde(default)]
    pub(crate) user: Option<String>,
    /// Directory that commands run in; the user's home when absent.
    #[serde(default)]
    pub(crate) workdir: Option<String>,
    /// Command started with each sandbox.
    #[serde(default)]
    pub(crate) start_command: Option<String>,
    /// Command that succeeds once the start command is ready.
    #[serde(default)]
    pub(crate) ready_command: Option<String>,
}

/// What a template asks for, for each of its sandboxes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Size {
    pub(crate) cpu_count: Option<u32>,
    /// MiB.
    pub(crate) memory_mb: Option<u64>,
}

impl Size {
    /// Returns limits that hold both the operator's and these. Where only a weaker mechanism can be had, a template's size holds by that
    /// one: sizes come with every template that clients build, asked for or not.
    pub(crate) fn within(self, limits: &Limits) -> Limits {
        let mut limits = limits.clone();
        if let Some(count) = self.cpu_count {
            let millis = count.saturating_mul(1000);
            let share = limits.cpus.map_or(millis, |share| share.millis.min(millis));
            if limits.cpus.is_none() {
                limits.allow_degraded.insert(LimitKind::Cpus);
            }
            limits.cpus = Some(CpuShare { millis: share });
        }
        if let Some(mb) = self.memory_mb {
            let bytes = mb.saturating_mul(1 << 20);
            let size = limits.memory.map_or(bytes, |size| size.0.min(bytes));
            if limits.memory.is_none() {
                limits.allow_degraded.insert(LimitKind::Memory);
            }
            limits.memory = Some(ByteSize(size));
        }
        limits
    }
}

/// A snapshot: a stack that sandboxes can start from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SnapshotRecord {
    pub(crate) id: String,
    pub(crate) owner: String,
    pub(crate) name: Option<String>,
    pub(crate) sandbox: String,
    pub(crate) created_ms: u64,
    pub(crate) template_name: Option<String>,
    pub(crate) stack: Stack,
    #[serde(default)]
    pub(crate) size: Size,
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) env: BTreeMap<String, String>,
}

/// A template.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct TemplateRecord {
    pub(crate) id: String,
    /// `None`: everybody's.
    pub(crate) owner: Option<String>,
    pub(crate) name: String,
    pub(crate) created_ms: u64,
    pub(crate) updated_ms: u64,
    pub(crate) cpu_count: Option<u32>,
    pub(crate) memory_mb: Option<u64>,
    pub(crate) builds: BTreeMap<String, BuildRecord>,
    /// Tags and the builds they name.
    pub(crate) tags: BTreeMap<String, (String, u64)>,
    #[serde(default)]
    pub(crate) spawn_count: u64,
}

/// One build of a template.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct BuildRecord {
    pub(crate) created_ms: u64,
    pub(crate) state: BuildState,
    /// Tags it gets when it is ready.
    pub(crate) tags: Vec<String>,
    /// The result.
    pub(crate) stack: Option<Stack>,
    pub(crate) reason: Option<(String, Option<String>)>,
    pub(crate) logs: Vec<BuildLog>,
}
