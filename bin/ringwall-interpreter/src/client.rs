//! The client's end of an execution: lines go in on one side and leave as the response's body on the other.
//!
//! When the client hangs up the HTTP server drops the body; the execution notices.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, sleep_until};

use crate::event::Event;

/// After this long without a line a keepalive is sent.
const KEEPALIVE: Duration = Duration::from_secs(5);
/// Lines that may wait for the connection; their bytes are bounded by the kernel's budget.
const QUEUED_LINES: usize = 64;

#[derive(Debug)]
struct Line {
    bytes: Bytes,
    /// Given back when the connection takes the line.
    _share: Option<OwnedSemaphorePermit>,
}

/// Where an execution's lines go.
#[derive(Debug)]
pub(crate) struct Client {
    lines: mpsc::Sender<Line>,
    last_line: Instant,
}

/// The body of an execution's response.
#[derive(Debug)]
pub(crate) struct EventBody(mpsc::Receiver<Line>);

/// Makes both ends.
pub(crate) fn channel() -> (Client, EventBody) {
    let (lines, body) = mpsc::channel(QUEUED_LINES);
    (
        Client {
            lines,
            last_line: Instant::now(),
        },
        EventBody(body),
    )
}

impl Client {
    /// Sends a line and waits while the client is slow; a line for a client that is gone is dropped.
    pub(crate) async fn send(&mut self, event: &Event, share: Option<OwnedSemaphorePermit>) {
        if !self.is_gone() {
            drop(
                self.lines
                    .send(Line {
                        bytes: event.to_line(),
                        _share: share,
                    })
                    .await,
            );
            self.last_line = Instant::now();
        }
    }

    /// Sends a keepalive, unless lines are waiting anyway.
    pub(crate) fn keep_alive(&mut self) {
        drop(self.lines.try_send(Line {
            bytes: Event::Keepalive.to_line(),
            _share: None,
        }));
        self.last_line = Instant::now();
    }

    /// Waits until a keepalive is due.
    pub(crate) async fn silence(&self) {
        sleep_until(self.last_line + KEEPALIVE).await;
    }

    /// Whether the client has hung up.
    pub(crate) fn is_gone(&self) -> bool {
        self.lines.is_closed()
    }

    /// Waits until the client hangs up.
    pub(crate) async fn gone(&self) {
        self.lines.closed().await;
    }
}

impl http_body::Body for EventBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0
            .poll_recv(context)
            .map(|line| line.map(|line| Ok(Frame::data(line.bytes))))
    }
}
