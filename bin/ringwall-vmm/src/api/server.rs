//! The poll loop: takes clients, serves each what is ready, and ends when it is told to.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ringwall_vmm_proto::{Fault, Method, Rendered, parse, render};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::connection::{Complete, Connection};
use super::events::EventLog;
use super::link::Link;
use super::listener::Listener;
use super::response::{self, Notes};

/// Most clients at once (Firecracker's bound), beside those who follow the VM's events.
const MAX_CONNECTIONS: usize = 10;

/// Most clients who follow the VM's events at once.
const MAX_FOLLOWERS: usize = 16;

/// Where the VM's events are. Not one of Firecracker's paths.
const EVENTS_PATH: &str = "/events";

/// Most clients that are taken per turn of the loop.
const ACCEPTS_PER_TURN: usize = 16;

/// How long nobody is taken after that failed: there may be no descriptors left, and the socket stays readable.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Bounds of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Longest body in bytes.
    pub body_bytes: usize,
    /// Time for a request to arrive, from its first byte to its last.
    pub request_timeout: Duration,
    /// Time for a client to take an answer.
    pub write_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: ringwall_vmm_proto::DEFAULT_BODY_BYTES,
            request_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(10),
        }
    }
}

/// Why the server doesn't run.
#[derive(Debug, thiserror::Error)]
pub enum StartServerError {
    /// No eventfd to stop it by, or for events.
    #[error("can't make the eventfds that wake the API")]
    EventFd(#[source] io::Error),
    /// No thread.
    #[error("can't start the API's thread")]
    Thread(#[source] io::Error),
}

/// The server.
#[derive(Debug)]
pub struct Server {
    listener: Listener,
    link: Link,
    limits: Limits,
    stopper: Stopper,
    events: EventLog,
    connections: Vec<Connection>,
    no_accept_until: Option<Instant>,
}

/// Stops a server; a cheap clone.
#[derive(Debug, Clone)]
pub struct Stopper(Arc<OwnedFd>);

impl Stopper {
    /// Makes the server end after what it does now. It doesn't wait for that.
    pub fn stop(&self) {
        // It can only fail with a counter of 64 bits at its end, and then the server is stopping already.
        let _written = rustix::io::write(&*self.0, &1_u64.to_ne_bytes());
    }
}

/// A server that runs in a thread of its own. Dropping it stops the server and waits for the thread.
#[derive(Debug)]
pub struct ServerHandle {
    stopper: Stopper,
    thread: Option<JoinHandle<()>>,
}

impl Drop for ServerHandle {
    fn drop(&mut self) {
        self.stopper.stop();
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported there.
            drop(thread.join());
        }
    }
}

impl Server {
    /// A server that doesn't run yet.
    ///
    /// # Errors
    /// [`StartServerError::EventFd`].
    pub fn new(listener: Listener, link: Link, limits: Limits) -> Result<Self, StartServerError> {
        let stop = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC);
        let stop = stop.map_err(|error| StartServerError::EventFd(error.into()))?;
        let stopper = Stopper(Arc::new(stop));
        let events = EventLog::new().map_err(StartServerError::EventFd)?;
        Ok(Self {
            listener,
            link,
            limits,
            stopper,
            events,
            connections: Vec::new(),
            no_accept_until: None,
        })
    }

    /// The same with other events to tell than none.
    #[must_use]
    pub fn with_events(mut self, events: EventLog) -> Self {
        self.events = events;
        self
    }

    /// Runs in a new thread. `first` is done there before anything else: the place for the thread's system call filter.
    ///
    /// # Errors
    /// [`StartServerError::Thread`].
    pub fn spawn(self, first: impl FnOnce() + Send + 'static) -> Result<ServerHandle, StartServerError> {
        let stopper = self.stopper();
        let run = move || {
            first();
            self.run();
        };
        let thread = std::thread::Builder::new()
            .name("api".to_owned())
            .spawn(run)
            .map_err(StartServerError::Thread)?;
        Ok(ServerHandle {
            stopper,
            thread: Some(thread),
        })
    }

