//! virtio-vsock (VIRTIO 1.2 §5.10): streams between the guest and Unix sockets of the host.
//!
//! Each call pumps: packets of the guest to the muxer, packets of the muxer to the guest, until there are none, the guest gives no
//! buffers, or the turn's budget is used up; then the event loop is asked to call again. So it does not matter which of its
//! descriptors or queues a call is about, and none can be lost.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use thiserror::Error;
use vm_memory::GuestMemoryError;

use super::connector::Connector;
use super::credit::BUFFER_BYTES;
use super::deadlines::Timeouts;
use super::metrics::{Metrics, add};
use super::muxer::Muxer;
use super::packet::{HEADER_BYTES, Header, Operation, STREAM};
use super::segments;
use super::state::State;
use crate::virtio::chain::Chain;
use crate::virtio::{ActivateError, DeviceError, Fault, RestoreError, Session, Source, VirtioDevice};

/// The device id (§5.10.1).
const ID: u32 = 19;
/// The queues (§5.10.2).
const RX: u16 = 0;
const TX: u16 = 1;
const EVENT: u16 = 2;
/// Buffers of 256 packets either way, as in Firecracker; Linux posts eight buffers for events (net/vmw_vsock/virtio_transport.c).
const QUEUE_SIZES: [u16; 3] = [256, 256, 16];
/// `VIRTIO_VSOCK_EVENT_TRANSPORT_RESET` (§5.10.6.8).
const TRANSPORT_RESET: [u8; 4] = 0_u32.to_le_bytes();
/// What one turn may cost in either direction: chains, and pages of data. Some milliseconds at most.
const BUDGET: usize = 1024;
/// Bytes that cost as much as a chain.
const BYTES_OF_A_UNIT: usize = 4096;
/// Most data of one packet, in bytes: more would be more than the credit anyway.
const DATA_BYTES: usize = BUFFER_BYTES as usize;
/// The token of the only source.
const TOKEN: u32 = 0;

/// Why a vsock device can't be made.
#[derive(Debug, Error)]
pub enum CreateVsockError {
    /// Ids below three and the largest are reserved (§5.10.4).
    #[error("{0} can't be a guest's context id: it must be from 3 to 4294967294")]
    BadCid(u32),
    /// A descriptor can't be made or used.
    #[error("preparing the descriptors of a vsock device")]
    Descriptors(#[source] std::io::Error),
}

/// See the module.
#[derive(Debug)]
pub struct Vsock {
    name: String,
    cid: u32,
    muxer: Muxer,
    metrics: Arc<Metrics>,
    /// One packet, header and data.
    packet: Box<[u8]>,
    /// The guest has still to be told that all connections are gone.
    owes_transport_reset: bool,
}

impl Vsock {
    /// Makes a device for the guest `cid`. Clients of the host come in by `listener`, a listening Unix stream socket that is made not
    /// to block; what the guest connects to comes from `connector`.
    ///
    /// # Errors
    /// See [`CreateVsockError`].
    pub fn new(
        name: impl Into<String>,
        cid: u32,
        listener: OwnedFd,
        connector: Box<dyn Connector>,
        timeouts: Timeouts,
    ) -> Result<Self, CreateVsockError> {
        if cid < 3 || cid == u32::MAX {
            return Err(CreateVsockError::BadCid(cid));
        }
        let metrics = Arc::new(Metrics::default());
        let muxer = Muxer::new(cid.into(), listener, connector, timeouts, Arc::clone(&metrics))
            .map_err(CreateVsockError::Descriptors)?;
        Ok(Vsock {
            name: name.into(),
            cid,
            muxer,
            metrics,
            packet: vec![0; HEADER_BYTES.saturating_add(DATA_BYTES)].into(),
            owes_transport_reset: false,
        })
    }

