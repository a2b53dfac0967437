//! A context: a language, a working directory and a kernel whose state lasts from one execution to the next.
//!
//! Executions take tickets and run one at a time, in order. Restarting withdraws the tickets given out.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::Serialize;
use tokio::sync::{Mutex, OwnedMutexGuard, watch};

use crate::kernel::{Kernel, Places, StartKernelError};
use crate::language::Language;

/// Most executions that may wait while another runs.
const MAX_WAITING: usize = 64;

/// The right to use a context's kernel; holds none before the first use and after it has died.
pub(crate) type Slot = OwnedMutexGuard<Option<Kernel>>;

/// A context.
#[derive(Debug)]
pub(crate) struct Context {
    id: String,
    language: Language,
    cwd: PathBuf,
    places: Arc<Places>,
    kernel: Arc<Mutex<Option<Kernel>>>,
    tickets: AtomicUsize,
    withdrawals: watch::Sender<u64>,
}

/// A context as shown to clients.
#[derive(Debug, Serialize)]
pub(crate) struct ContextView {
    id: String,
    language: String,
    cwd: String,
}

impl Context {
    /// Makes a context without a kernel.
    pub(crate) fn new(language: Language, cwd: PathBuf, places: Arc<Places>) -> Arc<Self> {
        Arc::new(Self {
            id: uuid::Uuid::new_v4().to_string(),
            language,
            cwd,
            places,
            kernel: Arc::default(),
            tickets: AtomicUsize::new(0),
            withdrawals: watch::Sender::new(0),
        })
    }

    /// Its identifier.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Its language.
    pub(crate) fn language(&self) -> &Language {
        &self.language
    }

    /// What clients see of it.
    pub(crate) fn view(&self) -> ContextView {
        ContextView {
            id: self.id.clone(),
            language: self.language.to_string(),
            cwd: self.cwd.to_string_lossy().into_owned(),
        }
    }

    /// Takes a place in the queue; `None` if it is full.
    pub(crate) fn ticket(self: &Arc<Self>) -> Option<Ticket> {
        let taken = self.tickets.fetch_add(1, Ordering::Relaxed);
        // Made first, so that dropping it gives the place back.
        let ticket = Ticket {
            context: Arc::clone(self),
            withdrawn: self.withdrawals.subscribe(),
        };
        (taken <= MAX_WAITING).then_some(ticket)
    }

    /// Waits for the turn to use the kernel.
    pub(crate) async fn slot(&self) -> Slot {
        Arc::clone(&self.kernel).lock_owned().await
    }

    /// The right to use the kernel, if nobody has it.
    pub(crate) fn free_slot(&self) -> Option<Slot> {
        Arc::clone(&self.kernel).try_lock_owned().ok()
    }

    /// Starts a kernel unless one is alive.
    ///
    /// # Errors
    /// There is none for the language, or it doesn't start.
    pub(crate) async fn ensure_kernel(&self, slot: &mut Slot) -> Result<(), StartKernelError> {
        if slot.as_mut().is_some_and(Kernel::is_alive) {
            return Ok(());
        }
        // The old one's memory is needed for the new one.
        **slot = None;
        **slot = Some(Kernel::start(&self.places, &self.language, &self.cwd).await?);
        Ok(())
    }

    /// Ends the executions that run and wait, and the kernel.
    pub(crate) async fn stop(&self) -> Slot {
        self.withdrawals.send_modify(|count| *count += 1);
        let mut slot = self.slot().await;
        *slot = None;
        slot
    }
}

/// An execution's place in a context's queue; dropping it gives the place back.
#[derive(Debug)]
pub(crate) struct Ticket {
    context: Arc<Context>,
    withdrawn: watch::Receiver<u64>,
}

impl Ticket {
    /// The context.
    pub(crate) fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// Changes when the ticket is withdrawn.
    pub(crate) fn withdrawn(&self) -> watch::Receiver<u64> {
        self.withdrawn.clone()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.context.tickets.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_queue_is_bounded_and_places_come_back() {
        let context = Context::new(Language::Python, "/".into(), Arc::default());
        let tickets: Vec<_> = (0..=MAX_WAITING).map(|_| context.ticket().unwrap()).collect();
        assert!(context.ticket().is_none());
        assert!(context.ticket().is_none(), "a refusal takes no place");
        drop(tickets);
        assert!(context.ticket().is_some());
    }
}
