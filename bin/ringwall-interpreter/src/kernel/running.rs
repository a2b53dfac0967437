//! A kernel that runs: requests go out, steps come back.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jupyter_protocol::{ConnectionInfo, ExecuteRequest, InterruptRequest, KernelInfoRequest};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use super::iopub::{Iopub, Published, Share};
use super::launch::{self, ConnectionDirectory, StartKernelError};
use super::message::{Content, Outgoing, Reply, Signer};
use super::process::KernelProcess;
use super::spec::{Interruption, KernelSpec, Places};
use super::zmtp::{Connection, Received, SocketKind};
use crate::language::Language;

/// How long a kernel may take to accept a request.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a control request may take.
const CONTROL_TIMEOUT: Duration = Duration::from_secs(2);
/// How long to wait for an answer to kernel_info before asking again: what is published before the kernel has seen our
/// subscription is lost.
const ASK_AGAIN: Duration = Duration::from_millis(200);
/// After the reply, how long nothing may be published before the request counts as done: "idle" can be lost when the
/// kernel's queue was full.
const IDLE_TIMEOUT: Duration = Duration::from_secs(2);
/// After the kernel's death, how long to read what it published before.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_millis(500);

/// A running kernel; dropping it kills it.
#[derive(Debug)]
pub(crate) struct Kernel {
    process: KernelProcess,
    shell: Connection,
    iopub: Iopub,
    signer: Arc<Signer>,
    info: ConnectionInfo,
    interruption: Interruption,
    linger: Duration,
    _directory: ConnectionDirectory,
}

/// A request under way.
#[derive(Debug)]
pub(crate) struct Running {
    id: String,
    published: mpsc::Receiver<(Published, Share)>,
    reply: Option<Reply>,
    is_idle: bool,
    /// Whether the deadline is that of late output.
    is_lingering: bool,
    death: Option<String>,
    /// When it counts as done although the kernel didn't say so.
    deadline: Option<Instant>,
}

/// What happens next to a request under way.
#[derive(Debug)]
pub(crate) enum Step {
    /// The kernel published something for it.
    Output(Content, Share),
    /// The kernel published something of this many bytes, which is too long.
    Oversized(u64),
    /// It is done.
    Done(Reply),
    /// The kernel died, for this reason.
    Died(String),
}

impl Kernel {
    /// Starts the kernel for `language` in `cwd`.
    ///
    /// # Errors
    /// There is none, or it doesn't start.
    pub(crate) async fn start(places: &Places, language: &Language, cwd: &Path) -> Result<Self, StartKernelError> {
        launch::start(places, language, cwd).await
    }

    pub(super) fn new(
        process: KernelProcess,
        shell: Connection,
        iopub: Iopub,
        signer: Arc<Signer>,
        spec: &KernelSpec,
        info: ConnectionInfo,
        directory: ConnectionDirectory,
    ) -> Self {
        Self {
            process,
            shell,
            iopub,
            signer,
            info,
            interruption: spec.interruption,
            linger: spec.linger,
            _directory: directory,
        }
    }

    /// Waits until the kernel both replies and publishes; false if it doesn't until `deadline`.
    pub(super) async fn wait_until_ready(&mut self, deadline: Instant) -> bool {
        while Instant::now() < deadline {
            let Ok(request) = self.signer.encode(KernelInfoRequest {}) else {
                return false;
            };
            let Some(mut running) = self.send(request).await else {
                return false;
            };
            loop {
                match timeout(ASK_AGAIN, self.next(&mut running)).await {
                    Ok(Step::Done(_)) if running.is_idle => return true,
                    Ok(Step::Died(_)) => return false,
                    // Not subscribed yet, or not listening yet: ask again.
                    Ok(Step::Done(_)) | Err(_) => break,
                    Ok(_) => {}
                }
            }
        }
        false
    }

    /// Whether it can take requests.
    pub(crate) fn is_alive(&mut self) -> bool {
        self.process.is_running() && self.iopub.is_open()
    }

    /// The end of what it wrote to standard error.
    pub(super) fn error_tail(&self) -> String {
        self.process.error_tail()
    }

    /// Asks it to run `code`; `is_silent` leaves no trace in its history. `None` if it can't be asked.
    pub(crate) async fn execute(&mut self, code: String, is_silent: bool) -> Option<Running> {
        let request = self.signer.encode(ExecuteRequest {
            code,
            silent: is_silent,
            store_history: !is_silent,
            user_expressions: None,
            allow_stdin: false,
            // Requests come one at a time; an error must not abort the next.
            stop_on_error: false,
        });
        self.send(request.ok()?).await
    }

