//! From the server's thread to the VMM's and back: a channel for requests, an eventfd that wakes the VMM's poll loop, and a channel for each
//! answer.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::time::Duration;

use ringwall_vmm_proto::{Action, Answer, Fault, FaultStatus};
use vmm_sys_util::eventfd::EventFd;

/// How often it is looked whether the VM has ended while its thread does not answer: that may be stuck for ever in a page that nobody brings.
const LOOK: Duration = Duration::from_millis(20);

/// A request for the VMM's thread. Dropping it without an answer tells the client that the VMM failed.
#[derive(Debug)]
pub struct ApiRequest {
    /// What is asked for.
    pub action: Action,
    reply: SyncSender<Result<Answer, Fault>>,
}

impl ApiRequest {
    /// A request, and where its answer arrives: for those who drive the VMM without the server (a configuration file, tests).
    pub fn new(action: Action) -> (Self, Receiver<Result<Answer, Fault>>) {
        let (reply, answer) = sync_channel(1);
        (Self { action, reply }, answer)
    }

    /// Takes the request apart, so that the action can be moved and the answer be given later.
    pub fn into_parts(self) -> (Action, impl FnOnce(Result<Answer, Fault>)) {
        let Self { action, reply } = self;
        // A client that is gone needs no answer.
        (action, move |outcome| drop(reply.try_send(outcome)))
    }
}

/// The server's end.
#[derive(Debug)]
pub struct Link {
    /// `None` only while being dropped.
    requests: Option<Sender<ApiRequest>>,
    wake: EventFd,
}

/// Why a request couldn't be handed over.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The eventfd can't be written.
    #[error("can't wake the VMM's thread")]
    Wake(#[source] io::Error),
}

/// The VMM's thread is woken, so that it sees that no more requests come (`TryRecvError::Disconnected`).
impl Drop for Link {
    fn drop(&mut self) {
        drop(self.requests.take());
        // Nobody listens if this fails.
        drop(self.wake.write(1));
    }
}

impl Link {
    /// A link, and the receiver for the VMM's thread. `wake` becomes readable with each request; the VMM reads it, then takes requests with
    /// `try_recv` until there is none.
    pub fn new(wake: EventFd) -> (Self, Receiver<ApiRequest>) {
        let (requests, receiver) = channel();
        (
            Self {
                requests: Some(requests),
                wake,
            },
            receiver,
        )
    }

    /// Hands an action over and waits for its outcome, but not beyond the VM's end.
    pub(crate) fn call(&self, action: Action, is_over: impl Fn() -> bool) -> Result<Answer, Fault> {
        let (request, answer) = ApiRequest::new(action);
        let ended = || Fault::new(FaultStatus::Internal, &"the VMM has ended");
        let gone = || Fault::new(FaultStatus::Internal, &"the VMM ended before it answered");
        self.requests
            .as_ref()
            .ok_or_else(ended)?
            .send(request)
            .map_err(|_| ended())?;
        self.wake
            .write(1)
            .map_err(|error| Fault::new(FaultStatus::Internal, &LinkError::Wake(error)))?;
        loop {
            match answer.recv_timeout(LOOK) {
                Ok(outcome) => return outcome,
                Err(RecvTimeoutError::Timeout) if !is_over() => {}
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return Err(gone()),
            }
        }
    }
}
