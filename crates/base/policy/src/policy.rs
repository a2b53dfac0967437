//! The policy's shape. Every field has the safe value as its default.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use ringwall_types::{ByteSize, CpuShare, Isolation, LimitKind, SandboxName, Tier, WallTime};
use serde::{Deserialize, Serialize};

use crate::mount::Mount;

/// What one sandbox may see, change and use. The TOML policy file has the same shape and names.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// The tier asked for.
    pub isolation: Isolation,
    /// The weakest tier that is acceptable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_isolation: Option<Tier>,
    /// What happens to captured writes; `None`: [`Changes::Keep`] where the tier can capture, [`Changes::None`] where it can't.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changes: Option<Changes>,
    /// The name that captured writes are kept under; `None`: made up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<SandboxName>,
    /// Whether the program gets a terminal of its own.
    pub tty: bool,
    /// Files and directories.
    pub files: FilePolicy,
    /// The network.
    pub network: NetworkPolicy,
    /// The environment.
    pub env: EnvPolicy,
    /// Resource limits.
    pub limits: Limits,
}

/// What happens to writes below the current directory (or the root file system given).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Changes {
    /// Captured, kept under a name, applied only by `ringwall commit`.
    Keep,
    /// Captured, applied when the command exits 0, else kept.
    Commit,
    /// Captured and thrown away at the end.
    Discard,
    /// Not captured: the directory is read-only.
    None,
}

/// Files and directories. Paths are absolute once a policy is loaded or merged ([`crate::resolve_path`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FilePolicy {
    /// Visible read-only, at the same path.
    pub read: Vec<PathBuf>,
    /// Visible and writable, at the same path: writes go straight to the host.
    pub write: Vec<PathBuf>,
    /// Hidden, even where something above is visible.
    pub deny: Vec<PathBuf>,
    /// Host paths shown at another path.
    pub mounts: Vec<Mount>,
    /// An unpacked root file system used instead of the host's system tree.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rootfs: Option<PathBuf>,
    /// Where the command starts; `None`: the current directory (with a rootfs: `/`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workdir: Option<PathBuf>,
    /// Whether tool roots below the home directory that are on PATH are visible read-only.
    pub home_tools: bool,
}

/// The network.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NetworkPolicy {
    /// How much network the sandbox has.
    pub mode: NetworkMode,
}

/// How much network a sandbox has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkMode {
    /// A loopback device of its own and nothing else.
    #[default]
    None,
    /// The host's network.
    Host,
}

/// The environment: PATH, HOME, LANG and TERM, and what is named here.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EnvPolicy {
    /// Variables set to a value.
    pub set: BTreeMap<String, String>,
    /// Variables passed through from the caller.
    pub pass: BTreeSet<String>,
}

/// Resource limits; `None`: no limit beyond the tier's own.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Bytes of memory of all processes together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<ByteSize>,
    /// CPU time per wall time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<CpuShare>,
    /// Processes and threads alive at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids: Option<u32>,
    /// Open files of one process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<u32>,
    /// Bytes the sandbox may add.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<ByteSize>,
    /// Wall time of the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<WallTime>,
    /// Limits that may hold by a weaker mechanism than asked for.
    pub allow_degraded: BTreeSet<LimitKind>,
}

impl Default for FilePolicy {
    fn default() -> Self {
        FilePolicy {
            read: Vec::new(),
            write: Vec::new(),
            deny: Vec::new(),
            mounts: Vec::new(),
            rootfs: None,
            workdir: None,
            home_tools: true,
        }
    }
}
