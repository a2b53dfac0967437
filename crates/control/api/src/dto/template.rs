//! Templates and builds on the wire.

use ringwall_sandbox::service::{
    BuildLog, BuildRequest, BuildState, BuildStatus, ImageCredentials, NewTemplate, Step, TemplateBase, TemplateInfo,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::time;
use crate::error::ApiError;

/// Body of `POST /v3/templates`.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct NewTemplateBody {
    pub(crate) name: Option<String>,
    /// As older clients say it.
    pub(crate) alias: Option<String>,
    pub(crate) tags: Option<Vec<String>>,
    pub(crate) cpu_count: Option<u32>,
    #[serde(rename = "memoryMB")]
    pub(crate) memory_mb: Option<u64>,
}

impl NewTemplateBody {
    pub(crate) fn into_request(self) -> Result<NewTemplate, ApiError> {
        let name = self.name.or(self.alias).filter(|name| !name.is_empty());
        Ok(NewTemplate {
            name: name.ok_or_else(|| ApiError::bad_request("name is missing"))?,
            tags: self.tags.unwrap_or_default(),
            cpu_count: self.cpu_count,
            memory_mb: self.memory_mb,
        })
    }
}

/// A template announced.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AnnouncedTemplate {
    #[serde(rename = "templateID")]
    pub(crate) template_id: String,
    #[serde(rename = "buildID")]
    pub(crate) build_id: String,
    pub(crate) public: bool,
    pub(crate) names: Vec<String>,
    pub(crate) tags: Vec<String>,
    pub(crate) aliases: Vec<String>,
}

/// Whether files for COPY are there, and where to put them.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct UploadPlace {
    pub(crate) present: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) url: Option<String>,
}

/// Body of `POST /v2/templates/{id}/builds/{buildID}`.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct BuildBody {
    pub(crate) from_image: Option<String>,
    pub(crate) from_template: Option<String>,
    pub(crate) from_image_registry: Option<RegistryBody>,
    pub(crate) steps: Option<Vec<StepBody>>,
    pub(crate) start_cmd: Option<String>,
    pub(crate) ready_cmd: Option<String>,
    pub(crate) force: Option<bool>,
}

/// Who pulls an image.
#[derive(Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub(crate) struct RegistryBody {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) username: Option<String>,
    pub(crate) password: Option<String>,
}

impl std::fmt::Debug for RegistryBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RegistryBody({}, {:?}, …)", self.kind, self.username)
    }
}

/// One step.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct StepBody {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) args: Option<Vec<String>>,
    pub(crate) files_hash: Option<String>,
    pub(crate) force: Option<bool>,
}

impl BuildBody {
    pub(crate) fn into_request(self) -> Result<BuildRequest, ApiError> {
        let some = |text: Option<String>| text.filter(|text| !text.is_empty());
        let base = match (some(self.from_image), some(self.from_template)) {
            (Some(image), None) => TemplateBase::Image(image),
            (None, Some(template)) => TemplateBase::Template(template),
            (None, None) => return Err(ApiError::bad_request("fromImage or fromTemplate is missing")),
            (Some(_), Some(_)) => return Err(ApiError::bad_request("fromImage and fromTemplate exclude each other")),
        };
        let credentials = match self.from_image_registry {
            None => None,
            Some(registry) if registry.kind == "registry" => Some(ImageCredentials {
                user: registry.username.unwrap_or_default(),
                password: registry.password.unwrap_or_default(),
            }),
            Some(registry) => {
                return Err(ApiError::bad_request(format!(
                    "fromImageRegistry: type {:?} is not supported; use \"registry\" with username and password",
                    registry.kind
                )));
            }
        };
        let steps = self.steps.unwrap_or_default().into_iter().map(|step| Step {
            kind: step.kind,
            args: step.args.unwrap_or_default(),
            files: step.files_hash,
            force: step.force.unwrap_or(false),
        });
        Ok(BuildRequest {
            base,
            credentials,
            steps: steps.collect(),
            start_command: some(self.start_cmd),
            ready_command: some(self.ready_cmd),
            force: self.force.unwrap_or(false),
        })
    }
}

/// A line of a build's log.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct BuildLogBody {
    pub(crate) timestamp: String,
    pub(crate) message: String,
    pub(crate) level: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) step: Option<String>,
}

