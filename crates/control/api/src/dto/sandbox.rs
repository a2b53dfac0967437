//! Sandboxes, snapshots, metrics and logs on the wire.

use std::collections::BTreeMap;

use ringwall_sandbox::service::{
    CreateSandbox, LogEntry, Metrics, Network, OnTimeout, PauseMode, SandboxInfo, SandboxState, SnapshotInfo,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::time;
use crate::app::ApiConfig;
use crate::error::{ApiError, ErrorBody};

/// Body of `POST /sandboxes` and `POST /v2/sandboxes`.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NewSandbox {
    #[serde(rename = "templateID")]
    pub(crate) template_id: Option<String>,
    /// Seconds.
    pub(crate) timeout: Option<u64>,
    pub(crate) auto_pause: Option<bool>,
    pub(crate) auto_pause_memory: Option<bool>,
    pub(crate) auto_resume: Option<AutoResume>,
    pub(crate) metadata: Option<BTreeMap<String, String>>,
    pub(crate) env_vars: Option<BTreeMap<String, String>>,
    #[serde(rename = "allow_internet_access", alias = "allowInternetAccess")]
    pub(crate) allow_internet_access: Option<bool>,
    pub(crate) network: Option<NetworkBody>,
    pub(crate) mcp: Option<Value>,
    pub(crate) iam: Option<Value>,
    pub(crate) volume_mounts: Option<Vec<Value>>,
}

#[derive(Debug, Clone, Deserialize, ToSchema)]
pub(crate) struct AutoResume {
    #[serde(default)]
    pub(crate) enabled: bool,
}

/// Network rules; also the body of `PUT /sandboxes/{id}/network`.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct NetworkBody {
    pub(crate) allow_out: Option<Vec<String>>,
    pub(crate) deny_out: Option<Vec<String>>,
    pub(crate) allow_public_traffic: Option<bool>,
    pub(crate) mask_request_host: Option<String>,
    #[serde(rename = "allow_internet_access", alias = "allowInternetAccess")]
    pub(crate) allow_internet_access: Option<bool>,
    pub(crate) dns_servers: Option<Vec<String>>,
    pub(crate) https_ports: Option<Vec<u16>>,
    pub(crate) egress_proxy: Option<Value>,
    pub(crate) rules: Option<Value>,
}

/// Whether a JSON value asks for anything.
fn says_something(value: &Option<Value>) -> bool {
    !matches!(value, None | Some(Value::Null))
        && value.as_ref() != Some(&Value::Object(serde_json::Map::new()))
        && value.as_ref() != Some(&Value::Array(Vec::new()))
}

impl From<NetworkBody> for Network {
    fn from(body: NetworkBody) -> Self {
        let mut unsupported = Vec::new();
        if body.dns_servers.is_some_and(|list| !list.is_empty()) {
            unsupported.push("dnsServers".to_owned());
        }
        if body.https_ports.is_some_and(|list| !list.is_empty()) {
            unsupported.push("httpsPorts".to_owned());
        }
        if says_something(&body.egress_proxy) {
            unsupported.push("egressProxy".to_owned());
        }
        if says_something(&body.rules) {
            unsupported.push("rules".to_owned());
        }
        Network {
            allow_out: body.allow_out.unwrap_or_default(),
            deny_out: body.deny_out.unwrap_or_default(),
            internet: body.allow_internet_access,
            public_traffic: body.allow_public_traffic,
            mask_request_host: body.mask_request_host,
            unsupported,
        }
    }
}

impl NewSandbox {
    pub(crate) fn into_request(
        self,
        default_timeout_s: u64,
        idempotency_key: Option<String>,
    ) -> Result<CreateSandbox, ApiError> {
        for (name, is_asked) in [
            ("mcp", says_something(&self.mcp)),
            ("iam", says_something(&self.iam)),
            (
                "volumeMounts",
                self.volume_mounts.as_ref().is_some_and(|list| !list.is_empty()),
            ),
        ] {
            if is_asked {
                return Err(ApiError::bad_request(format!(
                    "{name} is not supported by this server; leave it out"
                )));
            }
        }
        let template = self
            .template_id
            .filter(|id| !id.is_empty())
            .ok_or_else(|| ApiError::bad_request("templateID is missing"))?;
        let auto_pause = self.auto_pause.unwrap_or(false);
        let auto_pause_memory = self.auto_pause_memory.unwrap_or(true);
        let auto_resume = self.auto_resume.is_some_and(|wish| wish.enabled);
        if auto_resume && !auto_pause {
            return Err(ApiError::bad_request(
                "autoResume needs autoPause: there is nothing to resume otherwise",
            ));
        }
        let mut network = Network::from(self.network.unwrap_or_default());
        network.internet = network.internet.or(self.allow_internet_access);
        Ok(CreateSandbox {
            template,
            timeout_s: self.timeout.unwrap_or(default_timeout_s),
            auto_pause,
            auto_pause_memory,
            auto_resume,
            metadata: self.metadata.unwrap_or_default(),
            env: self.env_vars.unwrap_or_default(),
            network,
            idempotency_key,
        })
    }
}

