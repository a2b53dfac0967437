//! One connection: a stream socket of the host's on one side, the guest's packets on the other.
//!
//! ```text
//! Requested --RESPONSE--> Open --both directions at their end--> Closing --RST, or too late--> (gone)
//!                          |  '-- the guest has shut both down and the host has all of it: RST --> (gone)
//!                          '-- RST, and the host has not taken all yet --> Lingering --> (gone)
//! ```
//! A connection of the guest begins Open. Data for the guest stays in the host's socket until there is credit and a buffer for it;
//! data of the guest is held here, at most [`super::credit::BUFFER_BYTES`], while the host's socket is full.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use rustix::net::{Shutdown, shutdown};
use thiserror::Error;

use super::credit::{GuestCredit, HostCredit};
use super::packet::{Header, NO_MORE, NO_MORE_RECEIVING, NO_MORE_SENDING, Operation, Ports};
use super::stream;

/// How the guest broke the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(super) enum Violation {
    /// It says that it took more than it was sent.
    #[error("more was taken than sent")]
    CreditAhead,
    /// It sent more than it was told there is room for.
    #[error("more was sent than there is room for")]
    CreditExceeded,
    /// A packet that does not belong here.
    #[error("{0:?} is out of place")]
    OutOfPlace(Operation),
}

/// Where a connection stands; see the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Requested,
    Open,
    Closing,
    Lingering,
}

/// What is to be done with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// Nothing.
    Keep,
    /// It ends, and the guest is told.
    Reset,
    /// It ends.
    Gone,
}

/// A packet for the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Outgoing {
    /// What it says.
    pub(super) operation: Operation,
    /// Of a shutdown.
    pub(super) flags: u32,
    /// How many bytes of data were put into the room.
    pub(super) length: u32,
    /// What the guest is told of the room for its data.
    pub(super) forwarded: u32,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) ports: Ports,
    pub(super) phase: Phase,
    /// It stands in the row of those that have something for the guest.
    pub(super) is_queued: bool,
    /// The poller waits until the socket is writable.
    pub(super) is_waiting_to_write: bool,
    /// The phase that its deadline was set for.
    pub(super) timed_phase: Phase,
    socket: OwnedFd,
    guest: GuestCredit,
    host: HostCredit,
    held: VecDeque<u8>,
    /// The first packet, which is still to be sent.
    opening: Option<Operation>,
    owes_update: bool,
    /// The guest is to be asked for credit, or has been since there was some.
    owes_question: bool,
    asked: bool,
    /// The socket may have data, or an end.
    is_readable: bool,
    /// All of the host's data was read.
    is_ended: bool,
    /// The host takes nothing any more.
    is_deaf: bool,
    is_read_shut: bool,
    is_write_shut: bool,
    guest_shut: u32,
    told_shut: u32,
}

impl Connection {
    /// Begins a connection of the host's.
    pub(super) fn requested(ports: Ports, socket: OwnedFd) -> Self {
        Connection {
            ports,
            phase: Phase::Requested,
            is_queued: false,
            is_waiting_to_write: false,
            timed_phase: Phase::Requested,
            socket,
            guest: GuestCredit::default(),
            host: HostCredit::default(),
            held: VecDeque::new(),
            opening: Some(Operation::Request),
            owes_update: false,
            owes_question: false,
            asked: false,
            is_readable: true,
            is_ended: false,
            is_deaf: false,
            is_read_shut: false,
            is_write_shut: false,
            guest_shut: 0,
            told_shut: 0,
        }
    }

    /// Begins a connection of the guest's, which asked with `header`.
    pub(super) fn accepted(ports: Ports, socket: OwnedFd, header: &Header) -> Self {
        Connection {
            phase: Phase::Open,
            timed_phase: Phase::Open,
            guest: GuestCredit::new(header.capacity),
            opening: Some(Operation::Response),
            ..Self::requested(ports, socket)
        }
    }

    /// Its socket.
    pub(super) fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// Whether the guest has never heard of it.
    pub(super) fn is_unknown_to_guest(&self) -> bool {
        self.opening == Some(Operation::Request)
    }

    /// Whether data waits for the socket.
    pub(super) fn wants_to_write(&self) -> bool {
        !self.held.is_empty()
    }

