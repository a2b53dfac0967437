//! Ending a sandbox: from every phase, and as often as one likes.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};

use ringwall_sandbox::service::ServiceError;

use crate::live::Live;
use crate::node::Inner;
use crate::record::Phase;

/// Ends a sandbox and removes its files.
pub(crate) async fn kill(inner: &Arc<Inner>, live: &Arc<Live>) -> Result<(), ServiceError> {
    let _turn = live.transition.lock().await;
    if inner.any(&live.id).is_err() {
        // Somebody else was faster.
        return Err(ServiceError::no_sandbox(&live.id));
    }
    live.change(&inner.store, |record| record.phase = Phase::Stopping)?;
    finish(inner, live).await
}

/// Does what `Stopping` says; also after a crash.
pub(crate) async fn finish(inner: &Arc<Inner>, live: &Arc<Live>) -> Result<(), ServiceError> {
    if let Some(keeper) = live.keeper() {
        live.set_keeper(None);
        keeper.end().await;
    }
    let failed = ServiceError::internal::<std::io::Error>("can't remove the sandbox's files");
    inner.places.discard(&inner.places.sandbox(&live.id)).map_err(failed)?;
    live.forget(&inner.store)?;
    inner
        .sandboxes
        .write()
        .unwrap_or_else(PoisonError::into_inner)
        .remove(&live.id);
    inner.killed.fetch_add(1, Relaxed);
    inner.release_layers(&live.look(|record| record.stack.layers.clone()));
    let places = inner.places.clone();
    tokio::task::spawn_blocking(move || places.empty_trash());
    Ok(())
}

impl Inner {
    /// Discards those of `layers` that nothing stands on any more.
    pub(crate) fn release_layers(&self, layers: &[String]) {
        let _held = self.layer_use.lock().unwrap_or_else(PoisonError::into_inner);
        let used = self.used_layers();
        for layer in layers {
            if !used.contains(layer)
                && let Err(error) = self.places.discard(&self.places.layer(layer))
            {
                tracing::warn!(layer, %error, "can't discard a layer that nothing uses");
            }
        }
    }

    /// Every layer that some record names.
    pub(crate) fn used_layers(&self) -> std::collections::HashSet<String> {
        let mut used = std::collections::HashSet::new();
        for live in self.all() {
            live.look(|record| {
                used.extend(record.stack.layers.iter().cloned());
                if let Phase::Freezing { layer, .. } = &record.phase {
                    used.insert(layer.clone());
                }
            });
        }
        for snapshot in self.snapshots.read().unwrap_or_else(PoisonError::into_inner).values() {
            used.extend(snapshot.stack.layers.iter().cloned());
        }
        for template in self.templates.read().unwrap_or_else(PoisonError::into_inner).values() {
            for build in template.builds.values() {
                used.extend(build.stack.iter().flat_map(|stack| stack.layers.iter().cloned()));
            }
        }
        for step in self.steps.read().unwrap_or_else(PoisonError::into_inner).values() {
            used.extend(step.stack.layers.iter().cloned());
        }
        used
    }
}
