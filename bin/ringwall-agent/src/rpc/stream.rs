//! The body of a server stream: frames from a bounded queue, keepalives when it is silent, and always an end.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use ringwall_agent_proto::envelope;
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep};

use super::{CallOptions, deadline_exceeded};

/// Frames that may wait for a client. Few, as one may hold 32 KiB of output: a slow client holds back its process, not our memory.
pub(crate) const QUEUE_FRAMES: usize = 2;

/// What fills a stream. Frames are made by the messages' `into_frame` or are an end of stream.
pub(crate) type FrameSender = mpsc::Sender<Bytes>;

/// Frames on their way to one client. Dropped when the client is gone, which the sender sees.
#[derive(Debug)]
pub(crate) struct EventStream {
    queue: mpsc::Receiver<Bytes>,
    keepalive: Bytes,
    silence: Pin<Box<Sleep>>,
    options: CallOptions,
    deadline: Option<Pin<Box<Sleep>>>,
    is_over: bool,
}

impl EventStream {
    /// A stream and its sender. `keepalive` is the frame for silent times.
    pub(crate) fn new(options: CallOptions, keepalive: Bytes) -> (FrameSender, Self) {
        let (sender, queue) = mpsc::channel(QUEUE_FRAMES);
        let stream = EventStream {
            queue,
            keepalive,
            silence: Box::pin(tokio::time::sleep(options.keepalive)),
            options,
            deadline: options.deadline.map(|at| Box::pin(tokio::time::sleep_until(at))),
            is_over: false,
        };
        (sender, stream)
    }

    /// The next frame; `None` after the end.
    pub(crate) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        // First, so that a client is told of its timeout and not of what it led to: a killed process.
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(context).is_ready()
        {
            return self.end(envelope::end_of_stream(Some(deadline_exceeded())));
        }
        match self.queue.poll_recv(context) {
            Poll::Ready(Some(frame)) => {
                if frame.first() == Some(&envelope::END_STREAM) {
                    return self.end(frame);
                }
                self.hush();
                Poll::Ready(Some(frame))
            }
            // The sender is gone: clients must see an end even so.
            Poll::Ready(None) => self.end(envelope::end_of_stream(None)),
            Poll::Pending => {
                if self.silence.as_mut().poll(context).is_pending() {
                    return Poll::Pending;
                }
                self.hush();
                Poll::Ready(Some(self.keepalive.clone()))
            }
        }
    }

    fn end(&mut self, frame: Bytes) -> Poll<Option<Bytes>> {
        self.is_over = true;
        self.queue.close();
        Poll::Ready(Some(frame))
    }

    fn hush(&mut self) {
        let now = Instant::now();
        let next = now.checked_add(self.options.keepalive).unwrap_or(now);
        self.silence.as_mut().reset(next);
    }
}