    /// Takes a packet of the guest; `data` is all of its data.
    pub(super) fn receive(&mut self, header: &Header, operation: Operation, data: &[u8]) -> Result<Fate, Violation> {
        if operation == Operation::Reset {
            return Ok(self.end_by_guest());
        }
        if self.phase == Phase::Requested {
            if operation != Operation::Response || self.is_unknown_to_guest() {
                return Err(Violation::OutOfPlace(operation));
            }
            self.guest = GuestCredit::new(header.capacity);
            self.guest.update(header.capacity, header.forwarded)?;
            self.phase = Phase::Open;
            self.greet();
            return Ok(self.settle());
        }
        self.guest.update(header.capacity, header.forwarded)?;
        if self.guest.available() > 0 {
            self.asked = false;
        }
        match operation {
            Operation::Data => self.take(data)?,
            Operation::Shutdown => self.guest_shut |= header.flags & NO_MORE,
            Operation::CreditUpdate => {}
            Operation::CreditRequest => self.owes_update = true,
            Operation::Request | Operation::Response | Operation::Reset => {
                return Err(Violation::OutOfPlace(operation));
            }
        }
        Ok(self.settle())
    }

    /// Notes what the poller says of the socket.
    pub(super) fn polled(&mut self, readable: bool, writable: bool, gone: bool) -> Fate {
        self.is_readable |= readable;
        if gone && self.phase != Phase::Requested {
            self.deafen();
        }
        if writable {
            self.flush();
        }
        self.settle()
    }

    /// Whether there is a packet for the guest, or may be.
    pub(super) fn wants_guest(&self) -> bool {
        match self.phase {
            Phase::Requested => self.opening.is_some(),
            Phase::Open | Phase::Closing => {
                self.opening.is_some()
                    || self.shut_to_tell() != 0
                    || self.owes_update
                    || self.owes_question
                    || self.host.worth_telling()
                    || self.can_read()
            }
            Phase::Lingering => false,
        }
    }

    /// The next packet for the guest, with as much data as there is, there is credit for, and goes into `room`.
    pub(super) fn next_packet(&mut self, room: &mut [u8]) -> Option<Outgoing> {
        if !self.wants_guest() {
            return None;
        }
        if let Some(operation) = self.opening.take() {
            return Some(self.outgoing(operation, 0, 0));
        }
        let flags = self.shut_to_tell();
        if flags != 0 {
            self.told_shut |= flags;
            return Some(self.outgoing(Operation::Shutdown, self.told_shut, 0));
        }
        if self.can_read() {
            let length = self.read(room);
            if length > 0 {
                self.guest.spend(length);
                return Some(self.outgoing(Operation::Data, 0, length));
            }
        }
        if self.owes_question {
            self.owes_question = false;
            self.asked = true;
            return Some(self.outgoing(Operation::CreditRequest, 0, 0));
        }
        if self.owes_update || self.host.worth_telling() {
            return Some(self.outgoing(Operation::CreditUpdate, 0, 0));
        }
        None
    }

    fn outgoing(&mut self, operation: Operation, flags: u32, length: u32) -> Outgoing {
        // Every packet says how much room there is.
        self.owes_update = false;
        Outgoing {
            operation,
            flags,
            length,
            forwarded: self.host.tell(),
        }
    }

    /// Tells the client that the guest has accepted.
    fn greet(&mut self) {
        let line = format!("OK {}\n", self.ports.host);
        // The socket is empty, so the line goes out as a whole or not at all.
        if self.send(line.as_bytes()) != line.len() {
            self.deafen();
        }
    }

    fn end_by_guest(&mut self) -> Fate {
        let has_finished = self.guest_shut & NO_MORE_SENDING != 0;
        if has_finished && !self.held.is_empty() && !self.is_deaf {
            self.phase = Phase::Lingering;
            return Fate::Keep;
        }
        Fate::Gone
    }

    fn take(&mut self, data: &[u8]) -> Result<(), Violation> {
        if self.guest_shut & NO_MORE_SENDING != 0 {
            return Err(Violation::OutOfPlace(Operation::Data));
        }
        self.host.receive(u32::try_from(data.len()).unwrap_or(u32::MAX))?;
        let mut rest = data;
        if self.held.is_empty() && !self.is_deaf {
            let sent = self.send(data);
            self.forward(sent);
            rest = data.get(sent..).unwrap_or_default();
        }
        if self.is_deaf {
            self.forward(rest.len());
        } else {
            self.held.extend(rest);
        }
        Ok(())
    }

