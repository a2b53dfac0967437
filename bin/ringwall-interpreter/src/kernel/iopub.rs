//! What the kernel publishes: read all the time, handed to the execution that runs, dropped when none does.
//!
//! Memory is bounded by a budget of bytes for each execution: a message takes its size from it until the client's
//! connection has accepted what became of it. When it is used up (the client is slow) nothing more is read, so the
//! kernel's own queue fills.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;

use super::message::{Incoming, Signer};
use super::zmtp::{Connection, Received};

/// Bytes of published messages under way at a time; a longer message waits until it is the only one.
const BUDGET_BYTES: u32 = 16 * 1024 * 1024;
/// Messages under way at a time; their bytes are what is really bounded.
const QUEUED_MESSAGES: usize = 256;

/// What the kernel published.
#[derive(Debug)]
pub(crate) enum Published {
    /// A message.
    Message(Incoming),
    /// A message of this many bytes, too long to be passed on.
    Oversized(u64),
}

/// Its share of the budget; dropped when the client's connection has accepted it.
pub(crate) type Share = OwnedSemaphorePermit;

/// Where messages go at the moment.
#[derive(Debug, Clone)]
struct Destination {
    sender: mpsc::Sender<(Published, Share)>,
    /// One for each execution: a client that never reads the end of its answer must not hold up the next one's.
    budget: Arc<Semaphore>,
}

type Route = Arc<Mutex<Option<Destination>>>;

/// The reader of one kernel's publications.
#[derive(Debug)]
pub(crate) struct Iopub {
    route: Route,
    reader: JoinHandle<()>,
}

impl Iopub {
    /// Starts reading.
    pub(crate) fn start(connection: Connection, signer: Arc<Signer>) -> Self {
        let route = Route::default();
        let reader = tokio::spawn(read(connection, signer, Arc::clone(&route)));
        Self { route, reader }
    }

    /// Sends what is published from now on to the receiver returned, which ends when the kernel hangs up.
    pub(crate) fn subscribe(&self) -> mpsc::Receiver<(Published, Share)> {
        let (sender, receiver) = mpsc::channel(QUEUED_MESSAGES);
        if !self.reader.is_finished() {
            let budget = Arc::new(Semaphore::new(BUDGET_BYTES as usize));
            *self.route.lock().unwrap_or_else(PoisonError::into_inner) = Some(Destination { sender, budget });
        }
        receiver
    }

    /// Whether the kernel still publishes.
    pub(crate) fn is_open(&self) -> bool {
        !self.reader.is_finished()
    }
}

impl Drop for Iopub {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

async fn read(mut connection: Connection, signer: Arc<Signer>, route: Route) {
    while let Ok(received) = connection.receive().await {
        let current = route.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(Destination { sender, budget }) = current.filter(|current| !current.sender.is_closed()) else {
            continue;
        };
        let (published, bytes) = match received {
            Received::Oversized(bytes) => (Published::Oversized(bytes), 0),
            Received::Message(frames) => match signer.decode(&frames) {
                Ok(message) => (Published::Message(message), frames.iter().map(bytes::Bytes::len).sum()),
                // Neither the kernel nor its code may speak with another's voice, and a broken message says nothing.
                Err(_) => continue,
            },
        };
        let share = u32::try_from(bytes).unwrap_or(BUDGET_BYTES).min(BUDGET_BYTES);
        let Ok(share) = Arc::clone(&budget).acquire_many_owned(share).await else {
            break;
        };
        // The execution may have ended meanwhile; then nobody wants the message.
        drop(sender.send((published, share)).await);
    }
    *route.lock().unwrap_or_else(PoisonError::into_inner) = None;
}
