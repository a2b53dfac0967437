//! One client: bytes in, requests out, answers back, in order.
//!
//! ```text
//!          first byte             whole request, answered            answer sent
//! idle ---------------> reading -----------------------> writing ----------------> idle, or the next request that is here already
//!                          |  not a request, or too slow     |
//!                          '--------> writing, last ---------'--> draining --> gone
//!                          '--------> following (the VM's events) ---^
//! ```
//!
//! Draining: a socket that is closed with unread bytes resets the connection, and the client might lose the answer; so the rest is read and
//! thrown away, for a moment.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;

use super::head::{self, Head, MAX_HEAD_BYTES};
use super::response::{self, Notes};
use super::server::Limits;
use ringwall_vmm_proto::Rendered;

/// Bytes per read. One read per turn of the loop, so nobody is served longer than others.
const READ_BYTES: usize = 8 * 1024;

/// How long the rest of a refused request is thrown away.
const DRAIN: Duration = Duration::from_secs(1);

/// Time for a first request before a connection may be ended in favour of another.
const FIRST_REQUEST: Duration = Duration::from_secs(1);

/// Most bytes that are thrown away.
const DRAIN_BYTES: usize = 1 << 20;

/// What a connection does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing of a request is here.
    Idle,
    /// A part of a request is here; the rest must come until the deadline.
    Reading,
    /// An answer isn't sent whole yet; the client must take it until the deadline.
    Writing,
    /// The answer is what happens to the VM; it is sent as it happens, and the client must take each part in its time.
    Following,
    /// The last answer is sent.
    Draining,
    /// Nothing will come of it any more.
    Gone,
}

/// A request that is here whole.
#[derive(Debug)]
pub(crate) struct Complete {
    /// Its head.
    pub(crate) head: Head,
    /// Its body.
    pub(crate) body: Vec<u8>,
}

/// A client.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: UnixStream,
    phase: Phase,
    /// When the phase began, or ends if it can't last.
    since: Instant,
    deadline: Option<Instant>,
    input: Vec<u8>,
    output: Vec<u8>,
    sent: usize,
    has_ended: bool,
    is_last: bool,
    has_continued: bool,
    has_been_answered: bool,
    drained: usize,
    /// How many events were told.
    told: usize,
}

impl Connection {
    /// A client that has just connected.
    pub(crate) fn new(stream: UnixStream, now: Instant) -> Self {
        Self {
            stream,
            phase: Phase::Idle,
            since: now,
            deadline: None,
            input: Vec::new(),
            output: Vec::new(),
            sent: 0,
            has_ended: false,
            is_last: false,
            has_continued: false,
            has_been_answered: false,
            drained: 0,
            told: 0,
        }
    }

    /// What to wait for. Nothing is read while an answer isn't sent: a client that doesn't read can't make us keep more.
    pub(crate) fn interest(&self) -> PollFlags {
        match self.phase {
            Phase::Idle | Phase::Reading if self.has_unsent() => PollFlags::IN | PollFlags::OUT,
            Phase::Idle | Phase::Reading | Phase::Draining => PollFlags::IN,
            Phase::Writing => PollFlags::OUT,
            Phase::Following => {
                let mut wanted = PollFlags::empty();
                // Once it has ended it stays readable.
                wanted.set(PollFlags::IN, !self.has_ended);
                wanted.set(PollFlags::OUT, self.has_unsent());
                wanted
            }
            Phase::Gone => PollFlags::empty(),
        }
    }

    /// When it has to be looked at, even if nothing comes.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Whether it can be forgotten.
    pub(crate) fn is_gone(&self) -> bool {
        self.phase == Phase::Gone
    }

    /// Whether it is told what happens.
    pub(crate) fn is_following(&self) -> bool {
        self.phase == Phase::Following
    }

    /// How many events it was told.
    pub(crate) fn told(&self) -> usize {
        self.told
    }

    /// Begins to tell it what happens; that is the last answer.
    pub(crate) fn follow(&mut self, now: Instant) {
        self.input = Vec::new();
        self.output.extend_from_slice(response::EVENTS);
        self.enter(Phase::Following, None, now);
    }

    /// Tells it what happened since, and that it is over.
    pub(crate) fn tell(&mut self, lines: &[String], is_over: bool, now: Instant, limits: &Limits) {
        for line in lines {
            response::write_chunk(&mut self.output, line);
        }
        self.told = self.told.saturating_add(lines.len());
        if is_over && !self.is_last {
            self.is_last = true;
            self.output.extend_from_slice(response::LAST_CHUNK);
        }
        self.write(now, limits);
    }

    /// Since when it has been idle, if it may be ended for that: at once after an answer, but one that has just connected has a moment for its
    /// first request.
    pub(crate) fn idle_since(&self, now: Instant) -> Option<Instant> {
        let may_end = self.has_been_answered || now.saturating_duration_since(self.since) >= FIRST_REQUEST;
        (self.phase == Phase::Idle && may_end).then_some(self.since)
    }

    /// Forgets it.
    pub(crate) fn abandon(&mut self) {
        self.phase = Phase::Gone;
        self.deadline = None;
    }

    /// Gives it more time: the server was busy with somebody else.
    pub(crate) fn postpone(&mut self, by: Duration) {
        self.deadline = self.deadline.and_then(|deadline| deadline.checked_add(by));
    }

