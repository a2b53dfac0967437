//! Templates: names, tags and builds, and what a name stands for. How a build is done is in `build`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use ringwall_sandbox::service::{
    BuildId, BuildState, BuildStatus, NewTemplate, Owner, ServiceError, TemplateInfo, TemplateTag,
};

use crate::clock::now_ms;
use crate::config::StartNodeError;
use crate::lifecycle::create::Origin;
use crate::lifecycle::snapshot;
use crate::node::Inner;
use crate::record::{BuildRecord, Size, Stack, TemplateRecord};
use crate::store::{Store, Table};
use crate::{ids, images};

/// The default template's name.
pub(crate) const BASE: &str = "base";
/// Further names of the default template: what clients ask for when their users say nothing.
const ALIASES: [&str; 1] = ["code-interpreter-v1"];
/// The tag of a build that was given none.
const DEFAULT_TAG: &str = "default";
/// Longest name or tag.
const MAX_NAME_BYTES: usize = 128;
/// Most builds kept of one template; older ones without a tag go.
const MAX_BUILDS: usize = 20;

/// Reads all templates, and brings the default one up to date with the host.
pub(crate) fn load(store: &Store, base_layer: &str) -> Result<BTreeMap<String, TemplateRecord>, StartNodeError> {
    let records: Vec<TemplateRecord> = store.all(Table::Templates, "a template")?;
    let mut templates: BTreeMap<String, TemplateRecord> =
        records.into_iter().map(|record| (record.id.clone(), record)).collect();
    let now = now_ms();
    let stack = Stack {
        layers: vec![base_layer.to_owned()],
        host_system: true,
        ..Stack::default()
    };
    let base = templates.entry(BASE.to_owned()).or_insert_with(|| TemplateRecord {
        id: BASE.to_owned(),
        owner: None,
        name: BASE.to_owned(),
        created_ms: now,
        updated_ms: now,
        cpu_count: None,
        memory_mb: None,
        builds: BTreeMap::new(),
        tags: BTreeMap::new(),
        spawn_count: 0,
    });
    let is_current = base.builds.values().any(|build| build.stack.as_ref() == Some(&stack));
    if !is_current {
        let build = uuid::Uuid::new_v4().to_string();
        base.builds.clear();
        base.builds.insert(
            build.clone(),
            BuildRecord {
                created_ms: now,
                state: BuildState::Ready,
                tags: Vec::new(),
                stack: Some(stack),
                reason: None,
                logs: Vec::new(),
            },
        );
        base.tags.insert(DEFAULT_TAG.to_owned(), (build, now));
        base.updated_ms = now;
        store.put(Table::Templates, BASE, base)?;
    }
    Ok(templates)
}

/// The stack of the default template.
pub(crate) fn default_stack(inner: &Inner) -> Option<Stack> {
    let held = inner.templates.read().unwrap_or_else(PoisonError::into_inner);
    held.get(BASE)?.builds.values().find_map(|build| build.stack.clone())
}

/// After a start: builds that were going on have failed.
pub(crate) fn recover(inner: &Inner) {
    let mut held = inner.templates.write().unwrap_or_else(PoisonError::into_inner);
    for record in held.values_mut() {
        let mut changed = false;
        for build in record.builds.values_mut() {
            if build.state == BuildState::Building {
                build.state = BuildState::Error;
                build.reason = Some((
                    "the server was restarted during the build; build again, finished steps are cached".to_owned(),
                    None,
                ));
                changed = true;
            }
        }
        if changed && let Err(error) = inner.store.put(Table::Templates, &record.id, record) {
            tracing::error!(id = record.id, %error, "can't note that a build was interrupted");
        }
    }
}

fn is_visible(record: &TemplateRecord, owner: &Owner) -> bool {
    record.owner.as_ref().is_none_or(|had| *had == owner.0)
}

/// Cuts `name:tag`.
fn cut(name: &str) -> (&str, Option<&str>) {
    match name.split_once(':') {
        Some((name, tag)) => (name, Some(tag)),
        None => (name, None),
    }
}

/// Finds a template by id or name among those the owner may use; its own before everybody's.
fn find<'a>(templates: &'a BTreeMap<String, TemplateRecord>, owner: &Owner, name: &str) -> Option<&'a TemplateRecord> {
    let name = if ALIASES.contains(&name) { BASE } else { name };
    let visible = || templates.values().filter(|record| is_visible(record, owner));
    visible()
        .find(|record| record.id == name)
        .or_else(|| visible().find(|record| record.name == name && record.owner.is_some()))
        .or_else(|| visible().find(|record| record.name == name))
}

fn unknown(name: &str) -> ServiceError {
    ServiceError::NotFound {
        what: "template",
        id: name.to_owned(),
    }
}