/// A sandbox as `create` and `connect` answer.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Sandbox {
    #[serde(rename = "templateID")]
    pub(crate) template_id: String,
    #[serde(rename = "sandboxID")]
    pub(crate) sandbox_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) alias: Option<String>,
    #[serde(rename = "clientID")]
    pub(crate) client_id: String,
    pub(crate) envd_version: String,
    pub(crate) envd_access_token: String,
    pub(crate) traffic_access_token: Option<String>,
    pub(crate) domain: String,
}

impl Sandbox {
    pub(crate) fn new(info: SandboxInfo, config: &ApiConfig) -> Self {
        Sandbox {
            template_id: info.template_id,
            sandbox_id: info.id,
            alias: info.template_name,
            client_id: "ringwall".to_owned(),
            envd_version: config.envd_version.clone(),
            envd_access_token: info.token,
            traffic_access_token: info.traffic_token,
            domain: config.domain.clone(),
        }
    }
}

/// What becomes of a sandbox when its time is up.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Lifecycle {
    pub(crate) auto_resume: bool,
    /// `kill` or `pause`.
    pub(crate) on_timeout: String,
}

/// A sandbox as `get` and `list` answer; the token only in `get`.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SandboxDetail {
    #[serde(rename = "templateID")]
    pub(crate) template_id: String,
    #[serde(rename = "sandboxID")]
    pub(crate) sandbox_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) alias: Option<String>,
    #[serde(rename = "clientID")]
    pub(crate) client_id: String,
    pub(crate) started_at: String,
    pub(crate) end_at: String,
    pub(crate) envd_version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) envd_access_token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) domain: Option<String>,
    pub(crate) cpu_count: u32,
    #[serde(rename = "memoryMB")]
    pub(crate) memory_mb: u64,
    #[serde(rename = "diskSizeMB")]
    pub(crate) disk_size_mb: u64,
    /// `running` or `paused`.
    pub(crate) state: String,
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) lifecycle: Lifecycle,
    /// `full` or `filesystem`, when it is paused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pause_mode: Option<String>,
    pub(crate) network: Value,
    /// What is so, not what was asked for.
    pub(crate) allow_internet_access: bool,
    /// The isolation that was achieved.
    pub(crate) isolation: String,
}

impl SandboxDetail {
    pub(crate) fn new(info: SandboxInfo, config: &ApiConfig, shows_token: bool) -> Self {
        let mut network = serde_json::Map::new();
        network.insert("allowOut".to_owned(), info.network.allow_out.clone().into());
        network.insert("denyOut".to_owned(), info.network.deny_out.clone().into());
        if let Some(public) = info.network.public_traffic {
            network.insert("allowPublicTraffic".to_owned(), public.into());
        }
        if let Some(host) = &info.network.mask_request_host {
            network.insert("maskRequestHost".to_owned(), host.clone().into());
        }
        SandboxDetail {
            template_id: info.template_id,
            sandbox_id: info.id,
            alias: info.template_name,
            client_id: "ringwall".to_owned(),
            started_at: time(info.started_ms),
            end_at: time(info.end_ms),
            envd_version: config.envd_version.clone(),
            envd_access_token: shows_token.then_some(info.token),
            domain: shows_token.then(|| config.domain.clone()),
            cpu_count: info.cpu_count,
            memory_mb: info.memory_mb,
            disk_size_mb: info.disk_mb,
            state: match info.state {
                SandboxState::Running => "running",
                SandboxState::Paused => "paused",
            }
            .to_owned(),
            metadata: info.metadata,
            lifecycle: Lifecycle {
                auto_resume: info.auto_resume,
                on_timeout: match info.on_timeout {
                    OnTimeout::Kill => "kill",
                    OnTimeout::Pause => "pause",
                }
                .to_owned(),
            },
            pause_mode: info.pause_mode.map(|mode| {
                match mode {
                    PauseMode::Full => "full",
                    PauseMode::Filesystem => "filesystem",
                }
                .to_owned()
            }),
            network: Value::Object(network),
            allow_internet_access: false,
            isolation: info.tier.to_string(),
        }
    }
}