    /// Reads what has come, at most one buffer.
    pub(crate) fn read(&mut self, now: Instant, limits: &Limits) {
        let mut buffer = [0; READ_BYTES];
        match self.stream.read(&mut buffer) {
            Ok(0) => self.end(),
            Ok(count) => self.take(buffer.get(..count).unwrap_or_default(), now, limits),
            Err(error) if is_transient(&error) => {}
            Err(_) => self.abandon(),
        }
    }

    /// Sends what can be sent.
    pub(crate) fn write(&mut self, now: Instant, limits: &Limits) {
        while let Some(unsent) = self.output.get(self.sent..).filter(|unsent| !unsent.is_empty()) {
            match self.stream.write(unsent) {
                Ok(count) => self.sent = self.sent.saturating_add(count),
                Err(error) if is_transient(&error) => {
                    // Other answers have had theirs since they began.
                    if self.phase == Phase::Following && self.deadline.is_none() {
                        self.deadline = now.checked_add(limits.write_timeout);
                    }
                    return;
                }
                Err(_) => return self.abandon(),
            }
        }
        self.output.clear();
        self.sent = 0;
        match self.phase {
            Phase::Writing => self.after_answer(now, limits),
            Phase::Following if self.is_last => self.after_answer(now, limits),
            Phase::Following => self.deadline = None,
            Phase::Idle | Phase::Reading | Phase::Draining | Phase::Gone => {}
        }
    }

    /// The next request that is here whole; answer it before asking for another one. What can't become a request is answered here.
    pub(crate) fn next_request(&mut self, now: Instant, limits: &Limits) -> Option<Complete> {
        if !matches!(self.phase, Phase::Idle | Phase::Reading) {
            return None;
        }
        let head = match head::read(&self.input, limits.body_bytes) {
            Ok(Some(head)) => head,
            Ok(None) => {
                self.give_up_if_ended();
                return None;
            }
            Err(error) => {
                self.refuse(&response::refusal(error.status(), &error), now, limits);
                return None;
            }
        };
        let whole = head.head_bytes.saturating_add(head.body_bytes);
        let Some(body) = self.input.get(head.head_bytes..whole) else {
            if head.expects_continue && !self.has_continued {
                self.has_continued = true;
                self.output.extend_from_slice(response::CONTINUE);
                self.write(now, limits);
            }
            self.give_up_if_ended();
            return None;
        };
        let body = body.to_vec();
        self.input.drain(..whole);
        self.input.shrink_to(READ_BYTES);
        self.has_continued = false;
        Some(Complete { head, body })
    }

    /// Answers the request that [`Self::next_request`] gave.
    pub(crate) fn answer(&mut self, rendered: &Rendered, notes: Notes, now: Instant, limits: &Limits) {
        self.is_last |= !notes.keeps_alive;
        self.has_been_answered = true;
        response::write(&mut self.output, rendered, notes);
        self.enter(Phase::Writing, now.checked_add(limits.write_timeout), now);
        self.write(now, limits);
    }

    /// Answers what isn't a request; it is the last answer.
    pub(crate) fn refuse(&mut self, rendered: &Rendered, now: Instant, limits: &Limits) {
        self.input = Vec::new();
        self.answer(
            rendered,
            Notes {
                keeps_alive: false,
                is_deprecated: false,
            },
            now,
            limits,
        );
    }

    /// Does what is due if the deadline is over.
    pub(crate) fn expire(&mut self, now: Instant, limits: &Limits) {
        if self.deadline.is_none_or(|deadline| now < deadline) {
            return;
        }
        match self.phase {
            Phase::Reading => self.refuse(
                &response::refusal(408, &"the request took too long to arrive"),
                now,
                limits,
            ),
            Phase::Idle | Phase::Writing | Phase::Following | Phase::Draining | Phase::Gone => self.abandon(),
        }
    }

    fn take(&mut self, bytes: &[u8], now: Instant, limits: &Limits) {
        // Nothing that a follower sends is answered.
        if matches!(self.phase, Phase::Draining | Phase::Following) {
            self.drained = self.drained.saturating_add(bytes.len());
            if self.drained > DRAIN_BYTES {
                self.abandon();
            }
            return;
        }
        // Bounded: a request that is here whole is taken out before more is read, and one that can't become whole is refused.
        debug_assert!(self.input.len() <= MAX_HEAD_BYTES.saturating_add(limits.body_bytes));
        self.input.extend_from_slice(bytes);
        if self.phase == Phase::Idle {
            self.enter(Phase::Reading, now.checked_add(limits.request_timeout), now);
        }
    }

    /// The client sends no more. It may still read: what is here whole is answered.
    fn end(&mut self) {
        self.has_ended = true;
        let is_answered = self.input.is_empty() && !self.has_unsent();
        if self.phase == Phase::Draining || is_answered && self.phase != Phase::Following {
            self.abandon();
        }
    }

    fn give_up_if_ended(&mut self) {
        if self.has_ended {
            self.abandon();
        }
    }

    fn after_answer(&mut self, now: Instant, limits: &Limits) {
        if self.is_last {
            if self.has_ended || self.stream.shutdown(std::net::Shutdown::Write).is_err() {
                return self.abandon();
            }
            return self.enter(Phase::Draining, now.checked_add(DRAIN), now);
        }
        if self.input.is_empty() {
            self.enter(Phase::Idle, None, now);
            return self.give_up_if_ended();
        }
        self.enter(Phase::Reading, now.checked_add(limits.request_timeout), now);
    }

    fn enter(&mut self, phase: Phase, deadline: Option<Instant>, now: Instant) {
        self.phase = phase;
        self.deadline = deadline;
        self.since = now;
    }

    fn has_unsent(&self) -> bool {
        self.sent < self.output.len()
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