/// Finds what a sandbox starts from: a template by id, name or name:tag, or a snapshot by id or name.
pub(crate) fn resolve(inner: &Inner, owner: &Owner, name: &str) -> Result<Origin, ServiceError> {
    let asked = if name.is_empty() { BASE } else { name };
    let (bare, tag) = cut(asked);
    {
        let mut held = inner.templates.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(id) = find(&held, owner, bare).map(|record| record.id.clone())
            && let Some(record) = held.get_mut(&id)
        {
            let build = match tag {
                Some(tag) => record.tags.get(tag).map(|(build, _)| build.clone()),
                None => record
                    .tags
                    .get(DEFAULT_TAG)
                    .map(|(build, _)| build.clone())
                    .or_else(|| newest_ready(record)),
            };
            let stack = build.and_then(|build| record.builds.get(&build)?.stack.clone());
            let Some(stack) = stack else {
                return match tag {
                    Some(tag) => Err(ServiceError::NotFound {
                        what: "template tag",
                        id: format!("{bare}:{tag}"),
                    }),
                    None => Err(ServiceError::Conflict(format!(
                        "template {bare:?} has no finished build"
                    ))),
                };
            };
            record.spawn_count += 1;
            return Ok(Origin {
                template_id: record.id.clone(),
                template_name: Some(if ALIASES.contains(&bare) {
                    bare.to_owned()
                } else {
                    record.name.clone()
                }),
                stack,
                size: Size {
                    cpu_count: record.cpu_count,
                    memory_mb: record.memory_mb,
                },
            });
        }
    }
    match snapshot::find(inner, owner, asked) {
        Some(record) => {
            let (mut origin, env) = snapshot::origin(record);
            for (name, value) in env {
                origin.stack.env.insert(name, value);
            }
            Ok(origin)
        }
        None => Err(unknown(asked)),
    }
}

fn newest_ready(record: &TemplateRecord) -> Option<String> {
    record
        .builds
        .iter()
        .filter(|(_, build)| build.state == BuildState::Ready)
        .max_by_key(|(_, build)| build.created_ms)
        .map(|(id, _)| id.clone())
}

fn check_name(what: &str, name: &str) -> Result<(), ServiceError> {
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'/');
    if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.bytes().all(is_good) {
        return Err(ServiceError::Invalid(format!(
            "{what} {name:?}: use 1 to {MAX_NAME_BYTES} letters, digits, '-', '_', '.' and '/'"
        )));
    }
    Ok(())
}

/// Announces a template or a new build of one.
pub(crate) fn announce(
    inner: &Inner,
    owner: &Owner,
    request: NewTemplate,
) -> Result<(TemplateInfo, BuildId), ServiceError> {
    let (name, tag) = cut(&request.name);
    check_name("name", name)?;
    let mut tags = request.tags.clone();
    tags.extend(tag.map(str::to_owned));
    for tag in &tags {
        check_name("tag", tag)?;
    }
    if name == BASE || ALIASES.contains(&name) {
        return Err(ServiceError::Conflict(format!(
            "the name {name:?} is the default template's; choose another"
        )));
    }
    let now = now_ms();
    let build = uuid::Uuid::new_v4().to_string();
    let mut held = inner.templates.write().unwrap_or_else(PoisonError::into_inner);
    let own = held
        .values()
        .find(|record| record.name == name && record.owner.as_ref() == Some(&owner.0));
    let mut record = own.cloned().unwrap_or_else(|| TemplateRecord {
        id: ids::template(),
        owner: Some(owner.0.clone()),
        name: name.to_owned(),
        created_ms: now,
        updated_ms: now,
        cpu_count: None,
        memory_mb: None,
        builds: BTreeMap::new(),
        tags: BTreeMap::new(),
        spawn_count: 0,
    });
    record.cpu_count = request.cpu_count.or(record.cpu_count);
    record.memory_mb = request.memory_mb.or(record.memory_mb);
    record.updated_ms = now;
    record.builds.insert(
        build.clone(),
        BuildRecord {
            created_ms: now,
            state: BuildState::Waiting,
            tags,
            stack: None,
            reason: None,
            logs: Vec::new(),
        },
    );
    prune(&mut record);
    inner
        .store
        .put(Table::Templates, &record.id, &record)
        .map_err(ServiceError::internal("can't write the template down"))?;
    let info = info(inner, &record);
    held.insert(record.id.clone(), record);
    Ok((info, BuildId(build)))
}

