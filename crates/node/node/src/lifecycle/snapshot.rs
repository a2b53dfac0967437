//! Freezing a sandbox's files: its writable layer becomes a read-only one by a rename, whatever its size, and everybody goes on upon it.

use std::sync::{Arc, PoisonError};

use ringwall_sandbox::service::{
    CreateSandbox, ForkSandbox, Forked, OnTimeout, Owner, PauseMode, ServiceError, SnapshotInfo, TakeSnapshot,
};

use super::{create, start};
use crate::clock::now_ms;
use crate::live::Live;
use crate::node::Inner;
use crate::record::{Phase, SnapshotRecord, Stack};
use crate::store::Table;
use crate::{ids, logs};

/// Most layers of one sandbox: their names must fit into one mount option page (4 KiB), and each costs a look-up per missing name.
const MAX_LAYERS: usize = 100;
/// Most copies of one fork.
const MAX_FORKS: usize = 100;

/// Takes a snapshot. The sandbox goes on, with its files and its processes anew.
pub(crate) async fn snapshot(
    inner: &Arc<Inner>,
    live: &Arc<Live>,
    request: TakeSnapshot,
) -> Result<SnapshotInfo, ServiceError> {
    let _turn = live.transition.lock().await;
    let was_running = freeze_layer(inner, live).await?;
    let record = live.record();
    let snapshot = SnapshotRecord {
        id: ids::snapshot(),
        owner: record.owner.clone(),
        name: request.name,
        sandbox: record.id.clone(),
        created_ms: now_ms(),
        template_name: record.template_name.clone(),
        stack: record.stack.clone(),
        size: record.size,
        metadata: record.metadata.clone(),
        env: record.env.clone(),
    };
    let what = "can't write the snapshot down";
    inner
        .store
        .put(Table::Snapshots, &snapshot.id, &snapshot)
        .map_err(ServiceError::internal(what))?;
    let info = info(&snapshot);
    inner
        .snapshots
        .write()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(snapshot.id.clone(), snapshot);
    // A snapshot is a promise: files first, then the record, both on disk before it is given.
    let directory = inner.places.layers();
    let synced = tokio::task::spawn_blocking(move || {
        let fd = std::fs::File::open(directory)?;
        rustix::fs::syncfs(&fd).map_err(std::io::Error::from)
    });
    synced
        .await
        .map_err(ServiceError::internal(what))?
        .map_err(ServiceError::internal(what))?;
    inner.store.sync().map_err(ServiceError::internal(what))?;
    let fields = [("snapshotID", info.id.clone()), ("pauseMode", "filesystem".to_owned())];
    logs::add(&inner.places.sandbox(&live.id), "info", "snapshot taken", &fields);
    go_on(inner, live, was_running).await?;
    Ok(info)
}

/// Makes copies of a sandbox.
pub(crate) async fn fork(
    inner: &Arc<Inner>,
    live: &Arc<Live>,
    request: ForkSandbox,
) -> Result<Vec<Forked>, ServiceError> {
    create::check_timeout(inner, request.timeout_s)?;
    if !(1..=MAX_FORKS).contains(&request.count) {
        return Err(ServiceError::Invalid(format!(
            "count: 1 to {MAX_FORKS} copies can be made at once"
        )));
    }
    let _turn = live.transition.lock().await;
    let was_running = freeze_layer(inner, live).await?;
    let record = live.record();
    let owner = Owner(record.owner.clone());
    let mut copies = Vec::with_capacity(request.count);
    for _ in 0..request.count {
        let wanted = CreateSandbox {
            template: record.template_id.clone(),
            timeout_s: request.timeout_s,
            auto_pause: record.on_timeout == OnTimeout::Pause,
            auto_pause_memory: record.auto_pause_memory,
            auto_resume: record.auto_resume,
            metadata: record.metadata.clone(),
            env: record.env.clone(),
            network: record.network.clone(),
            idempotency_key: None,
        };
        let origin = create::Origin {
            template_id: record.template_id.clone(),
            template_name: record.template_name.clone(),
            stack: record.stack.clone(),
            size: record.size,
        };
        let _held = inner.layer_use.lock().unwrap_or_else(PoisonError::into_inner);
        copies.push(create::enter(inner, &owner, wanted, origin, None));
    }
    // The original first: it was there before.
    go_on(inner, live, was_running).await?;
    let mut tasks = Vec::with_capacity(copies.len());
    for copy in copies {
        let inner = Arc::clone(inner);
        tasks.push(tokio::spawn(async move {
            let (live, ready) = copy?;
            create::bring_up_new(&inner, &live, ready).await
        }));
    }
    let mut forked = Vec::with_capacity(tasks.len());
    for task in tasks {
        let result = task.await.map_err(ServiceError::internal("can't start the copy"));
        forked.push(Forked {
            result: result.and_then(|result| result),
        });
    }
    Ok(forked)
}