    /// What it counts.
    #[must_use]
    pub fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.metrics)
    }

    /// The muxer, for tests.
    #[cfg(test)]
    pub(super) fn muxer(&mut self) -> &mut Muxer {
        &mut self.muxer
    }

    fn pump(&mut self, session: &mut Session) -> Result<(), DeviceError> {
        // One for each direction, so that neither keeps the other waiting.
        let (mut taking, mut giving) = (BUDGET, BUDGET);
        self.tell_events(session)?;
        loop {
            let was_full = self.take_from_guest(session, &mut taking)?;
            self.give_to_guest(session, &mut giving)?;
            // Room for more resets is room for more of the guest's packets.
            if taking == 0 || giving == 0 || !was_full || self.muxer.is_full() {
                break;
            }
        }
        if taking == 0 || giving == 0 {
            self.muxer.kick();
        }
        self.muxer.arm().map_err(|source| DeviceError::Host {
            what: "setting the timer of a vsock device",
            source,
        })
    }

    /// Takes packets of the guest. Returns whether it left some because too many answers wait for the guest's buffers.
    fn take_from_guest(&mut self, session: &mut Session, budget: &mut usize) -> Result<bool, DeviceError> {
        let mut was_used = false;
        let was_full = loop {
            let Session { memory, queues, .. } = session;
            let Some(queue) = queues.get_mut(usize::from(TX)) else {
                break false;
            };
            if *budget == 0 {
                break false;
            }
            if self.muxer.is_full() {
                break true;
            }
            *budget = budget.saturating_sub(1);
            let Some(chain) = queue.pop(memory)? else {
                if queue.is_ready() && queue.enable_notification(memory)? {
                    continue;
                }
                break false;
            };
            if !was_used {
                queue.disable_notification(memory)?;
            }
            let bytes = self.take_packet(memory, &chain)?;
            *budget = budget.saturating_sub(bytes / BYTES_OF_A_UNIT);
            queue.add_used(memory, chain.head, 0)?;
            was_used = true;
        };
        if was_used {
            session.signal(TX)?;
        }
        Ok(was_full)
    }

    /// The parse step: copies a packet once, and hands its data on only if there is as much as it says. Returns how much that was.
    fn take_packet(&mut self, memory: &ringwall_arch::GuestRam, chain: &Chain) -> Result<usize, DeviceError> {
        let mut bytes = [0; HEADER_BYTES];
        let count = segments::read(memory, &chain.readable, 0, &mut bytes).map_err(|error| lost(TX, &error))?;
        if count < HEADER_BYTES {
            add(&self.metrics.malformed, 1);
            return Ok(0);
        }
        let header = Header::parse(&bytes);
        let length = usize::try_from(header.length).unwrap_or(usize::MAX);
        let is_data = header.operation == Operation::Data.to_wire() && header.kind == STREAM;
        let data = if is_data {
            // As much as the credit may be has room; what is longer is wrong anyway.
            match self.packet.get_mut(..length).filter(|_| length <= DATA_BYTES) {
                Some(room) => {
                    let count = segments::read(memory, &chain.readable, HEADER_BYTES, room)
                        .map_err(|error| lost(TX, &error))?;
                    self.packet.get(..length).filter(|_| count == length)
                }
                None => None,
            }
        } else {
            Some(&[][..]).filter(|_| length == 0)
        };
        let bytes = data.map_or(0, <[u8]>::len);
        self.muxer.receive(&header, data);
        Ok(bytes)
    }

    /// Gives packets to the guest while it has buffers.
    fn give_to_guest(&mut self, session: &mut Session, budget: &mut usize) -> Result<(), DeviceError> {
        let mut was_used = false;
        while *budget > 0 && self.muxer.has_for_guest() {
            let Session { memory, queues, .. } = session;
            let Some(queue) = queues.get_mut(usize::from(RX)) else {
                break;
            };
            *budget = budget.saturating_sub(1);
            let Some(chain) = queue.pop(memory)? else {
                if queue.is_ready() && queue.enable_notification(memory)? {
                    continue;
                }
                add(&self.metrics.rx_starved, 1);
                break;
            };
            let room = usize::try_from(chain.writable_bytes()).unwrap_or(usize::MAX);
            let room = room.saturating_sub(HEADER_BYTES).min(DATA_BYTES);
            let (head, data) = self.packet.split_at_mut_checked(HEADER_BYTES).unwrap_or_default();
            let data = data.get_mut(..room).unwrap_or_default();
            if data.is_empty() {
                return Err(Fault::Request {
                    queue: RX,
                    what: "a buffer has no room for a packet",
                }
                .into());
            }
            let Some(header) = self.muxer.next_for_guest(data) else {
                queue.undo_pop();
                continue;
            };
            head.copy_from_slice(&header.to_bytes());
            let length = usize::try_from(header.length).unwrap_or(usize::MAX);
            let whole = self
                .packet
                .get(..HEADER_BYTES.saturating_add(length))
                .unwrap_or_default();
            *budget = budget.saturating_sub(length / BYTES_OF_A_UNIT);
            let count = segments::write(memory, &chain.writable, whole).map_err(|error| lost(RX, &error))?;
            queue.add_used(memory, chain.head, u32::try_from(count).unwrap_or(u32::MAX))?;
            if !was_used {
                queue.disable_notification(memory)?;
            }
            was_used = true;
        }
        if was_used {
            session.signal(RX)?;
        }
        Ok(())
    }

    /// Tells the guest, when it has a buffer for that, that all connections are gone.
    fn tell_events(&mut self, session: &mut Session) -> Result<(), DeviceError> {
        if !self.owes_transport_reset {
            return Ok(());
        }
        let Session { memory, queues, .. } = session;
        let Some(queue) = queues.get_mut(usize::from(EVENT)) else {
            return Ok(());
        };
        let Some(chain) = queue.pop(memory)? else {
            if queue.is_ready() && queue.enable_notification(memory)? {
                self.muxer.kick();
            }
            return Ok(());
        };
        let count = segments::write(memory, &chain.writable, &TRANSPORT_RESET).map_err(|error| lost(EVENT, &error))?;
        queue.add_used(memory, chain.head, u32::try_from(count).unwrap_or(u32::MAX))?;
        if count < TRANSPORT_RESET.len() {
            return Err(Fault::Request {
                queue: EVENT,
                what: "a buffer has no room for an event",
            }
            .into());
        }
        self.owes_transport_reset = false;
        session.signal(EVENT)
    }
}