/// Forgets old builds that nothing names.
fn prune(record: &mut TemplateRecord) {
    while record.builds.len() > MAX_BUILDS {
        let tagged: Vec<&String> = record.tags.values().map(|(build, _)| build).collect();
        let oldest = record
            .builds
            .iter()
            .filter(|(id, build)| !tagged.contains(id) && build.state != BuildState::Building)
            .min_by_key(|(_, build)| build.created_ms)
            .map(|(id, _)| id.clone());
        match oldest {
            Some(id) => drop(record.builds.remove(&id)),
            None => return,
        }
    }
}

pub(crate) fn info(inner: &Inner, record: &TemplateRecord) -> TemplateInfo {
    let newest = record.builds.iter().max_by_key(|(_, build)| build.created_ms);
    TemplateInfo {
        id: record.id.clone(),
        name: record.name.clone(),
        tags: record
            .tags
            .iter()
            .map(|(tag, (build, created_ms))| TemplateTag {
                tag: tag.clone(),
                build: build.clone(),
                created_ms: *created_ms,
            })
            .collect(),
        build: newest.map(|(id, _)| id.clone()),
        cpu_count: record.cpu_count.unwrap_or(inner.facts.cpu_count),
        memory_mb: record.memory_mb.unwrap_or(inner.facts.memory_mb),
        created_ms: record.created_ms,
        updated_ms: record.updated_ms,
        spawn_count: record.spawn_count,
        state: newest.map_or(BuildState::Waiting, |(_, build)| build.state),
        is_public: record.owner.is_none(),
    }
}

/// Looks at a template of the owner's own, to change it.
pub(crate) fn change<T>(
    inner: &Inner,
    owner: &Owner,
    name: &str,
    change: impl FnOnce(&mut TemplateRecord) -> Result<T, ServiceError>,
) -> Result<T, ServiceError> {
    let mut held = inner.templates.write().unwrap_or_else(PoisonError::into_inner);
    let found = find(&held, owner, name).ok_or_else(|| unknown(name))?;
    if found.owner.as_ref() != Some(&owner.0) {
        return Err(ServiceError::Forbidden(format!(
            "template {name:?} is everybody's and can't be changed"
        )));
    }
    let mut record = found.clone();
    let result = change(&mut record)?;
    record.updated_ms = now_ms();
    inner
        .store
        .put(Table::Templates, &record.id, &record)
        .map_err(ServiceError::internal("can't write the template down"))?;
    held.insert(record.id.clone(), record);
    Ok(result)
}

fn check_hash(hash: &str) -> Result<(), ServiceError> {
    if hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        Ok(())
    } else {
        Err(ServiceError::Invalid(format!(
            "{hash:?} is not a SHA-256 in hexadecimal digits"
        )))
    }
}

/// Where an owner's archive lies: one owner's uploads are never another's, whatever hash it claims.
pub(crate) fn upload_path(inner: &Inner, owner: &Owner, hash: &str) -> PathBuf {
    inner.places.uploads().join(format!("{}-{hash}", owner.0))
}

pub(crate) fn has_upload(inner: &Inner, owner: &Owner, template: &str, hash: &str) -> Result<bool, ServiceError> {
    check_hash(hash)?;
    get(inner, owner, template)?;
    Ok(upload_path(inner, owner, hash).exists())
}

pub(crate) fn begin_upload(inner: &Inner, owner: &Owner, template: &str, hash: &str) -> Result<PathBuf, ServiceError> {
    check_hash(hash)?;
    get(inner, owner, template)?;
    Ok(inner.places.fresh().join(format!("upload-{}", ids::layer())))
}

pub(crate) fn finish_upload(inner: &Inner, owner: &Owner, hash: &str, file: &Path) -> Result<(), ServiceError> {
    check_hash(hash)?;
    std::fs::rename(file, upload_path(inner, owner, hash)).map_err(ServiceError::internal("can't keep the upload"))
}

pub(crate) fn status(
    inner: &Inner,
    owner: &Owner,
    template: &str,
    build: &str,
    offset: usize,
    limit: usize,
) -> Result<BuildStatus, ServiceError> {
    let held = inner.templates.read().unwrap_or_else(PoisonError::into_inner);
    let record = find(&held, owner, template).ok_or_else(|| unknown(template))?;
    let build = record.builds.get(build).ok_or_else(|| ServiceError::NotFound {
        what: "build",
        id: build.to_owned(),
    })?;
    Ok(BuildStatus {
        state: build.state,
        logs: build.logs.iter().skip(offset).take(limit).cloned().collect(),
        reason: build.reason.clone(),
    })
}

pub(crate) fn list(inner: &Inner, owner: &Owner) -> Vec<TemplateInfo> {
    let held = inner.templates.read().unwrap_or_else(PoisonError::into_inner);
    held.values()
        .filter(|record| is_visible(record, owner))
        .map(|record| info(inner, record))
        .collect()
}

