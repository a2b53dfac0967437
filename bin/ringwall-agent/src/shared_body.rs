//! A request's body that can still be read to its end when whoever was given it has enough.
//!
//! A form ends before its body does, and a refusal comes before both. A client, or a proxy, that is still writing when the connection closes
//! may lose the answer to the error of its write. So every request has such a body, and `server.rs` reads what its answer left.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming, SizeHint};

/// Most that is read of what nobody wants, and for how long.
const MAX_DRAINED_BYTES: usize = 4 * 1024 * 1024;
const PATIENCE: Duration = Duration::from_secs(2);

/// The body; clones read the same one.
#[derive(Debug, Clone)]
pub(crate) struct SharedBody(Arc<Mutex<Incoming>>);

impl SharedBody {
    pub(crate) fn new(body: Incoming) -> Self {
        SharedBody(Arc::new(Mutex::new(body)))
    }

    /// Reads what is left and keeps nothing of it, if its sender said how long it is: then that is on its way. A stream without an end in
    /// sight may be one whose sender waits for the answer.
    pub(crate) async fn drain_known(self) {
        if self.size_hint().exact().is_some_and(|left| left > 0) {
            self.drain().await;
        }
    }

    /// Reads what is left and keeps nothing of it.
    pub(crate) async fn drain(mut self) {
        let read = async {
            let mut bytes = 0;
            while let Some(Ok(frame)) = self.frame().await {
                bytes += frame.data_ref().map_or(0, Bytes::len);
                if bytes > MAX_DRAINED_BYTES {
                    break;
                }
            }
        };
        drop(tokio::time::timeout(PATIENCE, read).await);
    }
}

impl Body for SharedBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        // Never held over a wait, and all on one thread.
        let mut body = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Pin::new(&mut *body).poll_frame(context)
    }

    fn size_hint(&self) -> SizeHint {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).size_hint()
    }
}
