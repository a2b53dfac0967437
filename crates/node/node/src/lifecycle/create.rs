//! Making a sandbox.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use ringwall_sandbox::service::{CreateSandbox, Network, OnTimeout, Owner, SandboxInfo, ServiceError};

use sha2::{Digest, Sha256};

use super::{kill, start};
use crate::clock::now_ms;
use crate::keeper::Keeper;
use crate::live::Live;
use crate::node::Inner;
use crate::record::{Phase, SandboxRecord, Size, Stack};
use crate::{ids, logs, templates};

/// Most bytes of labels, and of variables, of one sandbox.
const MAX_LABEL_BYTES: usize = 64 << 10;

/// Pause between two looks at whether another request has begun its work.
const TURN: Duration = Duration::from_millis(2);

/// What a new sandbox begins as.
pub(crate) struct Origin {
    pub(crate) template_id: String,
    pub(crate) template_name: Option<String>,
    pub(crate) stack: Stack,
    pub(crate) size: Size,
}

/// Makes a sandbox and returns when it can take its first command.
pub(crate) async fn create(
    inner: &Arc<Inner>,
    owner: &Owner,
    request: CreateSandbox,
) -> Result<SandboxInfo, ServiceError> {
    check(inner, &request)?;
    let idempotency = request.idempotency_key.clone().map(|key| (key, fingerprint(&request)));
    let (live, ready) = {
        let _held = inner.layer_use.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(wanted) = &idempotency
            && let Some(earlier) = find_earlier(inner, owner, wanted)?
        {
            drop(_held);
            return wait_for(inner, &earlier).await;
        }
        let origin = templates::resolve(inner, owner, &request.template)?;
        enter(inner, owner, request, origin, idempotency)?
    };
    bring_up_new(inner, &live, ready).await
}

/// Writes a new sandbox down and lists it. The caller holds `layer_use`, so that the layers it stands on can't go.
pub(crate) fn enter(
    inner: &Arc<Inner>,
    owner: &Owner,
    request: CreateSandbox,
    origin: Origin,
    idempotency: Option<(String, u64)>,
) -> Result<(Arc<Live>, Option<Keeper>), ServiceError> {
    let mut sandboxes = inner.sandboxes.write().unwrap_or_else(PoisonError::into_inner);
    if sandboxes.len() >= inner.config.max_sandboxes {
        return Err(ServiceError::Busy {
            why: format!(
                "there are {} sandboxes, as many as this machine may have",
                sandboxes.len()
            ),
            retry_after_s: 5,
        });
    }
    // One that waits in the pool already has its id.
    let ready = (origin.size == Size::default())
        .then(|| inner.pool.take(&origin.stack))
        .flatten();
    let (id, keeper) = match ready {
        Some((id, keeper)) => (id, Some(keeper)),
        None => (ids::sandbox(), None),
    };
    let now = now_ms();
    let is_private = request.network.public_traffic == Some(false);
    let record = SandboxRecord {
        id: id.clone(),
        owner: owner.0.clone(),
        phase: Phase::Starting,
        template_id: origin.template_id,
        template_name: origin.template_name,
        stack: origin.stack,
        started_ms: now,
        end_ms: now.saturating_add(request.timeout_s.saturating_mul(1000)),
        on_timeout: if request.auto_pause {
            OnTimeout::Pause
        } else {
            OnTimeout::Kill
        },
        auto_pause_memory: request.auto_pause_memory,
        auto_resume: request.auto_resume,
        metadata: request.metadata,
        env: request.env,
        network: request.network,
        token: ids::secret(),
        traffic_token: is_private.then(ids::secret),
        idempotency,
        size: origin.size,
        died: false,
    };
    let live = Live::new(record);
    live.change(&inner.store, |_| {})?;
    sandboxes.insert(id, Arc::clone(&live));
    Ok((live, keeper))
}