pub(crate) fn get(inner: &Inner, owner: &Owner, name: &str) -> Result<TemplateInfo, ServiceError> {
    let (bare, tag) = cut(name);
    let held = inner.templates.read().unwrap_or_else(PoisonError::into_inner);
    let record = find(&held, owner, bare).ok_or_else(|| unknown(name))?;
    if tag.is_some_and(|tag| !record.tags.contains_key(tag)) {
        return Err(unknown(name));
    }
    Ok(info(inner, record))
}

pub(crate) fn remove(inner: &Inner, owner: &Owner, name: &str) -> Result<(), ServiceError> {
    let mut held = inner.templates.write().unwrap_or_else(PoisonError::into_inner);
    let record = find(&held, owner, name).ok_or_else(|| unknown(name))?.clone();
    if record.owner.as_ref() != Some(&owner.0) {
        return Err(ServiceError::Forbidden(format!(
            "template {name:?} is everybody's and can't be removed"
        )));
    }
    inner
        .store
        .remove(Table::Templates, &record.id)
        .map_err(ServiceError::internal("can't remove the template's record"))?;
    held.remove(&record.id);
    drop(held);
    inner.forget_steps(&record.id);
    for build in record.builds.values() {
        if let Some(stack) = &build.stack {
            inner.release_layers(&stack.layers);
        }
    }
    let places = inner.places.clone();
    tokio::task::spawn_blocking(move || places.empty_trash());
    Ok(())
}

pub(crate) fn tag(inner: &Inner, owner: &Owner, target: &str, tags: &[String]) -> Result<TemplateTag, ServiceError> {
    for tag in tags {
        check_name("tag", tag)?;
    }
    let (name, from) = cut(target);
    change(inner, owner, name, |record| {
        let build = match from {
            Some(tag) => record.tags.get(tag).map(|(build, _)| build.clone()),
            None => record
                .tags
                .get(DEFAULT_TAG)
                .map(|(build, _)| build.clone())
                .or_else(|| newest_ready(record)),
        };
        let build = build.ok_or_else(|| unknown(target))?;
        let now = now_ms();
        for tag in tags {
            record.tags.insert(tag.clone(), (build.clone(), now));
        }
        Ok(TemplateTag {
            tag: tags.first().cloned().unwrap_or_default(),
            build,
            created_ms: now,
        })
    })
}

pub(crate) fn untag(inner: &Inner, owner: &Owner, name: &str, tags: &[String]) -> Result<(), ServiceError> {
    let (name, _) = cut(name);
    change(inner, owner, name, |record| {
        for tag in tags {
            if record.tags.remove(tag).is_none() {
                return Err(ServiceError::NotFound {
                    what: "tag",
                    id: tag.clone(),
                });
            }
        }
        Ok(())
    })
}

/// Gives a finished build its tags, or the default one.
pub(crate) fn settle_tags(record: &mut TemplateRecord, build: &str, mut tags: Vec<String>) {
    if tags.is_empty() || !record.tags.contains_key(DEFAULT_TAG) {
        tags.push(DEFAULT_TAG.to_owned());
    }
    let now = now_ms();
    for tag in tags {
        record.tags.insert(tag, (build.to_owned(), now));
    }
}

/// Makes a template of an archive of a root file system.
pub(crate) async fn import(
    inner: &Inner,
    owner: &Owner,
    request: NewTemplate,
    archive: &Path,
) -> Result<TemplateInfo, ServiceError> {
    let what = "can't keep the root file system";
    let into = inner.places.fresh().join(format!("root-{}", ids::layer()));
    let (from, target) = (archive.to_owned(), into.clone());
    let unpacked = tokio::task::spawn_blocking(move || images::unpack_root(&from, &target)).await;
    let unpacked = unpacked.map_err(ServiceError::internal(what))?;
    if let Err(why) = unpacked {
        drop(inner.places.discard(&into));
        return Err(ServiceError::Invalid(why));
    }
    let (info, build) = announce(inner, owner, request)?;
    let layer = ids::layer();
    let _held = inner.layer_use.lock().unwrap_or_else(PoisonError::into_inner);
    std::fs::rename(&into, inner.places.layer(&layer)).map_err(ServiceError::internal(what))?;
    change(inner, owner, &info.id, |record| {
        if let Some(found) = record.builds.get_mut(&build.0) {
            found.state = BuildState::Ready;
            found.stack = Some(Stack {
                layers: vec![layer],
                ..Stack::default()
            });
            let tags = found.tags.clone();
            settle_tags(record, &build.0, tags);
        }
        Ok(())
    })?;
    inner.store.sync().map_err(ServiceError::internal(what))?;
    get(inner, owner, &info.id)
}
