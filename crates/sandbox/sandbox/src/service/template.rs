//! Templates: what sandboxes start from, and how they are built.

use serde::{Deserialize, Serialize};

/// A template announced.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NewTemplate {
    /// Its name, perhaps with a tag.
    pub name: String,
    /// Tags for the build to come.
    pub tags: Vec<String>,
    /// CPUs for its sandboxes.
    pub cpu_count: Option<u32>,
    /// Memory for its sandboxes, MiB.
    pub memory_mb: Option<u64>,
}

/// Id of one build: a UUID as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildId(pub String);

/// A template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateInfo {
    /// Its id, stable across builds.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Tags and the builds they name.
    pub tags: Vec<TemplateTag>,
    /// Id of the newest build.
    pub build: Option<String>,
    /// CPUs for its sandboxes.
    pub cpu_count: u32,
    /// Memory for its sandboxes, MiB.
    pub memory_mb: u64,
    /// Milliseconds since 1970.
    pub created_ms: u64,
    /// Milliseconds since 1970.
    pub updated_ms: u64,
    /// How many sandboxes were started from it.
    pub spawn_count: u64,
    /// How the newest build went.
    pub state: BuildState,
    /// Whether it belongs to everybody.
    pub is_public: bool,
}

/// A tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateTag {
    /// The tag.
    pub tag: String,
    /// The build it names.
    pub build: String,
    /// Milliseconds since 1970.
    pub created_ms: u64,
}

/// Where a build begins.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TemplateBase {
    /// An OCI image.
    Image(String),
    /// Another template.
    Template(String),
}

/// Who pulls an image.
#[derive(Clone, PartialEq, Eq)]
pub struct ImageCredentials {
    /// User name.
    pub user: String,
    /// Password.
    pub password: String,
}

impl std::fmt::Debug for ImageCredentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ImageCredentials({}, …)", self.user)
    }
}

/// One step of a build.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Step {
    /// `RUN`, `COPY`, `ENV`, `WORKDIR` or `USER`.
    pub kind: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Hash of the archive that COPY takes its files from.
    pub files: Option<String>,
    /// Whether a cached result is not to be used.
    pub force: bool,
}

/// What to build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildRequest {
    /// Where to begin.
    pub base: TemplateBase,
    /// Who pulls the image.
    pub credentials: Option<ImageCredentials>,
    /// What to do.
    pub steps: Vec<Step>,
    /// Command started with each sandbox.
    pub start_command: Option<String>,
    /// Command that succeeds once the start command is ready.
    pub ready_command: Option<String>,
    /// Whether nothing cached is to be used.
    pub force: bool,
}

/// How far a build is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BuildState {
    /// Announced.
    Waiting,
    /// Going on.
    Building,
    /// Done.
    Ready,
    /// Failed.
    Error,
}

/// One line of a build's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildLog {
    /// Milliseconds since 1970.
    pub at_ms: u64,
    /// `info`, `warn` or `error`.
    pub level: String,
    /// What happened.
    pub message: String,
    /// The step it is about, from 1.
    pub step: Option<String>,
}

/// How a build goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildStatus {
    /// How far it is.
    pub state: BuildState,
    /// Log lines from the offset on.
    pub logs: Vec<BuildLog>,
    /// Why it failed, and in which step.
    pub reason: Option<(String, Option<String>)>,
}
