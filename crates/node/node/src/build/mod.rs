//! Building templates: a base, then steps, each of which is a layer that is kept for the next build of the same steps.

mod copy;
mod step;

use std::path::Path;
use std::sync::{Arc, PoisonError};

use ringwall_sandbox::service::{BuildLog, BuildRequest, BuildState, Owner, ServiceError, TemplateBase};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::clock::now_ms;
use crate::ids;
use crate::node::Inner;
use crate::record::Stack;
use crate::store::Table;
use crate::{images, templates};

/// Most lines of a build's log, and most bytes of one.
const MAX_LOG_LINES: usize = 10_000;
const MAX_LINE_BYTES: usize = 4096;
/// Most steps of one build.
const MAX_STEPS: usize = 200;

/// What a step made, kept under the hash of everything that it depends on.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct StepRecord {
    pub(crate) key: String,
    /// Template whose build made it; with it the record goes.
    pub(crate) template: String,
    pub(crate) stack: Stack,
}

/// Why a build failed, and in which step (from 1; `base` before the first).
#[derive(Debug)]
pub(crate) struct BuildFailure {
    pub(crate) message: String,
    pub(crate) step: Option<String>,
}

/// One build going on.
pub(crate) struct Build {
    pub(crate) inner: Arc<Inner>,
    pub(crate) owner: Owner,
    pub(crate) template: String,
    pub(crate) id: String,
}

/// Takes a build up.
pub(crate) fn begin(
    inner: &Arc<Inner>,
    owner: &Owner,
    template: &str,
    build: &str,
    request: BuildRequest,
) -> Result<(), ServiceError> {
    if request.steps.len() > MAX_STEPS {
        return Err(ServiceError::Invalid(format!("steps: a build may have {MAX_STEPS}")));
    }
    let template_id = templates::change(inner, owner, template, |record| {
        let found = record.builds.get_mut(build).ok_or_else(|| ServiceError::NotFound {
            what: "build",
            id: build.to_owned(),
        })?;
        if found.state != BuildState::Waiting {
            return Err(ServiceError::Conflict(format!("build {build} was started already")));
        }
        found.state = BuildState::Building;
        Ok(record.id.clone())
    })?;
    let build = Build {
        inner: Arc::clone(inner),
        owner: owner.clone(),
        template: template_id,
        id: build.to_owned(),
    };
    tokio::spawn(async move { build.run(request).await });
    Ok(())
}

impl Build {
    async fn run(self, request: BuildRequest) {
        self.log("info", "build started", None);
        let result = self.execute(&request).await;
        match &result {
            Ok(_) => self.log("info", "build finished", None),
            Err(failure) => self.log("error", &failure.message, failure.step.as_deref()),
        }
        let layers = result.as_ref().map(|stack| stack.layers.clone()).unwrap_or_default();
        let settled = templates::change(&self.inner, &self.owner, &self.template, |record| {
            let Some(build) = record.builds.get_mut(&self.id) else {
                return Ok(());
            };
            match result {
                Ok(stack) => {
                    build.state = BuildState::Ready;
                    build.stack = Some(stack);
                    let tags = build.tags.clone();
                    templates::settle_tags(record, &self.id, tags);
                }
                Err(failure) => {
                    build.state = BuildState::Error;
                    build.reason = Some((failure.message, failure.step));
                }
            }
            Ok(())
        });
        if let Err(error) = settled.and_then(|()| {
            self.inner
                .store
                .sync()
                .map_err(ServiceError::internal("can't write the template down"))
        }) {
            tracing::error!(build = self.id, %error, "can't note the end of a build");
            self.inner.release_layers(&layers);
        }
    }

    async fn execute(&self, request: &BuildRequest) -> Result<Stack, BuildFailure> {
        let (mut stack, mut key) = self.base(request).await.map_err(|message| BuildFailure {
            message,
            step: Some("base".to_owned()),
        })?;
        let mut is_forced = request.force;
        for (index, wanted) in request.steps.iter().enumerate() {
            let number = (index + 1).to_string();
            let failed = |message: String| BuildFailure {
                message,
                step: Some(number.clone()),
            };
            // Whatever follows a step done anew stands on something new.
            is_forced |= wanted.force;
            let parsed = step::parse(wanted).map_err(failed)?;
            key = hash(&[
                key.as_bytes(),
                &serde_json::to_vec(&(&wanted.kind, &wanted.args, &wanted.files)).unwrap_or_default(),
            ]);
            let text = format!(
                "[{number}/{}] {} {}",
                request.steps.len(),
                wanted.kind,
                wanted.args.join(" ")
            );
            if !is_forced && let Some(cached) = self.cached(&key) {
                self.log("info", &format!("{text} (cached)"), Some(&number));
                stack = cached;
                continue;
            }
            self.log("info", &text, Some(&number));
            stack = step::apply(self, stack, &parsed, &number).await.map_err(failed)?;
            self.keep(&key, &stack).map_err(failed)?;
        }
        stack.start_command.clone_from(&request.start_command);
        stack.ready_command.clone_from(&request.ready_command);
        if stack.start_command.is_some() {
            self.log("info", "trying the start command", None);
            step::try_start(self, &stack).await.map_err(|message| BuildFailure {
                message,
                step: Some("finalize".to_owned()),
            })?;
        }
        Ok(stack)
    }