/// Turns the writable layer into a read-only one. Returns whether the sandbox ran; its phase is then `Starting`, and its processes have
/// ended.
async fn freeze_layer(inner: &Arc<Inner>, live: &Arc<Live>) -> Result<bool, ServiceError> {
    let phase = live.phase();
    let was_running = match phase {
        Phase::Running => true,
        Phase::Paused(_) => false,
        _ => return Err(ServiceError::no_sandbox(&live.id)),
    };
    if live.look(|record| record.stack.layers.len()) >= MAX_LAYERS {
        let why = format!(
            "sandbox {} stands on {MAX_LAYERS} layers, the most there can be",
            live.id
        );
        return Err(ServiceError::Conflict(why));
    }
    let layer = ids::layer();
    live.change(&inner.store, |record| {
        record.phase = Phase::Freezing {
            layer: layer.clone(),
            was_running,
        };
    })?;
    if let Some(keeper) = live.keeper() {
        live.set_keeper(None);
        keeper.end().await;
    }
    settle_layer(inner, live, &layer, was_running)?;
    Ok(was_running)
}

/// Does what `Freezing` says, once nothing writes to the layer any more; also after a crash. Leaves `Starting` behind, or
/// `Paused`.
pub(crate) fn settle_layer(inner: &Inner, live: &Live, layer: &str, was_running: bool) -> Result<(), ServiceError> {
    let what = "can't freeze the sandbox's files";
    let upper = inner.places.sandbox(&live.id).join("upper");
    let to = inner.places.layer(layer);
    if !to.exists() {
        match std::fs::rename(&upper, &to) {
            // It never ran: nothing was written.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                std::fs::create_dir(&to).map_err(ServiceError::internal(what))?;
            }
            result => result.map_err(ServiceError::internal(what))?,
        }
    }
    live.change(&inner.store, |record| {
        if record.stack.layers.first().is_none_or(|first| first != layer) {
            record.stack.layers.insert(0, layer.to_owned());
        }
        record.phase = if was_running {
            Phase::Starting
        } else {
            Phase::Paused(PauseMode::Filesystem)
        };
    })
}

async fn go_on(inner: &Arc<Inner>, live: &Arc<Live>, was_running: bool) -> Result<(), ServiceError> {
    if !was_running {
        return Ok(());
    }
    let started = start::bring_up(inner, live, None).await;
    if started.is_err() {
        live.change(&inner.store, |record| {
            record.phase = Phase::Paused(PauseMode::Filesystem)
        })?;
    }
    started
}

pub(crate) fn info(record: &SnapshotRecord) -> SnapshotInfo {
    SnapshotInfo {
        id: record.id.clone(),
        names: record.name.iter().cloned().collect(),
        sandbox: record.sandbox.clone(),
        created_ms: record.created_ms,
    }
}

/// Finds a snapshot by id or name.
pub(crate) fn find(inner: &Inner, owner: &Owner, name: &str) -> Option<SnapshotRecord> {
    let held = inner.snapshots.read().unwrap_or_else(PoisonError::into_inner);
    let is_ours = |record: &&SnapshotRecord| record.owner == owner.0;
    let by_name = || {
        let mut named: Vec<_> = held
            .values()
            .filter(is_ours)
            .filter(|record| record.name.as_deref() == Some(name))
            .collect();
        // The newest of a name is the one that is meant.
        named.sort_by_key(|record| record.created_ms);
        named.pop()
    };
    held.get(name).filter(is_ours).or_else(by_name).cloned()
}

/// Removes a snapshot; returns whether there was one. What stands on its layers keeps them.
pub(crate) fn remove(inner: &Inner, owner: &Owner, name: &str) -> Result<bool, ServiceError> {
    let Some(record) = find(inner, owner, name) else {
        return Ok(false);
    };
    inner
        .store
        .remove(Table::Snapshots, &record.id)
        .map_err(ServiceError::internal("can't remove the snapshot's record"))?;
    inner
        .snapshots
        .write()
        .unwrap_or_else(PoisonError::into_inner)
        .remove(&record.id);
    inner.release_layers(&record.stack.layers);
    let places = inner.places.clone();
    tokio::task::spawn_blocking(move || places.empty_trash());
    Ok(true)
}

/// What a snapshot's sandboxes start from.
pub(crate) fn origin(record: SnapshotRecord) -> (create::Origin, std::collections::BTreeMap<String, String>) {
    let stack = Stack { ..record.stack };
    (
        create::Origin {
            template_id: record.id,
            template_name: record.name.or(record.template_name),
            stack,
            size: record.size,
        },
        record.env,
    )
}

/// Keeps the compiler's eye on the record's form: it is what later versions must still read.
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_record_reads_back() {
        let record = SnapshotRecord {
            id: "s".into(),
            owner: "k".into(),
            name: None,
            sandbox: "i".into(),
            created_ms: 1,
            template_name: None,
            stack: Stack::default(),
            size: crate::record::Size::default(),
            metadata: std::collections::BTreeMap::new(),
            env: std::collections::BTreeMap::new(),
        };
        let text = crate::store::to_json(&record).unwrap();
        let again: SnapshotRecord = serde_json::from_str(&text).unwrap();
        assert_eq!(again.id, "s");
    }
}
