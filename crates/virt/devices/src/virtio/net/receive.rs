//! From the back end to the guest.
//!
//! ```text
//!          packet taken          limiter grants        room in the queue
//! nothing -------------> held ----------------> paid ------------------> nothing
//!                          | refuses              | none
//!                          v                      v
//!               the timer comes by      the driver notifies of buffers      meanwhile the back end is not waited on
//! ```
//!
//! The descriptor that the event loop waits on is an epoll descriptor of ours with the back end's in it or not: so a full guest leaves
//! packets with the back end, which drops them as it likes, and nothing spins.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use ringwall_arch::GuestRam;
use rustix::event::epoll;

use super::backend::{Backend, MAX_PACKET_BYTES, PACKET_HEADER_BYTES, Segmentation};
use super::header::PacketHeader;
use super::metrics::{NetMetrics, add};
use super::transmit::frame_bytes;
use crate::rate_limiter::RateLimiter;
use crate::virtio::segments::copy_in;
use crate::virtio::{Chain, DeviceError, Fault, VirtQueue};

/// Packets given in one call; the descriptor stays readable for the others.
const BATCH: u16 = 64;

/// The half of a card that receives.
#[derive(Debug)]
pub(super) struct Receive {
    pub(super) limiter: RateLimiter,
    waiting: OwnedFd,
    is_waiting: bool,
    is_broken: bool,
    packet: Vec<u8>,
    held: Option<Held>,
}

/// A packet that is on its way to the guest, in `packet`.
#[derive(Debug, Clone, Copy)]
struct Held {
    bytes: usize,
    header: PacketHeader,
    is_paid: bool,
    /// It is counted as having waited for room.
    has_waited: bool,
}

/// What became of a packet.
enum Delivery {
    /// The guest has it, in more than one buffer or in one.
    Given { is_split: bool },
    /// It can't get it.
    Dropped,
    /// The guest has no buffers for it now.
    NoRoom,
}

/// What was agreed on for this direction.
#[derive(Debug, Clone, Copy)]
pub(super) struct Agreed {
    pub(super) offloads: Segmentation,
    /// A packet may fill several buffers (`VIRTIO_NET_F_MRG_RXBUF`).
    pub(super) can_split: bool,
}

impl Receive {
    pub(super) fn new(limiter: RateLimiter) -> io::Result<Self> {
        Ok(Receive {
            limiter,
            waiting: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            is_waiting: false,
            is_broken: false,
            packet: Vec::new(),
            held: None,
        })
    }

