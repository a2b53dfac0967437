//! Pausing and resuming, and when a sandbox ends.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ringwall_backend_process::{FreezeWay, Frozen, StateDir, freeze, thaw};
use ringwall_sandbox::service::{ConnectSandbox, Connected, PauseMode, PauseSandbox, ServiceError, StartedAs};
use tokio::task::JoinHandle;

use super::{create, start};
use crate::clock::now_ms;
use crate::live::Live;
use crate::logs;
use crate::node::Inner;
use crate::record::Phase;

/// Pauses a running sandbox.
pub(crate) async fn pause(inner: &Arc<Inner>, live: &Arc<Live>, request: PauseSandbox) -> Result<(), ServiceError> {
    let _turn = live.transition.lock().await;
    match live.phase() {
        Phase::Running => {}
        Phase::Paused(_) => return Err(ServiceError::Conflict(format!("sandbox {} is already paused", live.id))),
        _ => return Err(ServiceError::no_sandbox(&live.id)),
    }
    live.change(&inner.store, |record| record.phase = Phase::Pausing)?;
    let mut fields = vec![];
    if request.memory {
        match stop(inner, &live.id).await {
            // How firmly it stands still is worth knowing: stop signals are only as good as the programs inside let them be.
            Ok(way) => fields.push(("frozenBy", way.name().to_owned())),
            Err(error) => {
                live.change(&inner.store, |record| record.phase = Phase::Running)?;
                return Err(error);
            }
        }
        live.change(&inner.store, |record| record.phase = Phase::Paused(PauseMode::Full))?;
    } else {
        if let Some(keeper) = live.keeper() {
            live.set_keeper(None);
            keeper.end().await;
        }
        live.change(&inner.store, |record| {
            record.phase = Phase::Paused(PauseMode::Filesystem)
        })?;
    }
    let mode = if request.memory { "full" } else { "filesystem" };
    fields.insert(0, ("pauseMode", mode.to_owned()));
    logs::add(&inner.places.sandbox(&live.id), "info", "sandbox paused", &fields);
    Ok(())
}

/// Resumes a paused sandbox, or prolongs a running one.
pub(crate) async fn connect(
    inner: &Arc<Inner>,
    live: &Arc<Live>,
    request: ConnectSandbox,
) -> Result<Connected, ServiceError> {
    create::check_timeout(inner, request.timeout_s)?;
    let _turn = live.transition.lock().await;
    let end_ms = now_ms().saturating_add(request.timeout_s.saturating_mul(1000));
    let set = |record: &mut crate::record::SandboxRecord| {
        if let Some(auto_pause) = request.auto_pause {
            record.on_timeout = if auto_pause {
                ringwall_sandbox::service::OnTimeout::Pause
            } else {
                ringwall_sandbox::service::OnTimeout::Kill
            };
        }
    };
    let started = match live.phase() {
        Phase::Running if !request.reboot => {
            // Never shortened: others may be at work in it.
            live.change(&inner.store, |record| {
                record.end_ms = record.end_ms.max(end_ms);
                set(record);
            })?;
            StartedAs::Running
        }
        Phase::Paused(PauseMode::Full) if !request.reboot && live.keeper().is_some() => {
            live.change(&inner.store, |record| {
                record.phase = Phase::Running;
                record.end_ms = end_ms;
                set(record);
            })?;
            if let Err(error) = go_on(inner, &live.id).await {
                live.change(&inner.store, |record| record.phase = Phase::Paused(PauseMode::Full))?;
                return Err(error);
            }
            StartedAs::Resumed
        }
        Phase::Paused(_) | Phase::Running => {
            live.change(&inner.store, |record| {
                record.phase = Phase::Starting;
                record.end_ms = end_ms;
                set(record);
            })?;
            if let Some(keeper) = live.keeper() {
                live.set_keeper(None);
                keeper.end().await;
            }
            if let Err(error) = start::bring_up(inner, live, None).await {
                live.change(&inner.store, |record| {
                    record.phase = Phase::Paused(PauseMode::Filesystem)
                })?;
                return Err(error);
            }
            StartedAs::Resumed
        }
        _ => return Err(ServiceError::no_sandbox(&live.id)),
    };
    if started == StartedAs::Resumed {
        logs::add(&inner.places.sandbox(&live.id), "info", "sandbox resumed", &[]);
    }
    inner.ends_changed.notify_one();
    Ok(Connected {
        sandbox: live.info(&inner.facts),
        started,
    })
}