/// Memory that was there when the chain was checked, and is not any more.
fn lost(queue: u16, _error: &GuestMemoryError) -> DeviceError {
    Fault::Request {
        queue,
        what: "a buffer is not memory any more",
    }
    .into()
}

impl VirtioDevice for Vsock {
    fn id(&self) -> u32 {
        ID
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        // Without any, there are streams only (§5.10.3).
        0
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        // struct virtio_vsock_config (§5.10.4): only guest_cid.
        let config = u64::from(self.cid).to_le_bytes();
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let rest = config.get(offset..).unwrap_or_default().iter();
        for (place, byte) in data.iter_mut().zip(rest.copied().chain(std::iter::repeat(0))) {
            *place = byte;
        }
    }

    fn activate(&mut self, _session: &mut Session) -> Result<(), ActivateError> {
        self.muxer.open().map_err(|source| ActivateError {
            what: "waiting for clients of a vsock device",
            source: Some(source),
        })?;
        // Whatever a snapshot left in the queues is looked at as soon as the event loop runs.
        self.muxer.kick();
        Ok(())
    }

    fn reset(&mut self) {
        self.muxer.close();
        self.owes_transport_reset = false;
    }

    fn sources(&self) -> Vec<Source<'_>> {
        vec![Source {
            descriptor: self.muxer.descriptor(),
            token: TOKEN,
        }]
    }

    fn notified(&mut self, _queue: u16, session: &mut Session) -> Result<(), DeviceError> {
        self.pump(session)
    }

    fn ready(&mut self, _token: u32, session: &mut Session) -> Result<(), DeviceError> {
        self.muxer.poll().map_err(|source| DeviceError::Host {
            what: "asking for the events of a vsock device",
            source,
        })?;
        self.pump(session)
    }

    fn save(&self) -> serde_json::Value {
        let mut ports = self.muxer.known_to_guest();
        ports.sort_unstable();
        let state = State {
            cid: self.cid.into(),
            next_port: self.muxer.next_port,
            connections: ports.into_iter().map(|ports| (ports.host, ports.guest)).collect(),
        };
        // Numbers and lists of numbers always have a JSON form.
        serde_json::to_value(state).unwrap_or_default()
    }

    fn restore(&mut self, state: serde_json::Value) -> Result<(), RestoreError> {
        let state = State::parse(state)?;
        self.muxer.next_port = state.next_port;
        for ports in state.ports() {
            self.muxer.reset(ports, STREAM);
        }
        self.owes_transport_reset = true;
        Ok(())
    }
}
