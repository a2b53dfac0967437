//! Joins many sockets of the host to the one stream of packets that the guest sees.
//!
//! ```text
//! guest's packet -> by ports -> connection -> its socket            (never waits; what the socket does not take is held, bounded)
//! socket readable -> connection -> row of those that have something -> one packet each in turn -> guest
//! ```
//! Every table and row is bounded. What has no bound in itself is answered resets: when too many wait for the guest's buffers, no
//! more packets are taken from the guest ([`Muxer::is_full`]).

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use super::client::Client;
use super::connection::{Connection, Fate, Outgoing, Phase};
use super::connector::Connector;
use super::credit::BUFFER_BYTES;
use super::deadlines::{Deadlines, Timeouts};
use super::metrics::{Metrics, add};
use super::packet::{HOST_CID, Header, Operation, Ports, STREAM};
use super::poller::{FIRST_ID, Happened, Poller};

/// Most connections at a time. Each may hold [`BUFFER_BYTES`].
pub(super) const MOST_CONNECTIONS: usize = 1024;
/// Resets that wait for the guest, from which on nothing is taken from it.
pub(super) const MOST_RESETS: usize = 1024;
/// Ports of the host's connections, as Firecracker numbers them: far from what guests connect to.
pub(super) const FIRST_PORT: u32 = 1 << 30;
/// The first port behind them.
pub(super) const END_PORT: u32 = 1 << 31;
/// The number of the listener among the deadlines.
pub(super) const LISTENER: u64 = 0;

/// A reset that is not a connection's: there is none, or not any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Reset {
    ports: Ports,
    kind: u16,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Muxer {
    cid: u64,
    pub(super) poller: Poller,
    pub(super) listener: OwnedFd,
    connector: Box<dyn Connector>,
    pub(super) timeouts: Timeouts,
    pub(super) metrics: Arc<Metrics>,
    pub(super) clients: BTreeMap<u64, Client>,
    pub(super) connections: HashMap<u64, Connection>,
    pub(super) by_ports: HashMap<Ports, u64>,
    /// Connections that have something for the guest.
    row: VecDeque<u64>,
    resets: VecDeque<Reset>,
    pub(super) deadlines: Deadlines,
    next_id: u64,
    pub(super) next_port: u32,
}

