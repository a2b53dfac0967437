//! Sandboxes of the default template, started before anybody asks: a create then only has to tell one of them who it is.
//!
//! They are in no record. After a crash of the server their directories are found to be nobody's and are removed.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::ids;
use crate::keeper::{self, Keeper};
use crate::lifecycle::start::lowers;
use crate::node::Inner;
use crate::record::Stack;

/// What waits.
#[derive(Debug)]
pub(crate) struct Pool {
    wanted: usize,
    ready: Mutex<VecDeque<(String, Stack, Keeper)>>,
    is_filling: AtomicBool,
    is_closed: AtomicBool,
}

impl Pool {
    pub(crate) fn new(wanted: usize) -> Self {
        Pool {
            wanted,
            ready: Mutex::default(),
            is_filling: AtomicBool::new(false),
            is_closed: AtomicBool::new(false),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Takes one that stands on these layers.
    pub(crate) fn take(&self, stack: &Stack) -> Option<(String, Keeper)> {
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        let index = ready
            .iter()
            .position(|(_, had, _)| had.layers == stack.layers && had.host_system == stack.host_system)?;
        ready.remove(index).map(|(id, _, keeper)| (id, keeper))
    }
}

impl Inner {
    /// Starts what is missing in the pool, one after the other, in the background.
    pub(crate) fn refill_pool(self: &Arc<Self>) {
        if self.pool.wanted == 0 || self.pool.is_filling.swap(true, Ordering::AcqRel) {
            return;
        }
        let inner = Arc::clone(self);
        tokio::spawn(async move {
            while inner.pool.len() < inner.pool.wanted && !inner.pool.is_closed.load(Ordering::Acquire) {
                if let Err(error) = inner.add_to_pool().await {
                    tracing::warn!(error, "can't start a sandbox for the pool");
                    break;
                }
            }
            inner.pool.is_filling.store(false, Ordering::Release);
        });
    }

    async fn add_to_pool(&self) -> Result<(), String> {
        let Some(stack) = crate::templates::default_stack(self) else {
            return Err("there is no default template".to_owned());
        };
        let id = ids::sandbox();
        let started = async {
            let _turn = self.starting.acquire().await.map_err(|error| error.to_string())?;
            let keeper = keeper::start(
                &self.places,
                &self.config.executable,
                &id,
                lowers(self, &stack.layers),
                stack.host_system,
                &self.config.limits,
            )
            .await?;
            // Answered once, so that what waits is awake and not still being loaded.
            let directory = self.places.sandbox(&id);
            crate::agent::request(&directory, http::Method::GET, "/health", None, Vec::new())
                .await
                .map_err(|error| error.to_string())?;
            Ok::<_, String>(keeper)
        };
        match started.await {
            Ok(keeper) => {
                let mut ready = self.pool.ready.lock().unwrap_or_else(PoisonError::into_inner);
                ready.push_back((id, stack, keeper));
                Ok(())
            }
            Err(error) => {
                drop(self.places.discard(&self.places.sandbox(&id)));
                Err(error)
            }
        }
    }

    /// Ends everything that waits.
    pub(crate) async fn drain_pool(&self) {
        self.pool.is_closed.store(true, Ordering::Release);
        loop {
            let next = self
                .pool
                .ready
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop_front();
            let Some((id, _, keeper)) = next else { break };
            keeper.end().await;
            drop(self.places.discard(&self.places.sandbox(&id)));
        }
        self.places.empty_trash();
    }
}