    async fn send(&mut self, request: Outgoing) -> Option<Running> {
        let published = self.iopub.subscribe();
        let sent = timeout(SEND_TIMEOUT, self.shell.send(&request.frames)).await;
        if !matches!(sent, Ok(Ok(()))) {
            // Half a request may be on the way, so the connection is of no more use.
            self.process.kill();
            return None;
        }
        Some(Running {
            id: request.id,
            published,
            reply: None,
            is_idle: false,
            is_lingering: false,
            death: None,
            deadline: None,
        })
    }

    /// Waits for what happens next. Cancel safe.
    pub(crate) async fn next(&mut self, running: &mut Running) -> Step {
        let mut is_published_open = true;
        loop {
            if running.is_idle
                && self.linger.is_zero()
                && let Some(reply) = running.reply.take()
            {
                return Step::Done(reply);
            }
            if !is_published_open && let Some(reason) = running.death.take() {
                return Step::Died(reason);
            }
            let deadline = running.deadline;
            tokio::select! {
                biased;
                published = running.published.recv(), if is_published_open => match published {
                    Some((published, share)) => {
                        if let Some(step) = running.take(published, share, self.linger) {
                            return step;
                        }
                    }
                    None => is_published_open = false,
                },
                reason = self.process.wait(), if running.death.is_none() => {
                    running.death = Some(reason);
                    running.deadline = Some(Instant::now() + LAST_WORDS_TIMEOUT);
                }
                received = self.shell.receive(), if running.reply.is_none() && running.death.is_none() => match received {
                    Ok(Received::Message(frames)) => {
                        if let Ok(message) = self.signer.decode(&frames)
                            && message.parent == running.id
                            && let Content::Reply(reply) = message.content
                        {
                            running.reply = Some(reply);
                            running.settle(self.linger);
                        }
                    }
                    Ok(Received::Oversized(_)) => {}
                    Err(_) => {
                        // It is dying already, or of no more use.
                        self.process.kill();
                        running.death = Some(self.process.wait().await);
                        running.deadline = Some(Instant::now() + LAST_WORDS_TIMEOUT);
                    }
                },
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    return match (running.death.take(), running.reply.take()) {
                        (Some(reason), _) => Step::Died(reason),
                        (None, reply) => Step::Done(reply.unwrap_or(Reply::Aborted)),
                    };
                }
            }
        }
    }

    /// Interrupts what it runs; `is_again` if that was tried before.
    pub(crate) async fn interrupt(&mut self, is_again: bool) {
        match self.interruption {
            Interruption::Signal => return self.process.interrupt(),
            Interruption::MessageThenSignal if is_again => return self.process.interrupt(),
            Interruption::MessageThenSignal | Interruption::Message => {}
        }
        let deadline = Instant::now() + CONTROL_TIMEOUT;
        let Ok(request) = self.signer.encode(InterruptRequest {}) else {
            return;
        };
        let port = self.info.control_port;
        if let Some(mut control) = launch::connect_port(port, SocketKind::Dealer, &self.signer, deadline).await {
            // Whether it worked shows in the request's end; the connection must stay open until the kernel has read.
            drop(timeout(CONTROL_TIMEOUT, control.send(&request.frames)).await);
            drop(timeout(CONTROL_TIMEOUT, control.receive()).await);
        }
    }

    /// Kills it; the request under way ends with [`Step::Died`].
    pub(crate) fn kill(&self) {
        self.process.kill();
    }
}

impl Running {
    /// Sets when it counts as done, once there is a reply.
    ///
    /// Waiting for "idle" begins anew with everything published for the request; lingering after it doesn't, or code
    /// that prints in the background would never be done.
    fn settle(&mut self, linger: Duration) {
        if self.reply.is_some() && self.death.is_none() && !self.is_lingering {
            self.is_lingering = self.is_idle;
            self.deadline = Some(Instant::now() + if self.is_idle { linger } else { IDLE_TIMEOUT });
        }
    }

    /// Notes what was published and says whether it is a step.
    fn take(&mut self, published: Published, share: Share, linger: Duration) -> Option<Step> {
        let message = match published {
            Published::Oversized(bytes) => return Some(Step::Oversized(bytes)),
            Published::Message(message) => message,
        };
        if message.parent != self.id {
            return None;
        }
        self.is_idle |= message.content == Content::Idle;
        self.settle(linger);
        match message.content {
            Content::Idle | Content::Other | Content::Reply(_) => None,
            content => Some(Step::Output(content, share)),
        }
    }
}
