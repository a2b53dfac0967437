//! Starting a sandbox's processes: a keeper, an agent that knows what it needs, and the template's start command.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use http::Method;
use ringwall_agent_proto::rest::Init;
use ringwall_sandbox::service::{PauseMode, ServiceError};

use crate::keeper::{self, Keeper};
use crate::live::Live;
use crate::node::Inner;
use crate::record::{Phase, SandboxRecord};
use crate::{agent, logs};

pub(crate) use super::start_command::start_commands;

/// Starts the processes of a sandbox whose record says `Starting`, and makes it `Running`. The caller holds the transition.
pub(crate) async fn bring_up(inner: &Arc<Inner>, live: &Arc<Live>, ready: Option<Keeper>) -> Result<(), ServiceError> {
    let record = live.record();
    let keeper = match ready {
        Some(keeper) => keeper,
        None => start_keeper(inner, &record).await?,
    };
    let keeper = Arc::new(keeper);
    live.set_keeper(Some(Arc::clone(&keeper)));
    let begun = async {
        initialize(inner, &record).await?;
        start_commands(inner, &record.id, &record.stack, Some(&record.token)).await
    };
    if let Err(error) = begun.await {
        keeper.end().await;
        live.set_keeper(None);
        return Err(error);
    }
    live.change(&inner.store, |record| {
        record.phase = Phase::Running;
        record.died = false;
    })?;
    watch(inner, live, keeper);
    inner.ends_changed.notify_one();
    Ok(())
}

/// Paths of a stack's layers, the topmost first.
pub(crate) fn lowers(inner: &Inner, layers: &[String]) -> Vec<PathBuf> {
    layers.iter().map(|layer| inner.places.layer(layer)).collect()
}

async fn start_keeper(inner: &Arc<Inner>, record: &SandboxRecord) -> Result<Keeper, ServiceError> {
    let what = "can't start the sandbox";
    let _turn = inner.starting.acquire().await.map_err(ServiceError::internal(what))?;
    keeper::start(
        &inner.places,
        &inner.config.executable,
        &record.id,
        lowers(inner, &record.stack.layers),
        record.stack.host_system,
        &record.size.within(&inner.config.limits),
    )
    .await
    .map_err(ServiceError::internal(what))
}

/// Tells the agent its token, variables and defaults. Returns when it has answered: it can then take commands.
pub(crate) async fn initialize(inner: &Inner, record: &SandboxRecord) -> Result<(), ServiceError> {
    let mut variables: BTreeMap<String, String> = BTreeMap::new();
    variables.insert("E2B_SANDBOX".to_owned(), "true".to_owned());
    variables.insert("E2B_SANDBOX_ID".to_owned(), record.id.clone());
    variables.insert("E2B_TEMPLATE_ID".to_owned(), record.template_id.clone());
    variables.extend(record.stack.env.clone());
    variables.extend(record.env.clone());
    let init = Init {
        env_vars: Some(variables),
        access_token: Some(record.token.clone()),
        timestamp: None,
        default_user: Some(record.stack.user.clone().unwrap_or_else(|| "user".to_owned())),
        default_workdir: record.stack.workdir.clone(),
    };
    let what = "the sandbox's agent does not come up";
    let body = serde_json::to_vec(&init).map_err(ServiceError::internal(what))?;
    let directory = inner.places.sandbox(&record.id);
    let (status, answer) = agent::request(&directory, Method::POST, "/init", None, body)
        .await
        .map_err(ServiceError::internal(what))?;
    if status.is_success() {
        Ok(())
    } else {
        let cause = String::from_utf8_lossy(&answer).into_owned();
        Err(ServiceError::Internal { what, cause })
    }
}

/// Notices the keeper's end. A sandbox that ended by itself keeps its files and can be resumed from them.
pub(crate) fn watch(inner: &Arc<Inner>, live: &Arc<Live>, keeper: Arc<Keeper>) {
    let (inner, live) = (Arc::clone(inner), Arc::clone(live));
    tokio::spawn(async move {
        keeper.ended().await;
        let _turn = live.transition.lock().await;
        let is_current = live.keeper().is_some_and(|current| Arc::ptr_eq(&current, &keeper));
        if !is_current {
            return;
        }
        live.set_keeper(None);
        keeper.clean_up().await;
        if matches!(live.phase(), Phase::Running | Phase::Paused(PauseMode::Full)) {
            logs::add(
                &inner.places.sandbox(&live.id),
                "error",
                "the sandbox's processes have ended by themselves; its files are kept",
                &[],
            );
            let changed = live.change(&inner.store, |record| {
                // One that was paused on purpose stays paused, for as long as it is wanted.
                record.died = record.phase == Phase::Running;
                record.phase = Phase::Paused(PauseMode::Filesystem);
            });
            if let Err(error) = changed {
                tracing::error!(id = %live.id, %error, "can't note the end of a sandbox");
            }
            inner.ends_changed.notify_one();
        }
    });
}