    /// What stops the server when it is written, for those who call [`Self::run`] themselves.
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Serves until it is stopped.
    pub fn run(mut self) {
        while self.turn() {}
    }

    /// One turn; false when it was the last.
    fn turn(&mut self) -> bool {
        let now = Instant::now();
        let ready = match self.wait(now) {
            Ok(ready) => ready,
            // poll(2) fails for want of memory only, with these arguments.
            Err(rustix::io::Errno::INTR | rustix::io::Errno::NOMEM) => return true,
            Err(error) => {
                tracing::error!(%error, "the API can't poll its sockets and ends");
                return false;
            }
        };
        let [stop, accept, happened, clients @ ..] = ready.as_slice() else {
            return false;
        };
        if !stop.is_empty() {
            return false;
        }
        for (index, events) in clients.iter().enumerate() {
            self.serve(index, *events);
        }
        if !happened.is_empty() {
            self.events.take();
            self.tell();
        }
        let now = Instant::now();
        for connection in &mut self.connections {
            connection.expire(now, &self.limits);
        }
        self.connections.retain(|connection| !connection.is_gone());
        if self.events.is_over() && !self.connections.iter().any(Connection::is_following) {
            self.events.tell_delivered();
        }
        if !accept.is_empty() {
            self.accept(now);
        }
        true
    }

