//! The service's own TCP/IP: one address, one port, a bounded number of connections.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Instant as StackInstant;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr};

use crate::alarm::When;
use crate::connection::{Connection, Phase};
use crate::frame::{ForService, arp_reply};
use crate::link::Link;
use crate::service::{Service, fill_random};

/// Where a web server is (RFC 9110 §4.2.1).
const PORT: u16 = 80;
/// Most connections at once.
pub(crate) const MAX_CONNECTIONS: usize = 16;
/// What a socket keeps that was not read yet: less than a whole request, for a connection keeps that itself.
const RECEIVE_BYTES: usize = 2048;
/// What a socket keeps until the guest has confirmed it: four full packets.
const SEND_BYTES: usize = 4 * 1460;
/// Answers of all connections together above which no further is made. A single one is as long as the metadata may be.
const MAX_HELD_BYTES: usize = 1 << 20;
/// How often in a row packets and connections are looked at, for one frame of the guest.
const MAX_ROUNDS: usize = 8;
/// Shortest time until the stack looks at itself again: whatever a guest makes it wait for, it does not keep the VMM's thread.
const SHORTEST_WAIT: Duration = Duration::from_millis(10);
/// How long a connection is in a phase at least before it makes room for another.
const LEAST_LIFE: Duration = Duration::from_secs(1);
/// How long the other side may confirm nothing.
const CONFIRM_TIMEOUT_S: u64 = 20;

/// The stack of one network card.
pub(crate) struct Stack {
    service: Arc<Service>,
    begun: Instant,
    link: Link,
    interface: Interface,
    sockets: SocketSet<'static>,
    connections: Vec<(SocketHandle, Connection)>,
}

impl std::fmt::Debug for Stack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stack")
            .field("link", &self.link)
            .field("connections", &self.connections)
            .finish_non_exhaustive()
    }
}

impl Stack {
    /// A stack without connections.
    ///
    /// # Errors
    /// What getrandom(2) says.
    pub(crate) fn new(service: Arc<Service>, mtu: u16, now: Instant) -> rustix::io::Result<Self> {
        let mut seed = [0; 8];
        fill_random(&mut seed)?;
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = u64::from_ne_bytes(seed);
        let mut link = Link::new(mtu);
        let mut interface = Interface::new(config, &mut link, StackInstant::ZERO);
        let address = IpAddress::Ipv4(service.address());
        interface.update_ip_addrs(|addresses| {
            // There is room for one; all others are reached directly, so no prefix.
            let _full = addresses.push(IpCidr::new(address, 32));
        });
        Ok(Self {
            service,
            begun: now,
            link,
            interface,
            sockets: SocketSet::new(Vec::new()),
            connections: Vec::new(),
        })
    }

    /// Takes a frame of the guest.
    pub(crate) fn take(&mut self, frame: ForService<'_>, now: Instant) {
        match frame {
            ForService::WhoHas { mac, source } => self.link.push(&arp_reply(mac, source, self.address())),
            // With no place for it, it is as if it had been lost: the guest's TCP sends it again, and by then there may be one.
            ForService::Segment { is_first: true, .. } if !self.listen(now) => {}
            ForService::Segment {
                mac, source, packet, ..
            } => {
                self.link.offer(source, mac, packet);
                self.run(now);
                self.link.drop_offer();
            }
            ForService::Other => {}
        }
    }

    /// Does what can be done now.
    pub(crate) fn run(&mut self, now: Instant) {
        for _ in 0..MAX_ROUNDS {
            let time = self.time(now);
            let _changed = self.interface.poll(time, &mut self.link, &mut self.sockets);
            if !self.serve(now) {
                return;
            }
        }
    }

    /// The next frame for the guest, with the card's header.
    pub(crate) fn pop(&mut self) -> Option<Vec<u8>> {
        self.link.pop()
    }

    pub(crate) fn has_frames(&self) -> bool {
        self.link.has_frames()
    }

