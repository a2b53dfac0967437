//! The plain HTTP messages: `/init`, `/metrics`, `/files` and the error body.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::json::nullable;

/// Body of `POST /init`; only the server sends it. A field left out leaves that setting as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Init {
    /// Environment of every process started from now on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env_vars: Option<BTreeMap<String, String>>,
    /// The token that clients must send; empty for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_token: Option<String>,
    /// When the server wrote this, RFC 3339. Not used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<String>,
    /// Who runs a process when the client does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_user: Option<String>,
    /// Where a process starts when the client does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_workdir: Option<String>,
}

/// Answer of `GET /metrics`. Sizes in bytes.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Metrics {
    /// Now, in seconds since 1970.
    pub ts: i64,
    /// CPUs that may be used.
    pub cpu_count: u32,
    /// Use of them all since the last call, in percent of one whole sandbox (0 to 100).
    pub cpu_used_pct: f32,
    /// Memory limit.
    pub mem_total: u64,
    /// Memory in use, without page cache that can be dropped.
    pub mem_used: u64,
    /// Page cache.
    #[serde(default)]
    pub mem_cache: u64,
    /// Used of the root file system.
    pub disk_used: u64,
    /// Size of the root file system.
    pub disk_total: u64,
}

/// One file that `POST /files` has written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrittenFile {
    /// Last component of the path.
    pub name: String,
    /// Always `file`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Absolute path.
    pub path: String,
    /// What was stored with it.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

/// Body of every error outside the RPCs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The HTTP status.
    pub code: u16,
    /// What happened.
    pub message: String,
}