impl Muxer {
    /// Makes one that does not accept yet.
    pub(super) fn new(
        cid: u64,
        listener: OwnedFd,
        connector: Box<dyn Connector>,
        timeouts: Timeouts,
        metrics: Arc<Metrics>,
    ) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&listener, true)?;
        Ok(Muxer {
            cid,
            poller: Poller::new()?,
            listener,
            connector,
            timeouts,
            metrics,
            clients: BTreeMap::new(),
            connections: HashMap::new(),
            by_ports: HashMap::new(),
            row: VecDeque::new(),
            resets: VecDeque::new(),
            deadlines: Deadlines::default(),
            next_id: FIRST_ID,
            next_port: FIRST_PORT,
        })
    }

    /// Readable when [`Muxer::poll`] has something to do.
    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.poller.descriptor()
    }

    /// Makes the descriptor readable.
    pub(super) fn kick(&self) {
        self.poller.kick();
    }

    /// Begins to accept.
    pub(super) fn open(&self) -> io::Result<()> {
        self.poller.add_listener(&self.listener)
    }

    /// Forgets everything but the listener, which waits.
    pub(super) fn close(&mut self) {
        self.poller.remove(&self.listener);
        for client in std::mem::take(&mut self.clients).into_values() {
            self.poller.remove(client.socket());
        }
        for connection in std::mem::take(&mut self.connections).into_values() {
            self.poller.remove(connection.socket());
            add(&self.metrics.closed, 1);
        }
        self.by_ports.clear();
        self.row.clear();
        self.resets.clear();
        self.deadlines = Deadlines::default();
    }

    /// What the guest believes to be connections, and what it should learn is none.
    pub(super) fn known_to_guest(&self) -> Vec<Ports> {
        let waiting = self.resets.iter().filter(|reset| reset.kind == STREAM);
        self.by_ports
            .keys()
            .copied()
            .chain(waiting.map(|reset| reset.ports))
            .collect()
    }

    /// Resets what the guest believed to be a connection.
    pub(super) fn reset(&mut self, ports: Ports, kind: u16) {
        self.resets.push_back(Reset { ports, kind });
    }

    /// Whether nothing more may be taken from the guest until it has taken something.
    pub(super) fn is_full(&self) -> bool {
        self.resets.len() >= MOST_RESETS
    }

    /// Whether there is, or may be, a packet for the guest.
    pub(super) fn has_for_guest(&self) -> bool {
        !self.resets.is_empty() || !self.row.is_empty()
    }

    /// How many connections there are.
    #[cfg(test)]
    pub(super) fn connections(&self) -> usize {
        self.connections.len()
    }

    /// Lets a connection have run for long.
    #[cfg(test)]
    pub(super) fn age(&mut self, ports: Ports, bytes: u32) {
        let id = self.by_ports[&ports];
        self.connections.get_mut(&id).unwrap().after(bytes);
    }

    /// Does what descriptors and time ask for, a bounded part of it.
    pub(super) fn poll(&mut self) -> io::Result<()> {
        for happened in self.poller.take()? {
            match happened {
                Happened::Client => self.accept(),
                Happened::Deadline => self.expire(),
                Happened::Socket {
                    id,
                    readable,
                    writable,
                    gone,
                } => {
                    if let Some(connection) = self.connections.get_mut(&id) {
                        let fate = connection.polled(readable, writable, gone);
                        self.follow(id, fate);
                    } else if self.clients.contains_key(&id) {
                        self.hear(id);
                    }
                }
            }
        }
        Ok(())
    }

    /// Sets the timer to the next deadline. To be called when a turn is over.
    pub(super) fn arm(&mut self) -> io::Result<()> {
        self.poller.arm(self.deadlines.next())
    }

    /// Takes a packet of the guest. `data` is as long as the header says, or `None` if the packet is not.
    pub(super) fn receive(&mut self, header: &Header, data: Option<&[u8]>) {
        add(&self.metrics.tx_packets, 1);
        if header.source_cid != self.cid || header.destination_cid != HOST_CID {
            // An answer would go to an address that nobody has.
            add(&self.metrics.malformed, 1);
            return;
        }
        let operation = Operation::from_wire(header.operation);
        let ports = header.ports_from_guest();
        if header.kind != STREAM {
            add(&self.metrics.refused, 1);
            if operation != Some(Operation::Reset) {
                self.reset(ports, header.kind);
            }
            return;
        }
        let Some(&id) = self.by_ports.get(&ports) else {
            match (operation, data) {
                (Some(Operation::Reset), _) => {}
                (Some(Operation::Request), Some(_)) => self.connect(ports, header),
                _ => self.reset(ports, STREAM),
            }
            return;
        };
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let fate = match (operation, data) {
            (Some(operation), Some(data)) => {
                add(&self.metrics.tx_bytes, u64::try_from(data.len()).unwrap_or(u64::MAX));
                connection.receive(header, operation, data).ok()
            }
            _ => None,
        };
        let fate = fate.unwrap_or_else(|| {
            add(&self.metrics.violations, 1);
            Fate::Reset
        });
        self.follow(id, fate);
    }

    /// Gives the next packet for the guest, its data put into `room`.
    pub(super) fn next_for_guest(&mut self, room: &mut [u8]) -> Option<Header> {
        if let Some(reset) = self.resets.pop_front() {
            add(&self.metrics.rx_packets, 1);
            let mut header = self.header(reset.ports, Operation::Reset);
            header.kind = reset.kind;
            return Some(header);
        }
        for _ in 0..self.row.len() {
            let id = self.row.pop_front()?;
            let Some(connection) = self.connections.get_mut(&id) else {
                continue;
            };
            connection.is_queued = false;
            let ports = connection.ports;
            let packet = connection.next_packet(room);
            let fate = connection.settle();
            self.follow(id, fate);
            if let Some(packet) = packet {
                return Some(self.packet(ports, packet));
            }
        }
        None
    }

    fn packet(&self, ports: Ports, packet: Outgoing) -> Header {
        add(&self.metrics.rx_packets, 1);
        add(&self.metrics.rx_bytes, packet.length.into());
        Header {
            length: packet.length,
            flags: packet.flags,
            capacity: BUFFER_BYTES,
            forwarded: packet.forwarded,
            ..self.header(ports, packet.operation)
        }
    }

    fn header(&self, ports: Ports, operation: Operation) -> Header {
        Header {
            source_cid: HOST_CID,
            destination_cid: self.cid,
            source_port: ports.host,
            destination_port: ports.guest,
            kind: STREAM,
            operation: operation.to_wire(),
            ..Header::default()
        }
    }

    /// The guest asks for a connection.
    fn connect(&mut self, ports: Ports, header: &Header) {
        // A reset that still waits for the guest was for an earlier connection of the same ports.
        self.resets.retain(|reset| reset.ports != ports || reset.kind != STREAM);
        let socket = if self.connections.len() < MOST_CONNECTIONS {
            self.connector.connect(ports.host).ok()
        } else {
            None
        };
        let socket = socket.filter(|socket| rustix::io::ioctl_fionbio(socket, true).is_ok());
        let id = self.take_id();
        match socket {
            Some(socket) if self.poller.add(id, &socket).is_ok() => {
                self.insert(id, Connection::accepted(ports, socket, header));
            }
            _ => {
                add(&self.metrics.refused, 1);
                self.reset(ports, STREAM);
            }
        }
    }

    pub(super) fn take_id(&mut self) -> u64 {
        let id = self.next_id;
        // 2^64 connections take longer than any machine lives.
        self.next_id = id.wrapping_add(1);
        id
    }

    pub(super) fn insert(&mut self, id: u64, connection: Connection) {
        add(&self.metrics.opened, 1);
        self.deadlines.clear(id);
        if connection.phase == Phase::Requested {
            self.deadlines.set(id, self.timeouts.request);
        }
        self.by_ports.insert(connection.ports, id);
        self.connections.insert(id, connection);
        self.follow(id, Fate::Keep);
    }

    /// Does what has become of a connection.
    fn follow(&mut self, id: u64, fate: Fate) {
        match fate {
            Fate::Gone => drop(self.remove(id)),
            Fate::Reset => {
                if let Some(connection) = self.remove(id) {
                    self.reset(connection.ports, STREAM);
                }
            }
            Fate::Keep => self.tend(id),
        }
    }

    /// Sees to the row, the poller and the deadline of a connection that goes on.
    fn tend(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        if connection.wants_guest() && !connection.is_queued {
            connection.is_queued = true;
            self.row.push_back(id);
        }
        if connection.wants_to_write() != connection.is_waiting_to_write {
            connection.is_waiting_to_write = connection.wants_to_write();
            let _can_not_fail = self
                .poller
                .modify(id, connection.socket(), connection.is_waiting_to_write);
        }
        if connection.phase == connection.timed_phase {
            return;
        }
        connection.timed_phase = connection.phase;
        match connection.phase {
            Phase::Requested => self.deadlines.set(id, self.timeouts.request),
            Phase::Open => self.deadlines.clear(id),
            Phase::Closing => self.deadlines.set(id, self.timeouts.close),
            Phase::Lingering => {
                // The ports are the guest's to use again.
                self.by_ports.remove(&connection.ports);
                self.deadlines.set(id, self.timeouts.linger);
            }
        }
    }

    fn remove(&mut self, id: u64) -> Option<Connection> {
        let connection = self.connections.remove(&id)?;
        self.poller.remove(connection.socket());
        self.deadlines.clear(id);
        if connection.is_queued {
            self.row.retain(|&queued| queued != id);
        }
        if self.by_ports.get(&connection.ports) == Some(&id) {
            self.by_ports.remove(&connection.ports);
        }
        add(&self.metrics.closed, 1);
        Some(connection)
    }

    /// Ends what has had its time.
    fn expire(&mut self) {
        let now = Instant::now();
        while let Some(id) = self.deadlines.pop(now) {
            if id == LISTENER {
                if self.open().is_err() {
                    self.deadlines.set(LISTENER, self.timeouts.retry);
                    return;
                }
                continue;
            }
            self.drop_client(id);
            let Some(connection) = self.connections.get(&id) else {
                continue;
            };
            add(&self.metrics.timed_out, 1);
            let is_heard_of = connection.phase != Phase::Lingering && !connection.is_unknown_to_guest();
            self.follow(id, if is_heard_of { Fate::Reset } else { Fate::Gone });
        }
    }
}