/// Brings a sandbox up that was just entered; takes it away again if that fails.
pub(crate) async fn bring_up_new(
    inner: &Arc<Inner>,
    live: &Arc<Live>,
    ready: Option<Keeper>,
) -> Result<SandboxInfo, ServiceError> {
    let _turn = live.transition.lock().await;
    if inner.any(&live.id).is_err() || live.phase() != Phase::Starting {
        // It was listed before it was up, and somebody has ended it since.
        if let Some(keeper) = ready {
            keeper.end().await;
            drop(inner.places.discard(&inner.places.sandbox(&live.id)));
        }
        return Err(ServiceError::no_sandbox(&live.id));
    }
    let started = start::bring_up(inner, live, ready).await;
    inner.refill_pool();
    if let Err(error) = started {
        tracing::error!(id = %live.id, %error, cause = ?error, "can't start a sandbox");
        drop(live.change(&inner.store, |record| record.phase = Phase::Stopping));
        drop(kill::finish(inner, live).await);
        return Err(error);
    }
    inner.created.fetch_add(1, Relaxed);
    logs::add(&inner.places.sandbox(&live.id), "info", "sandbox started", &[]);
    Ok(live.info(&inner.facts))
}

/// Waits until an earlier request with the same key is done, and gives its answer.
async fn wait_for(inner: &Inner, live: &Arc<Live>) -> Result<SandboxInfo, ServiceError> {
    loop {
        drop(live.transition.lock().await);
        inner.any(&live.id)?;
        if live.phase() != Phase::Starting {
            return Ok(live.info(&inner.facts));
        }
        // Listed, but its maker has not taken the lock yet.
        tokio::time::sleep(TURN).await;
    }
}

fn find_earlier(inner: &Inner, owner: &Owner, wanted: &(String, u64)) -> Result<Option<Arc<Live>>, ServiceError> {
    for live in inner.all() {
        let found = live.look(|record| match &record.idempotency {
            Some(had) if record.owner == owner.0 && had.0 == wanted.0 => Some(had.1),
            _ => None,
        });
        if let Some(fingerprint) = found {
            if fingerprint != wanted.1 {
                let why = "this Idempotency-Key was used for another request".to_owned();
                return Err(ServiceError::Conflict(why));
            }
            return Ok(Some(live));
        }
    }
    Ok(None)
}

/// A hash of the request that later versions of the program compute alike.
fn fingerprint(request: &CreateSandbox) -> u64 {
    let digest = Sha256::digest(format!("{request:?}").as_bytes());
    digest
        .iter()
        .take(8)
        .fold(0, |value, &byte| value << 8 | u64::from(byte))
}

fn check(inner: &Inner, request: &CreateSandbox) -> Result<(), ServiceError> {
    check_timeout(inner, request.timeout_s)?;
    check_network(&request.network)?;
    let bytes = |map: &std::collections::BTreeMap<String, String>| -> usize {
        map.iter().map(|(key, value)| key.len() + value.len()).sum()
    };
    if bytes(&request.metadata) > MAX_LABEL_BYTES || bytes(&request.env) > MAX_LABEL_BYTES {
        let why = format!("metadata and envVars may hold {MAX_LABEL_BYTES} bytes each");
        return Err(ServiceError::Invalid(why));
    }
    for (name, value) in &request.env {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(ServiceError::Invalid(format!(
                "envVars: {name:?} can't be a variable: a name is not empty and has no '=', and nothing holds a NUL byte"
            )));
        }
    }
    Ok(())
}

pub(crate) fn check_timeout(inner: &Inner, seconds: u64) -> Result<(), ServiceError> {
    let most = inner.config.max_timeout_s;
    if seconds > most {
        return Err(ServiceError::Invalid(format!(
            "timeout: {seconds} s is more than the {most} s allowed here"
        )));
    }
    Ok(())
}

/// Refuses rules that can't be enforced. There is no way out of a sandbox of today's tiers, so every rule that denies holds, and the
/// clients' default (`allow_internet_access: true` without a rule) asks for nothing in particular.
pub(crate) fn check_network(network: &Network) -> Result<(), ServiceError> {
    let refuse = |what: &str| {
        Err(ServiceError::Unsupported(format!(
            "network: {what} can't be enforced yet: sandboxes of this server have no network but their own loopback device; leave it out"
        )))
    };
    if let Some(rule) = network.allow_out.first() {
        return refuse(&format!("allowOut {rule:?}"));
    }
    if let Some(name) = network.unsupported.first() {
        return refuse(name);
    }
    Ok(())
}