/// Body of `connect` and of the older `resume`.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ConnectBody {
    /// Seconds.
    pub(crate) timeout: Option<u64>,
    pub(crate) auto_pause: Option<bool>,
    /// `false`: processes start anew.
    pub(crate) memory: Option<bool>,
}

/// Body of `timeout`.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub(crate) struct TimeoutBody {
    /// Seconds from now.
    pub(crate) timeout: u64,
}

/// Body of `refreshes`.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(default)]
pub(crate) struct RefreshBody {
    /// Seconds from now.
    pub(crate) duration: Option<u64>,
}

/// Body of `pause`.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PauseBody {
    /// Whether processes are kept; they are if nothing is said.
    pub(crate) memory: Option<bool>,
    /// Always so here: a pause answers only once nothing runs.
    pub(crate) require_healthy_guest: Option<bool>,
}

/// Body of `POST /sandboxes/{id}/snapshots`.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(default)]
pub(crate) struct SnapshotBody {
    pub(crate) name: Option<String>,
    /// Accepted as false or nothing: these tiers keep files only.
    pub(crate) memory: Option<bool>,
}

/// A snapshot.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Snapshot {
    #[serde(rename = "snapshotID")]
    pub(crate) snapshot_id: String,
    pub(crate) names: Vec<String>,
    #[serde(rename = "sandboxID")]
    pub(crate) sandbox_id: String,
    pub(crate) created_at: String,
    /// What it kept.
    pub(crate) pause_mode: String,
}

impl From<SnapshotInfo> for Snapshot {
    fn from(info: SnapshotInfo) -> Self {
        Snapshot {
            snapshot_id: info.id,
            names: info.names,
            sandbox_id: info.sandbox,
            created_at: time(info.created_ms),
            pause_mode: "filesystem".to_owned(),
        }
    }
}

/// Body of `fork`.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(default)]
pub(crate) struct ForkBody {
    /// Seconds.
    pub(crate) timeout: Option<u64>,
    pub(crate) count: Option<usize>,
}

/// One copy, or why there is none.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct ForkResult {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sandbox: Option<Sandbox>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<ErrorBody>,
}

/// One file that differs.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct FileChangeBody {
    /// `A` added, `D` removed, `M` other content, `m` other mode or owner only.
    pub(crate) kind: String,
    pub(crate) path: String,
}

/// One measurement.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Metric {
    pub(crate) timestamp: String,
    pub(crate) timestamp_unix: i64,
    pub(crate) cpu_count: u32,
    pub(crate) cpu_used_pct: f64,
    pub(crate) mem_used: u64,
    pub(crate) mem_total: u64,
    pub(crate) mem_cache: u64,
    pub(crate) disk_used: u64,
    pub(crate) disk_total: u64,
}

impl From<Metrics> for Metric {
    fn from(metrics: Metrics) -> Self {
        Metric {
            timestamp: time(u64::try_from(metrics.at_s).unwrap_or(0).saturating_mul(1000)),
            timestamp_unix: metrics.at_s,
            cpu_count: metrics.cpu_count,
            cpu_used_pct: metrics.cpu_used_pct,
            mem_used: metrics.mem_used,
            mem_total: metrics.mem_total,
            mem_cache: metrics.mem_cache,
            disk_used: metrics.disk_used,
            disk_total: metrics.disk_total,
        }
    }
}

/// Newest measurements of several sandboxes.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct ManyMetrics {
    pub(crate) sandboxes: BTreeMap<String, Metric>,
}

/// A log line, new form.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct LogLine {
    pub(crate) timestamp: String,
    pub(crate) message: String,
    pub(crate) level: String,
    pub(crate) fields: BTreeMap<String, String>,
}

impl From<LogEntry> for LogLine {
    fn from(entry: LogEntry) -> Self {
        LogLine {
            timestamp: time(entry.at_ms),
            message: entry.message,
            level: entry.level,
            fields: entry.fields,
        }
    }
}

/// A log line, old form.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct OldLogLine {
    pub(crate) timestamp: String,
    pub(crate) line: String,
}

/// Logs, old form.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct OldLogs {
    pub(crate) logs: Vec<OldLogLine>,
    pub(crate) log_entries: Vec<LogLine>,
}

/// Logs, new form.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Logs {
    pub(crate) logs: Vec<LogLine>,
}