    /// When there is something to do or to take.
    pub(crate) fn next(&mut self, now: Instant) -> When {
        if self.link.has_frames() {
            return When::Now;
        }
        let time = self.time(now);
        let delay = self.interface.poll_delay(time, &self.sockets);
        let own = delay.and_then(|delay| now.checked_add(Duration::from_micros(delay.total_micros())));
        let deadlines = self
            .connections
            .iter()
            .filter_map(|(_, connection)| connection.deadline());
        let earliest = now.checked_add(SHORTEST_WAIT);
        match own.into_iter().chain(deadlines).min() {
            Some(next) => When::At(earliest.map_or(next, |earliest| next.max(earliest))),
            None => When::Never,
        }
    }

    fn address(&self) -> Ipv4Addr {
        self.service.address()
    }

    fn time(&self, now: Instant) -> StackInstant {
        let elapsed = now.saturating_duration_since(self.begun);
        StackInstant::from_micros(i64::try_from(elapsed.as_micros()).unwrap_or(i64::MAX))
    }

    fn serve(&mut self, now: Instant) -> bool {
        let mut held: usize = self.connections.iter().map(|(_, known)| known.held_bytes()).sum();
        let mut has_moved = false;
        for (handle, connection) in &mut self.connections {
            let socket = self.sockets.get_mut::<Socket<'_>>(*handle);
            let before = connection.held_bytes();
            has_moved |= connection.serve(socket, &self.service, now, held < MAX_HELD_BYTES);
            held = held.saturating_sub(before).saturating_add(connection.held_bytes());
        }
        has_moved
    }

    /// Sees to it that one socket listens, if there can be one.
    fn listen(&mut self, now: Instant) -> bool {
        let sockets = &self.sockets;
        let mut known = self.connections.iter();
        if known.any(|(handle, _)| sockets.get::<Socket<'_>>(*handle).is_listening()) {
            return true;
        }
        let handle = match self.free_socket() {
            Some(handle) => handle,
            None if self.connections.len() < MAX_CONNECTIONS => {
                let handle = self.sockets.add(new_socket());
                self.connections.push((handle, Connection::new(now)));
                handle
            }
            None => {
                self.evict(now);
                match self.free_socket() {
                    Some(handle) => handle,
                    None => return false,
                }
            }
        };
        for (known, connection) in &mut self.connections {
            if *known == handle {
                // What it was before is forgotten.
                *connection = Connection::new(now);
            }
        }
        // It fails for a socket that is in use, or without a port.
        self.sockets.get_mut::<Socket<'_>>(handle).listen(PORT).is_ok()
    }

    /// A socket that nobody has, or is still to be told anything.
    fn free_socket(&self) -> Option<SocketHandle> {
        let mut handles = self.connections.iter().map(|(handle, _)| *handle);
        handles.find(|handle| {
            let socket = self.sockets.get::<Socket<'_>>(*handle);
            socket.state() == State::Closed && socket.remote_endpoint().is_none()
        })
    }

    /// Takes a connection away that both sides are done with, or else one that nothing has come of for longest.
    fn evict(&mut self, now: Instant) {
        let rank = |known: &Connection| match known.phase() {
            Phase::Over => Some(0),
            // A new one, or one whose last answer may not have come yet, is not for the taking.
            _ if now.saturating_duration_since(known.since()) < LEAST_LIFE => None,
            Phase::Closing => Some(1),
            Phase::Idle => Some(2),
            Phase::Opening => Some(3),
            Phase::Free | Phase::Reading | Phase::Writing => None,
        };
        let known = self.connections.iter();
        let ranked = known.filter_map(|(handle, known)| Some((rank(known)?, known.since(), known.phase(), *handle)));
        let Some((_, _, phase, handle)) = ranked.min_by_key(|(rank, since, ..)| (*rank, *since)) else {
            return;
        };
        let socket = self.sockets.get_mut::<Socket<'_>>(handle);
        if phase == Phase::Over {
            // Nobody needs to be told.
            *socket = new_socket();
        } else {
            socket.abort();
            // The other side is told, if there is room for that.
            self.run(now);
        }
    }
}

fn new_socket() -> Socket<'static> {
    let buffer = |bytes| SocketBuffer::new(vec![0; bytes]);
    let mut socket = Socket::new(buffer(RECEIVE_BYTES), buffer(SEND_BYTES));
    socket.set_timeout(Some(smoltcp::time::Duration::from_secs(CONFIRM_TIMEOUT_S)));
    socket.set_nagle_enabled(false);
    socket.set_ack_delay(None);
    socket
}