    /// Waits until something is ready: the stop, the listener, the events, then the clients in their order.
    fn wait(&self, now: Instant) -> Result<Vec<PollFlags>, rustix::io::Errno> {
        let may_accept = self.no_accept_until.is_none_or(|until| until <= now);
        let accept = if may_accept { PollFlags::IN } else { PollFlags::empty() };
        let mut fds = vec![
            PollFd::from_borrowed_fd(self.stopper.0.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.listener.as_fd(), accept),
            PollFd::from_borrowed_fd(self.events.as_fd(), PollFlags::IN),
        ];
        for connection in &self.connections {
            fds.push(PollFd::from_borrowed_fd(connection.as_fd(), connection.interest()));
        }
        let deadlines = self.connections.iter().filter_map(Connection::deadline);
        let next = deadlines.chain(self.no_accept_until.filter(|_| !may_accept)).min();
        let timeout = next.map(|deadline| {
            // A millisecond more, so that the deadline is over when we wake.
            let left = deadline
                .saturating_duration_since(now)
                .saturating_add(Duration::from_millis(1));
            Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            }
        });
        poll(&mut fds, timeout.as_ref())?;
        Ok(fds.iter().map(PollFd::revents).collect())
    }

    /// Serves one client what is ready: a read, a write, and all requests that are here whole.
    fn serve(&mut self, index: usize, events: PollFlags) {
        let Some(connection) = self.connections.get_mut(index) else {
            return;
        };
        let now = Instant::now();
        if events.intersects(PollFlags::OUT) {
            connection.write(now, &self.limits);
        }
        // An error or a hang-up is seen by reading; while an answer is being sent, by writing.
        if events.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            // A follower who is gone for good: nothing else would be tried.
            if connection.is_following() && events.intersects(PollFlags::HUP | PollFlags::ERR) {
                return connection.abandon();
            }
            match connection.interest().contains(PollFlags::IN) {
                true => connection.read(now, &self.limits),
                false => connection.write(now, &self.limits),
            }
        }
        while let Some(connection) = self.connections.get_mut(index) {
            let now = Instant::now();
            let Some(request) = connection.next_request(now, &self.limits) else {
                return;
            };
            match request.head.method {
                Some(Method::Get) if request.head.target == EVENTS_PATH => self.begin_to_follow(index, now),
                _ => self.dispatch(index, &request),
            }
        }
    }

    /// Tells a client all events from now on, and all that were before.
    fn begin_to_follow(&mut self, index: usize, now: Instant) {
        let followers = self.connections.iter().filter(|other| other.is_following()).count();
        let Some(connection) = self.connections.get_mut(index) else {
            return;
        };
        if followers >= MAX_FOLLOWERS {
            let refusal = response::refusal(503, &"there are too many followers of the events");
            return connection.refuse(&refusal, now, &self.limits);
        }
        connection.follow(now);
        self.tell();
    }

    /// Tells every follower what it has not been told yet.
    fn tell(&mut self) {
        let now = Instant::now();
        for connection in &mut self.connections {
            if connection.is_following() {
                let (lines, is_over) = self.events.lines(connection.told());
                connection.tell(&lines, is_over, now, &self.limits);
            }
        }
    }

    /// Has a request done and answers it.
    fn dispatch(&mut self, index: usize, request: &Complete) {
        let began = Instant::now();
        let mut notes = Notes {
            keeps_alive: request.head.keeps_alive,
            is_deprecated: false,
        };
        let rendered = self.outcome(request, &mut notes);
        tracing::debug!(
            method = request.head.method_name.as_str(),
            target = request.head.target.as_str(),
            status = rendered.status,
            "request"
        );
        let took = began.elapsed();
        for (other, connection) in self.connections.iter_mut().enumerate() {
            if other == index {
                connection.answer(&rendered, notes, Instant::now(), &self.limits);
            } else {
                connection.postpone(took);
            }
        }
    }

    fn outcome(&self, request: &Complete, notes: &mut Notes) -> Rendered {
        let head = &request.head;
        let Some(method) = head.method else {
            // A HEAD's client would take the body of this for the next answer.
            notes.keeps_alive = false;
            return response::refusal(400, &format_args!("there is no method {}", head.method_name));
        };
        match parse(method, &head.target, &request.body) {
            Ok(request) => {
                notes.is_deprecated = request.deprecation.is_some();
                if let Some(deprecation) = request.deprecation {
                    tracing::debug!(deprecation, "a deprecated field was used");
                }
                render(&self.link.call(request.action, || self.events.is_over()))
            }
            Err(error) => render(&Err(Fault::from(error))),
        }
    }

    /// Takes the clients that wait.
    fn accept(&mut self, now: Instant) {
        self.no_accept_until = None;
        for _ in 0..ACCEPTS_PER_TURN {
            match self.listener.accept() {
                Ok(stream) => self.admit(stream, now),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // The client is gone already, or a signal came.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted
                    ) => {}
                Err(error) => {
                    tracing::warn!(%error, "can't take an API client");
                    self.no_accept_until = now.checked_add(ACCEPT_PAUSE);
                    return;
                }
            }
        }
    }

    /// Gives a client a place, or tells it that there is none.
    fn admit(&mut self, stream: UnixStream, now: Instant) {
        if self.asking() >= MAX_CONNECTIONS {
            self.evict_idle(now);
        }
        if self.asking() < MAX_CONNECTIONS {
            return self.connections.push(Connection::new(stream, now));
        }
        // A new socket takes so little without waiting; if not, the client only sees the end.
        let mut refused = Connection::new(stream, now);
        refused.refuse(
            &response::refusal(503, &"there are too many connections"),
            now,
            &self.limits,
        );
    }

    /// How many clients there are that do not only listen.
    fn asking(&self) -> usize {
        self.connections.iter().filter(|client| !client.is_following()).count()
    }

    /// Ends the connection that has been idle longest (RFC 9112 §9.5: either side may, at any time). Some clients keep one for each path that
    /// they ever asked for, which soon are more than there are places.
    fn evict_idle(&mut self, now: Instant) {
        let idle = self
            .connections
            .iter_mut()
            .filter_map(|connection| Some((connection.idle_since(now)?, connection)));
        if let Some((_, connection)) = idle.min_by_key(|(since, _)| *since) {
            connection.abandon();
            self.connections.retain(|connection| !connection.is_gone());
        }
    }
}