    fn flush(&mut self) {
        loop {
            let (first, _) = self.held.as_slices();
            if first.is_empty() {
                // Memory only for those that are behind.
                self.held = VecDeque::new();
                return;
            }
            let wanted = first.len();
            let (sent, is_deaf) = stream::write(&self.socket, first);
            self.held.drain(..sent);
            self.forward(sent);
            if is_deaf {
                self.deafen();
            } else if sent < wanted {
                return;
            }
        }
    }

    /// Sends what the socket takes; returns how much.
    fn send(&mut self, data: &[u8]) -> usize {
        let (sent, is_deaf) = stream::write(&self.socket, data);
        if is_deaf {
            self.deafen();
        }
        sent
    }

    fn forward(&mut self, bytes: usize) {
        self.host.forward(u32::try_from(bytes).unwrap_or(u32::MAX));
    }

    /// The host takes nothing any more: what was held for it goes nowhere, as with a closed TCP connection.
    fn deafen(&mut self) {
        self.is_deaf = true;
        let lost = std::mem::take(&mut self.held).len();
        self.forward(lost);
    }

    /// Whether reading may give data that the guest can take.
    fn can_read(&self) -> bool {
        self.phase == Phase::Open
            && self.is_readable
            && !self.is_ended
            && self.guest_shut & NO_MORE_RECEIVING == 0
            && self.guest.available() > 0
    }

    /// Reads into `room`; returns how much came.
    fn read(&mut self, room: &mut [u8]) -> u32 {
        let most = usize::try_from(self.guest.available())
            .unwrap_or(usize::MAX)
            .min(room.len());
        let Some(room) = room.get_mut(..most).filter(|room| !room.is_empty()) else {
            return 0;
        };
        match stream::read(&self.socket, room) {
            stream::Read::Bytes(count) => return u32::try_from(count).unwrap_or(u32::MAX),
            stream::Read::Nothing => self.is_readable = false,
            stream::Read::End => self.is_ended = true,
            stream::Read::Broken => {
                self.is_ended = true;
                self.deafen();
            }
        }
        0
    }

    /// What the guest does not know yet of directions that are at their end.
    fn shut_to_tell(&self) -> u32 {
        let mut flags = 0;
        if self.is_ended || self.phase == Phase::Closing {
            flags |= NO_MORE_SENDING;
        }
        if self.is_deaf || self.phase == Phase::Closing {
            flags |= NO_MORE_RECEIVING;
        }
        flags & !self.told_shut
    }

    /// Draws the conclusions after anything has changed.
    pub(super) fn settle(&mut self) -> Fate {
        match self.phase {
            Phase::Requested => return Fate::Keep,
            Phase::Lingering if self.held.is_empty() => return Fate::Gone,
            Phase::Lingering => return Fate::Keep,
            Phase::Open | Phase::Closing => {}
        }
        if self.guest_shut & NO_MORE_SENDING != 0 && self.held.is_empty() && !self.is_write_shut {
            self.is_write_shut = true;
            let _gone = shutdown(&self.socket, Shutdown::Write);
        }
        if self.guest_shut & NO_MORE_RECEIVING != 0 && !self.is_read_shut {
            self.is_read_shut = true;
            let _gone = shutdown(&self.socket, Shutdown::Read);
        }
        let host_has_all = self.is_deaf || self.is_write_shut;
        let guest_has_all = self.is_ended || self.is_read_shut;
        if self.guest_shut == NO_MORE && host_has_all {
            return Fate::Reset;
        }
        if host_has_all && guest_has_all {
            self.phase = Phase::Closing;
        }
        self.owes_question = self.phase == Phase::Open
            && !self.asked
            && self.is_readable
            && !self.is_ended
            && !self.is_read_shut
            && self.guest.available() == 0;
        Fate::Keep
    }

    /// A connection that has run for long, in both directions.
    #[cfg(test)]
    pub(super) fn after(&mut self, bytes: u32) {
        self.guest = self.guest.after(bytes);
        self.host = self.host.after(bytes);
    }
}