    /// Readable while there are packets and the guest may get them.
    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.waiting.as_fd()
    }

    /// Begins to wait for packets.
    pub(super) fn begin(&mut self, backend: &dyn Backend) -> io::Result<()> {
        self.is_broken = false;
        self.wait(backend, true)
    }

    /// Forgets the packet that is held, and waits for nothing.
    pub(super) fn reset(&mut self, backend: &dyn Backend) {
        // It can only fail for what is not waited on, and then all is well.
        let _none = self.wait(backend, false);
        self.held = None;
        self.packet = Vec::new();
        self.limiter.reset();
    }

    fn wait(&mut self, backend: &dyn Backend, is_waiting: bool) -> io::Result<()> {
        if is_waiting == self.is_waiting {
            return Ok(());
        }
        if is_waiting {
            epoll::add(
                &self.waiting,
                backend.descriptor(),
                epoll::EventData::new_u64(0),
                epoll::EventFlags::IN,
            )?;
        } else {
            epoll::delete(&self.waiting, backend.descriptor())?;
        }
        self.is_waiting = is_waiting;
        Ok(())
    }

    /// Gives packets to the guest, and then waits for what is missing. Returns whether one packet filled several buffers: then the guest
    /// must be interrupted whether it asked or not.
    ///
    /// # Errors
    /// A malformed ring or chain.
    pub(super) fn run(
        &mut self,
        memory: &GuestRam,
        queue: &mut VirtQueue,
        backend: &mut dyn Backend,
        agreed: Agreed,
        metrics: &NetMetrics,
    ) -> Result<bool, DeviceError> {
        let (mut is_split, mut can_go_on) = (false, true);
        for _ in 0..BATCH {
            let Some(held) = self.take(backend, agreed, metrics) else {
                can_go_on = !self.is_broken;
                break;
            };
            let held = Held { is_paid: true, ..held };
            if !self.held.is_some_and(|held| held.is_paid) {
                if !self.limiter.take(frame_bytes(held.bytes)) {
                    add(&metrics.received_throttled, 1);
                    can_go_on = false;
                    break;
                }
                self.held = Some(held);
            }
            match self.deliver(held, memory, queue, agreed.can_split)? {
                Delivery::Given { is_split: one } => {
                    is_split |= one;
                    add(&metrics.received, 1);
                    add(&metrics.received_bytes, frame_bytes(held.bytes));
                    self.held = None;
                }
                Delivery::Dropped => {
                    add(&metrics.received_dropped, 1);
                    self.held = None;
                }
                Delivery::NoRoom => {
                    add(&metrics.received_no_room, u64::from(!held.has_waited));
                    self.held = Some(Held {
                        has_waited: true,
                        ..held
                    });
                    can_go_on = false;
                    break;
                }
            }
        }
        if can_go_on {
            queue.disable_notification(memory)?;
        }
        self.wait(backend, can_go_on).map_err(|source| DeviceError::Host {
            what: "waiting for the network's back end",
            source,
        })?;
        Ok(is_split)
    }

    /// The packet that is held, or the next one. What the back end must not give is dropped.
    fn take(&mut self, backend: &mut dyn Backend, agreed: Agreed, metrics: &NetMetrics) -> Option<Held> {
        if self.held.is_some() || self.is_broken {
            return self.held;
        }
        self.packet.resize(MAX_PACKET_BYTES, 0);
        for _ in 0..BATCH {
            match backend.receive(&mut self.packet) {
                Ok(Some(bytes)) => {
                    let packet = self.packet.get(..bytes).unwrap_or(&[]);
                    let Ok(header) = PacketHeader::parse(packet, agreed.offloads) else {
                        add(&metrics.received_dropped, 1);
                        continue;
                    };
                    self.held = Some(Held {
                        bytes,
                        header,
                        is_paid: false,
                        has_waited: false,
                    });
                    return self.held;
                }
                Ok(None) => return None,
                Err(_broken) => {
                    add(&metrics.receive_failed, 1);
                    self.is_broken = true;
                    return None;
                }
            }
        }
        None
    }

    fn deliver(
        &mut self,
        held: Held,
        memory: &GuestRam,
        queue: &mut VirtQueue,
        can_split: bool,
    ) -> Result<Delivery, Fault> {
        let needed = u64::try_from(held.bytes).unwrap_or(u64::MAX);
        let most = if can_split {
            usize::from(super::device::QUEUE_SIZE)
        } else {
            1
        };
        let mut chains: Vec<Chain> = Vec::new();
        let mut room = 0_u64;
        while room < needed && chains.len() < most {
            let Some(chain) = queue.pop(memory)? else {
                // Asked for while the buffers are taken out: the driver tells of the next one after them, not of the next one at all.
                if queue.enable_notification(memory)? {
                    continue;
                }
                for _ in &chains {
                    queue.undo_pop();
                }
                return Ok(Delivery::NoRoom);
            };
            room = room.saturating_add(chain.writable_bytes());
            chains.push(chain);
        }
        let mut used: Vec<(u16, u32)> = chains.iter().map(|chain| (chain.head, 0)).collect();
        if room < needed {
            // As many buffers as there can be, and still too small: the driver gets them back, empty.
            queue.add_used_together(memory, &used)?;
            return Ok(Delivery::Dropped);
        }
        let header = PacketHeader {
            buffers: u16::try_from(chains.len()).unwrap_or(u16::MAX),
            ..held.header
        };
        if let Some(place) = self.packet.first_chunk_mut::<PACKET_HEADER_BYTES>() {
            *place = header.bytes();
        }
        let mut rest = self.packet.get(..held.bytes).unwrap_or(&[]);
        for (chain, (_, written)) in chains.iter().zip(&mut used) {
            // The segments were checked when the chain was taken.
            let done = copy_in(memory, &chain.writable, rest).map_err(|_| Fault::Request {
                queue: super::device::RECEIVE,
                what: "a buffer is not in memory",
            })?;
            *written = u32::try_from(done).unwrap_or(u32::MAX);
            rest = rest.get(done..).unwrap_or(&[]);
        }
        queue.add_used_together(memory, &used)?;
        Ok(Delivery::Given {
            is_split: used.len() > 1,
        })
    }
}