    /// Where the build begins, and a key for it.
    async fn base(&self, request: &BuildRequest) -> Result<(Stack, String), String> {
        let stack = match &request.base {
            TemplateBase::Template(name) => {
                templates::resolve(&self.inner, &self.owner, name)
                    .map_err(|error| error.to_string())?
                    .stack
            }
            TemplateBase::Image(name) if images::is_default(name) => {
                self.log(
                    "info",
                    &format!("{name} stands for this server's default template"),
                    None,
                );
                templates::default_stack(&self.inner).ok_or("there is no default template")?
            }
            TemplateBase::Image(name) => {
                images::pull(&self.inner, name, request.credentials.as_ref(), &|line| {
                    self.log("info", line, None)
                })
                .await?
            }
        };
        let key = hash(&[&serde_json::to_vec(&stack).unwrap_or_default()]);
        Ok((stack, key))
    }

    /// Returns what a step made earlier, if all of it is still there.
    fn cached(&self, key: &str) -> Option<Stack> {
        let held = self.inner.steps.read().unwrap_or_else(PoisonError::into_inner);
        let found = held.get(&self.step_id(key))?;
        let is_whole = found
            .stack
            .layers
            .iter()
            .all(|layer| self.inner.places.layer(layer).exists());
        is_whole.then(|| found.stack.clone())
    }

    /// One owner's steps are never another's.
    fn step_id(&self, key: &str) -> String {
        format!("{}-{key}", self.owner.0)
    }

    fn keep(&self, key: &str, stack: &Stack) -> Result<(), String> {
        let id = self.step_id(key);
        let record = StepRecord {
            key: id.clone(),
            template: self.template.clone(),
            stack: stack.clone(),
        };
        // Held until it is in: whoever removes the template then finds it.
        let templates = self.inner.templates.read().unwrap_or_else(PoisonError::into_inner);
        let kept = if templates.contains_key(&self.template) {
            self.inner
                .store
                .put(Table::Steps, &id, &record)
                .map_err(|error| format!("can't write the step down: {error}"))
        } else {
            Err("the template was removed".to_owned())
        };
        if kept.is_ok() {
            self.inner
                .steps
                .write()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(id, record);
        }
        drop(templates);
        if kept.is_err() {
            self.inner.release_layers(&stack.layers);
        }
        kept
    }

    /// Adds to the build's log.
    pub(crate) fn log(&self, level: &str, message: &str, step: Option<&str>) {
        let mut held = self.inner.templates.write().unwrap_or_else(PoisonError::into_inner);
        let Some(build) = held
            .get_mut(&self.template)
            .and_then(|record| record.builds.get_mut(&self.id))
        else {
            return;
        };
        if build.logs.len() >= MAX_LOG_LINES {
            return;
        }
        let mut end = message.len().min(MAX_LINE_BYTES);
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        build.logs.push(BuildLog {
            at_ms: now_ms(),
            level: level.to_owned(),
            message: message.get(..end).unwrap_or_default().to_owned(),
            step: step.map(str::to_owned),
        });
    }
}

fn hash(parts: &[&[u8]]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(u64::try_from(part.len()).unwrap_or(0).to_le_bytes());
        hasher.update(part);
    }
    ids::hex(&hasher.finalize())
}

impl Inner {
    /// Forgets the steps that builds of a template have made.
    pub(crate) fn forget_steps(&self, template: &str) {
        let mut held = self.steps.write().unwrap_or_else(PoisonError::into_inner);
        let gone: Vec<String> = held
            .values()
            .filter(|record| record.template == template)
            .map(|record| record.key.clone())
            .collect();
        let mut layers = Vec::new();
        for key in gone {
            if let Err(error) = self.store.remove(Table::Steps, &key) {
                tracing::warn!(key, %error, "can't forget a build step");
                continue;
            }
            layers.extend(held.remove(&key).into_iter().flat_map(|record| record.stack.layers));
        }
        drop(held);
        self.release_layers(&layers);
    }
}

/// Whether a path exists, links not followed.
pub(crate) fn exists(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok()
}