/// Sets when a sandbox ends.
pub(crate) fn set_end(inner: &Inner, live: &Live, seconds: u64, only_longer: bool) -> Result<(), ServiceError> {
    create::check_timeout(inner, seconds)?;
    let end_ms = now_ms().saturating_add(seconds.saturating_mul(1000));
    live.change(&inner.store, |record| {
        record.end_ms = if only_longer { record.end_ms.max(end_ms) } else { end_ms };
    })?;
    inner.ends_changed.notify_one();
    Ok(())
}

/// Where it is written down what a thaw must know.
fn frozen_file(directory: &Path) -> PathBuf {
    directory.join("frozen.json")
}

/// Freezes every process of a sandbox.
pub(crate) async fn stop(inner: &Inner, id: &str) -> Result<FreezeWay, ServiceError> {
    let what = "can't pause the sandbox";
    let (state, id, directory) = (
        StateDir::at(inner.places.sandboxes()),
        id.to_owned(),
        inner.places.sandbox(id),
    );
    blocking(what, move || {
        let name = id.parse().map_err(|error| format!("{error}"))?;
        let record = state.look_up(&name).map_err(|error| error.to_string())?.0;
        let record = record.ok_or("its keeper has written nothing down")?;
        let frozen = freeze(&record).map_err(|error| error.to_string())?;
        let text = serde_json::to_vec(&frozen).map_err(|error| error.to_string())?;
        match std::fs::write(frozen_file(&directory), text) {
            Ok(()) => Ok(frozen.way),
            Err(error) => {
                thaw(&record, &frozen).map_err(|error| error.to_string())?;
                Err(error.to_string())
            }
        }
    })
    .await
}

/// Lets a frozen sandbox go on; one that is not frozen just does.
pub(crate) async fn go_on(inner: &Inner, id: &str) -> Result<(), ServiceError> {
    let what = "can't resume the sandbox";
    let (state, id, directory) = (
        StateDir::at(inner.places.sandboxes()),
        id.to_owned(),
        inner.places.sandbox(id),
    );
    blocking(what, move || {
        let file = frozen_file(&directory);
        let frozen: Frozen = std::fs::read(&file)
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_default();
        let name = id.parse().map_err(|error| format!("{error}"))?;
        let record = state.look_up(&name).map_err(|error| error.to_string())?.0;
        let record = record.ok_or("its keeper has written nothing down")?;
        thaw(&record, &frozen).map_err(|error| error.to_string())?;
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.to_string()),
            _ => Ok(()),
        }
    })
    .await
}

async fn blocking<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, ServiceError> {
    outcome(what, tokio::task::spawn_blocking(work)).await
}

/// What came of work on another thread. Work that was cancelled says nothing about a sandbox: the runtime ends, this task with it, and so
/// nothing is concluded.
async fn outcome<T>(what: &'static str, work: JoinHandle<Result<T, String>>) -> Result<T, ServiceError> {
    match work.await {
        Ok(done) => done.map_err(ServiceError::internal(what)),
        Err(error) if error.is_cancelled() => std::future::pending().await,
        Err(error) => Err(ServiceError::internal(what)(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn cancelled_work_is_no_failure() {
        let ended = tokio::runtime::Runtime::new().unwrap();
        let handle = ended.handle().clone();
        ended.shutdown_background();
        let cancelled = handle.spawn_blocking(|| Ok(()));
        let here = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        here.block_on(async {
            let waits = tokio::time::timeout(Duration::from_millis(100), outcome("it can't be done", cancelled));
            assert!(waits.await.is_err());
            let failed = tokio::task::spawn_blocking(|| Err::<(), _>("no".to_owned()));
            assert!(outcome("it can't be done", failed).await.is_err());
            let done = tokio::task::spawn_blocking(|| Ok(7));
            assert_eq!(outcome("it can't be done", done).await.unwrap(), 7);
        });
    }
}
