//! Ends sandboxes whose time is up. Ends are in the records, so a server that was away catches up as soon as it is back.

use std::sync::Arc;
use std::time::Duration;

use ringwall_sandbox::service::{OnTimeout, PauseSandbox};

use crate::clock::now_ms;
use crate::lifecycle::{kill, pause};
use crate::live::Live;
use crate::node::Inner;
use crate::record::Phase;

/// Longest sleep: the wall clock may be set meanwhile.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);
/// Pause after an end that failed, so that it is tried again but not in a circle.
const AFTER_FAILURE: Duration = Duration::from_secs(5);

/// Starts the task. It lives as long as the node's runtime.
pub(crate) fn spawn(inner: &Arc<Inner>) {
    let inner = Arc::clone(inner);
    tokio::spawn(async move {
        loop {
            let mut next = LONGEST_SLEEP;
            for live in inner.all() {
                let Some(end_ms) = end_of(&live) else { continue };
                let left = end_ms.saturating_sub(now_ms());
                if left > 0 {
                    next = next.min(Duration::from_millis(left));
                } else {
                    next = next.min(AFTER_FAILURE);
                    let inner = Arc::clone(&inner);
                    tokio::spawn(async move { end(&inner, &live).await });
                }
            }
            drop(tokio::time::timeout(next, inner.ends_changed.notified()).await);
        }
    });
}

/// When something has to be done about a sandbox: one that runs ends; one that died is removed if it was to be killed at its end.
fn end_of(live: &Live) -> Option<u64> {
    live.look(|record| match record.phase {
        Phase::Running => Some(record.end_ms),
        Phase::Paused(_) if record.died && record.on_timeout == OnTimeout::Kill => Some(record.end_ms),
        _ => None,
    })
}

async fn end(inner: &Arc<Inner>, live: &Arc<Live>) {
    // Looked at again: somebody may have prolonged it, or this may be the second task for the same end.
    if end_of(live).is_none_or(|end_ms| end_ms > now_ms()) {
        return;
    }
    let (on_timeout, memory) = live.look(|record| (record.on_timeout, record.auto_pause_memory));
    let result = match on_timeout {
        OnTimeout::Kill => kill::kill(inner, live).await,
        OnTimeout::Pause => pause::pause(inner, live, PauseSandbox { memory }).await,
    };
    if let Err(error) = result {
        tracing::debug!(id = %live.id, %error, "the end of a sandbox's time");
    }
}