impl From<BuildLog> for BuildLogBody {
    fn from(log: BuildLog) -> Self {
        BuildLogBody {
            timestamp: time(log.at_ms),
            message: log.message,
            level: log.level,
            step: log.step,
        }
    }
}

/// Why a build failed.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BuildReason {
    pub(crate) message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) step: Option<String>,
    pub(crate) log_entries: Vec<BuildLogBody>,
}

/// How a build goes.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BuildStatusBody {
    #[serde(rename = "templateID")]
    pub(crate) template_id: String,
    #[serde(rename = "buildID")]
    pub(crate) build_id: String,
    /// `waiting`, `building`, `ready` or `error`.
    pub(crate) status: String,
    pub(crate) logs: Vec<String>,
    pub(crate) log_entries: Vec<BuildLogBody>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<BuildReason>,
}

pub(crate) fn state_text(state: BuildState) -> &'static str {
    match state {
        BuildState::Waiting => "waiting",
        BuildState::Building => "building",
        BuildState::Ready => "ready",
        BuildState::Error => "error",
    }
}

impl BuildStatusBody {
    pub(crate) fn new(template_id: String, build_id: String, status: BuildStatus) -> Self {
        let entries: Vec<BuildLogBody> = status.logs.into_iter().map(BuildLogBody::from).collect();
        BuildStatusBody {
            template_id,
            build_id,
            status: state_text(status.state).to_owned(),
            logs: entries.iter().map(|entry| entry.message.clone()).collect(),
            log_entries: entries,
            reason: status.reason.map(|(message, step)| BuildReason {
                message,
                step,
                log_entries: Vec::new(),
            }),
        }
    }
}

/// A template.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TemplateBody {
    #[serde(rename = "templateID")]
    pub(crate) template_id: String,
    #[serde(rename = "buildID")]
    pub(crate) build_id: String,
    pub(crate) cpu_count: u32,
    #[serde(rename = "memoryMB")]
    pub(crate) memory_mb: u64,
    #[serde(rename = "diskSizeMB")]
    pub(crate) disk_size_mb: u64,
    pub(crate) public: bool,
    pub(crate) aliases: Vec<String>,
    pub(crate) names: Vec<String>,
    pub(crate) tags: Vec<String>,
    pub(crate) created_at: String,
    pub(crate) updated_at: String,
    pub(crate) last_spawned_at: Option<String>,
    pub(crate) spawn_count: u64,
    pub(crate) build_count: u64,
    pub(crate) envd_version: String,
    pub(crate) build_status: String,
}

impl TemplateBody {
    pub(crate) fn new(info: TemplateInfo, envd_version: &str) -> Self {
        TemplateBody {
            template_id: info.id,
            build_id: info.build.unwrap_or_default(),
            cpu_count: info.cpu_count,
            memory_mb: info.memory_mb,
            disk_size_mb: 0,
            public: info.is_public,
            aliases: vec![info.name.clone()],
            names: vec![info.name],
            tags: info.tags.into_iter().map(|tag| tag.tag).collect(),
            created_at: time(info.created_ms),
            updated_at: time(info.updated_ms),
            last_spawned_at: None,
            spawn_count: info.spawn_count,
            build_count: 1,
            envd_version: envd_version.to_owned(),
            build_status: state_text(info.state).to_owned(),
        }
    }
}

/// What a name stands for.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct AliasBody {
    #[serde(rename = "templateID")]
    pub(crate) template_id: String,
    pub(crate) public: bool,
}

/// Body of `POST /templates/tags`.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub(crate) struct TagBody {
    pub(crate) target: String,
    pub(crate) tags: Vec<String>,
}

/// Body of `DELETE /templates/tags`.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub(crate) struct UntagBody {
    pub(crate) name: String,
    pub(crate) tags: Vec<String>,
}

/// Tags given.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct TaggedBody {
    pub(crate) tags: Vec<String>,
    #[serde(rename = "buildID")]
    pub(crate) build_id: String,
}

/// One tag.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TagInfoBody {
    pub(crate) tag: String,
    #[serde(rename = "buildID")]
    pub(crate) build_id: String,
    pub(crate) created_at: String,
}
