//! After a start: every record is led to where its phase points, and what belongs to no record is removed.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use ringwall_backend_process::StateDir;
use ringwall_sandbox::service::PauseMode;

use crate::config::StartNodeError;
use crate::keeper;
use crate::lifecycle::{kill, pause, snapshot, start};
use crate::live::Live;
use crate::node::Inner;
use crate::record::{Phase, SandboxRecord};
use crate::store::Table;
use crate::{logs, templates};

/// How long a keeper that a former server had just started may take to lock its name.
const SETTLE: Duration = Duration::from_millis(200);

/// How long an archive for COPY is kept.
const UPLOADS_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// Takes up what a former server left.
pub(crate) async fn recover(inner: &Arc<Inner>) -> Result<(), StartNodeError> {
    let records: Vec<SandboxRecord> = inner.store.all(Table::Sandboxes, "a sandbox")?;
    let state = StateDir::at(inner.places.sandboxes());
    // Also those of the pool and of builds, which are in no record.
    let mut entries = std::fs::read_dir(inner.places.sandboxes())
        .into_iter()
        .flatten()
        .flatten();
    if entries.any(|entry| {
        entry
            .file_name()
            .to_str()
            .is_some_and(|id| keeper::find(&state, id).is_none())
    }) {
        tokio::time::sleep(SETTLE).await;
    }
    let mut known = HashSet::new();
    let mut later = Vec::new();
    for record in records {
        known.insert(record.id.clone());
        let live = Live::new(record);
        match (keeper::find(&state, &live.id), live.id.parse()) {
            (Some(found), _) => live.set_keeper(Some(Arc::new(found))),
            (None, Ok(name)) => keeper::clean_up(state.clone(), name).await,
            (None, Err(_)) => {}
        }
        inner
            .sandboxes
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(live.id.clone(), Arc::clone(&live));
        later.push(live);
    }
    remove_strangers(inner, &state, &known).await;
    let used = inner.used_layers();
    let swept = inner.places.sweep(&used).map_err(|source| StartNodeError::Io {
        path: inner.places.layers(),
        source,
    })?;
    tracing::info!(sandboxes = later.len(), swept, "state taken up");
    templates::recover(inner);
    remove_old_uploads(inner);
    let places = inner.places.clone();
    tokio::task::spawn_blocking(move || places.empty_trash());
    for live in later {
        // In the background, each under its own lock: one that hangs does not keep the others waiting.
        let inner = Arc::clone(inner);
        let turn = Arc::clone(&live);
        let (taken, is_taken) = tokio::sync::oneshot::channel();
        tokio::spawn(async move {
            let _turn = turn.transition.lock().await;
            let _ = taken.send(());
            if let Err(error) = lead_on(&inner, &turn).await {
                tracing::error!(id = %turn.id, %error, cause = ?error, "can't take a sandbox up");
                drop(turn.change(&inner.store, |record| {
                    if record.phase != Phase::Stopping {
                        record.phase = Phase::Paused(PauseMode::Filesystem);
                    }
                }));
            }
        });
        // No request may come between: each finds the lock taken.
        drop(is_taken.await);
    }
    Ok(())
}

/// Ends and removes sandboxes that are in no record: those of the pool, and those whose removal was interrupted.
async fn remove_strangers(inner: &Arc<Inner>, state: &StateDir, known: &HashSet<String>) {
    for entry in std::fs::read_dir(inner.places.sandboxes())
        .into_iter()
        .flatten()
        .flatten()
    {
        let name = entry.file_name();
        let Some(id) = name.to_str().filter(|id| !known.contains(*id)) else {
            continue;
        };
        match (keeper::find(state, id), id.parse()) {
            (Some(keeper), _) => keeper.end().await,
            (None, Ok(name)) => keeper::clean_up(state.clone(), name).await,
            (None, Err(_)) => {}
        }
        if let Err(error) = inner.places.discard(&entry.path()) {
            tracing::warn!(id, %error, "can't remove what belongs to no sandbox");
        }
    }
}

/// Removes archives for COPY that nobody has built with for long; a client uploads again what is missing.
fn remove_old_uploads(inner: &Inner) {
    for entry in std::fs::read_dir(inner.places.uploads())
        .into_iter()
        .flatten()
        .flatten()
    {
        let age = entry
            .metadata()
            .and_then(|found| found.modified())
            .ok()
            .and_then(|time| time.elapsed().ok());
        if age.is_some_and(|age| age > UPLOADS_KEPT) {
            drop(std::fs::remove_file(entry.path()));
        }
    }
}

async fn lead_on(inner: &Arc<Inner>, live: &Arc<Live>) -> Result<(), ringwall_sandbox::service::ServiceError> {
    let end_keeper = async || {
        if let Some(keeper) = live.keeper() {
            live.set_keeper(None);
            keeper.end().await;
        }
    };
    match live.phase() {
        Phase::Stopping => kill::finish(inner, live).await,
        Phase::Starting => {
            // How far it had come is not known: begun again.
            end_keeper().await;
            start::bring_up(inner, live, None).await
        }
        Phase::Freezing { layer, was_running } => {
            end_keeper().await;
            snapshot::settle_layer(inner, live, &layer, was_running)?;
            if was_running {
                start::bring_up(inner, live, None).await?;
            }
            Ok(())
        }
        Phase::Running | Phase::Pausing | Phase::Paused(PauseMode::Full) => {
            let Some(keeper) = live.keeper() else {
                logs::add(
                    &inner.places.sandbox(&live.id),
                    "error",
                    "the sandbox's processes were gone when the server came back; its files are kept",
                    &[],
                );
                return live.change(&inner.store, |record| {
                    record.died = record.phase == Phase::Running;
                    record.phase = Phase::Paused(PauseMode::Filesystem);
                });
            };
            match live.phase() {
                Phase::Running => pause::go_on(inner, &live.id).await?,
                Phase::Pausing => {
                    pause::stop(inner, &live.id).await?;
                    live.change(&inner.store, |record| record.phase = Phase::Paused(PauseMode::Full))?;
                }
                _ => {}
            }
            start::watch(inner, live, keeper);
            Ok(())
        }
        Phase::Paused(PauseMode::Filesystem) => {
            end_keeper().await;
            Ok(())
        }
    }
}
