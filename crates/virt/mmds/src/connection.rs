//! A guest's connection: requests in, answers out, one after the other.
//!
//! ```text
//! Free -SYN-> Opening -ACK-> Idle -bytes-> Reading -whole-> Writing -sent-> Idle, or Closing -> Over -> Free
//! ```
//! In each phase but the first and last a connection may stay only so long; then it is reset.

use std::time::{Duration, Instant};

use smoltcp::socket::tcp::{Socket, State};

use crate::request::{self, MAX_REQUEST_BYTES, Method, Request};
use crate::response::Response;
use crate::service::Service;

/// What a connection does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Nobody has it.
    Free,
    /// A guest has begun to connect.
    Opening,
    /// No request has begun.
    Idle,
    /// A part of a request is there.
    Reading,
    /// An answer is on its way.
    Writing,
    /// One side has said that it is over, or both do.
    Closing,
    /// Both have, and late packets are waited for (TIME-WAIT, RFC 9293 §3.3.2); TCP itself ends that.
    Over,
}

impl Phase {
    /// How long a connection may be in it. Ours; a guest in memory answers in microseconds.
    const fn limit(self) -> Option<Duration> {
        match self {
            Self::Free | Self::Over => None,
            Self::Opening | Self::Closing => Some(Duration::from_secs(5)),
            Self::Reading => Some(Duration::from_secs(10)),
            Self::Idle => Some(Duration::from_secs(30)),
            Self::Writing => Some(Duration::from_secs(60)),
        }
    }
}

/// A connection, beside its socket.
#[derive(Debug)]
pub(crate) struct Connection {
    phase: Phase,
    since: Instant,
    input: Vec<u8>,
    /// It was looked at and is no whole request yet: it isn't looked at again for every frame of another connection.
    is_partial: bool,
    output: Vec<u8>,
    sent: usize,
    /// Nothing follows the answer that is on its way.
    is_last: bool,
}

impl Connection {
    pub(crate) const fn new(now: Instant) -> Self {
        Self {
            phase: Phase::Free,
            since: now,
            input: Vec::new(),
            is_partial: false,
            output: Vec::new(),
            sent: 0,
            is_last: false,
        }
    }

    pub(crate) const fn phase(&self) -> Phase {
        self.phase
    }

    pub(crate) const fn since(&self) -> Instant {
        self.since
    }

    /// When it is reset if nothing happens.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.since.checked_add(self.phase.limit()?)
    }

    /// Bytes of the answer that is kept for the guest.
    pub(crate) fn held_bytes(&self) -> usize {
        self.output.len()
    }

    /// Does what its socket lets it do: one request at most. Returns whether something moved.
    pub(crate) fn serve(&mut self, socket: &mut Socket<'_>, service: &Service, now: Instant, has_memory: bool) -> bool {
        match socket.state() {
            State::Closed | State::Listen => {
                if self.phase != Phase::Free {
                    *self = Self::new(now);
                }
                return false;
            }
            State::SynReceived if self.phase == Phase::Free => self.enter(Phase::Opening, now),
            State::SynReceived => {}
            State::TimeWait => {
                if self.phase != Phase::Over {
                    self.output = Vec::new();
                    self.enter(Phase::Over, now);
                }
                return false;
            }
            _ if matches!(self.phase, Phase::Free | Phase::Opening) => self.enter(Phase::Idle, now),
            _ => {}
        }
        let mut has_moved = self.write(socket, now);
        if matches!(self.phase, Phase::Idle | Phase::Reading) {
            has_moved |= self.read(socket, service, now, has_memory);
            has_moved |= self.write(socket, now);
        }
        if self.deadline().is_some_and(|deadline| deadline <= now) {
            socket.abort();
            has_moved = true;
        }
        has_moved
    }

    fn enter(&mut self, phase: Phase, now: Instant) {
        self.phase = phase;
        self.since = now;
    }

    fn read(&mut self, socket: &mut Socket<'_>, service: &Service, now: Instant, has_memory: bool) -> bool {
        let before = self.input.len();
        // Twice: what is there may be in two pieces, at the end and at the start of the socket's buffer.
        for _ in 0..2 {
            let room = MAX_REQUEST_BYTES.saturating_sub(self.input.len());
            let taken = socket.recv(|data| {
                let data = data.get(..room).unwrap_or(data);
                self.input.extend_from_slice(data);
                (data.len(), ())
            });
            if taken.is_err() {
                break;
            }
        }
        if !self.input.is_empty() && self.phase == Phase::Idle {
            self.enter(Phase::Reading, now);
        }
        if self.is_partial && self.input.len() == before && socket.may_recv() {
            return false;
        }
        self.is_partial = false;
        match request::parse(&self.input) {
            Ok(Some((request, bytes))) => {
                self.input.drain(..bytes.min(self.input.len()));
                self.answer(&request, service, now, has_memory);
            }
            Ok(None) if !socket.may_recv() => {
                // The guest has said all that it wants to, and it is no request.
                socket.close();
                self.enter(Phase::Closing, now);
            }
            Ok(None) => {
                self.is_partial = true;
                return self.input.len() != before;
            }
            Err(error) => self.send(&Response::from(error), now, false, true),
        }
        true
    }

    fn answer(&mut self, request: &Request, service: &Service, now: Instant, has_memory: bool) {
        let response = if has_memory {
            service.answer(request, now)
        } else {
            Response::refusal(503, &"other answers wait to be taken")
        };
        self.send(&response, now, request.keeps_alive, request.method != Method::Head);
    }

    fn send(&mut self, response: &Response, now: Instant, keeps_alive: bool, has_body: bool) {
        self.output = response.bytes(keeps_alive, has_body);
        self.sent = 0;
        self.is_last = !keeps_alive;
        self.enter(Phase::Writing, now);
    }

    fn write(&mut self, socket: &mut Socket<'_>, now: Instant) -> bool {
        if self.phase != Phase::Writing {
            return false;
        }
        let before = self.sent;
        // Twice, as with reading.
        for _ in 0..2 {
            let rest = self.output.get(self.sent..).unwrap_or_default();
            self.sent = self.sent.saturating_add(socket.send_slice(rest).unwrap_or(0));
        }
        if self.sent >= self.output.len() {
            self.output = Vec::new();
            if self.is_last {
                socket.close();
                self.input = Vec::new();
                self.enter(Phase::Closing, now);
            } else {
                self.enter(Phase::Idle, now);
            }
            return true;
        }
        self.sent != before
    }
}
