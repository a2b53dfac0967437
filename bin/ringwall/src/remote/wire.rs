//! What the service answers, as far as it is looked at. What is only printed stays JSON.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Answer of `create`, `connect`, and one of `fork`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Made {
    #[serde(rename = "sandboxID")]
    pub(crate) sandbox_id: String,
    #[serde(default)]
    pub(crate) traffic_access_token: Option<String>,
}

/// What happens at the end of a sandbox's time.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Lifecycle {
    pub(crate) auto_resume: bool,
}

/// A sandbox.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Detail {
    #[serde(rename = "sandboxID")]
    pub(crate) sandbox_id: String,
    #[serde(rename = "templateID")]
    pub(crate) template_id: String,
    #[serde(default)]
    pub(crate) alias: Option<String>,
    pub(crate) state: String,
    #[serde(default)]
    pub(crate) started_at: String,
    #[serde(default)]
    pub(crate) end_at: String,
    #[serde(default)]
    pub(crate) envd_access_token: Option<String>,
    #[serde(default)]
    pub(crate) domain: Option<String>,
    #[serde(default)]
    pub(crate) lifecycle: Lifecycle,
    #[serde(default)]
    pub(crate) isolation: Option<String>,
}

/// One of the answers of `fork`.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Forked {
    #[serde(default)]
    pub(crate) sandbox: Option<Made>,
    #[serde(default)]
    pub(crate) error: Option<Message>,
}

/// An error within an answer.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Message {
    pub(crate) message: String,
}

/// A snapshot.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Snapshot {
    #[serde(rename = "snapshotID")]
    pub(crate) snapshot_id: String,
    #[serde(default)]
    pub(crate) names: Vec<String>,
    #[serde(rename = "sandboxID", default)]
    pub(crate) sandbox_id: String,
    #[serde(default)]
    pub(crate) created_at: String,
}

/// A line of a log, of a sandbox or of a build.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct LogLine {
    #[serde(default)]
    pub(crate) timestamp: String,
    #[serde(default)]
    pub(crate) level: String,
    pub(crate) message: String,
    #[serde(default)]
    pub(crate) fields: BTreeMap<String, String>,
}

/// A template.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Template {
    #[serde(rename = "templateID")]
    pub(crate) template_id: String,
    #[serde(default)]
    pub(crate) names: Vec<String>,
    #[serde(default)]
    pub(crate) public: bool,
    #[serde(default)]
    pub(crate) spawn_count: u64,
    #[serde(default)]
    pub(crate) updated_at: String,
    #[serde(default)]
    pub(crate) build_status: String,
}

/// Answer of `POST /v3/templates`.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Announced {
    #[serde(rename = "templateID")]
    pub(crate) template_id: String,
    #[serde(rename = "buildID")]
    pub(crate) build_id: String,
}

/// Answer of `GET /templates/{id}/files/{hash}`.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct UploadPlace {
    pub(crate) present: bool,
    #[serde(default)]
    pub(crate) url: Option<String>,
}

/// A step of a build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Step {
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
    pub(crate) args: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) files_hash: Option<String>,
    pub(crate) force: bool,
}

/// Why a build failed.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Reason {
    pub(crate) message: String,
}

/// How a build goes.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BuildStatus {
    pub(crate) status: String,
    #[serde(default)]
    pub(crate) log_entries: Vec<LogLine>,
    #[serde(default)]
    pub(crate) reason: Option<Reason>,
}
