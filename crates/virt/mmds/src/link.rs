//! What is between the TCP stack and the card: the segment that came, and frames that wait for the guest.

use std::collections::VecDeque;
use std::net::Ipv4Addr;

use ringwall_devices::virtio::net::PACKET_HEADER_BYTES;
use smoltcp::phy::{Checksum, ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;

use crate::frame::{ETHERNET_BYTES, Mac, ipv4_header};

/// Most frames that wait for the guest. A guest that takes none gets no more; TCP sends again what had no room.
const MAX_FRAMES: usize = 64;
/// Most guests' addresses that are known at once: a guest may have programs with addresses of their own behind a bridge.
const MAX_NEIGHBOURS: usize = 32;
/// Where the destination is in an IPv4 header (RFC 791 §3.1).
const DESTINATION: std::ops::Range<usize> = 16..20;
/// What is before an IPv4 packet: the card's header, and Ethernet's.
const BEFORE_BYTES: usize = PACKET_HEADER_BYTES + ETHERNET_BYTES;

/// The link.
#[derive(Debug)]
pub(crate) struct Link {
    mtu: usize,
    incoming: Vec<u8>,
    has_come: bool,
    outgoing: Outgoing,
}

/// What goes to the guest.
#[derive(Debug, Default)]
struct Outgoing {
    frames: VecDeque<Vec<u8>>,
    /// The Ethernet addresses of those who talked last, the latest first.
    neighbours: VecDeque<(Ipv4Addr, Mac)>,
}

impl Link {
    /// For IPv4 packets of `mtu` bytes.
    pub(crate) fn new(mtu: u16) -> Self {
        Self {
            mtu: mtu.into(),
            incoming: Vec::new(),
            has_come: false,
            outgoing: Outgoing::default(),
        }
    }

    /// Gives a packet to the stack, which must be polled before the next.
    pub(crate) fn offer(&mut self, source: Ipv4Addr, mac: Mac, packet: &[u8]) {
        self.outgoing.learn(source, mac);
        self.incoming.clear();
        self.incoming.extend_from_slice(packet);
        self.has_come = true;
    }

    /// Forgets what the stack did not take: there was no room for an answer. Its memory too if it was a large one.
    pub(crate) fn drop_offer(&mut self) {
        self.has_come = false;
        self.incoming.clear();
        self.incoming.shrink_to(self.mtu);
    }

    /// Gives a frame to the guest, if there is room.
    pub(crate) fn push(&mut self, frame: &[u8]) {
        if self.outgoing.has_room() {
            let mut packet = vec![0; PACKET_HEADER_BYTES];
            packet.extend_from_slice(frame);
            self.outgoing.frames.push_back(packet);
        }
    }

    /// Takes the next frame for the guest, with the card's header, which asks for nothing.
    pub(crate) fn pop(&mut self) -> Option<Vec<u8>> {
        self.outgoing.frames.pop_front()
    }

    /// Whether a frame waits.
    pub(crate) fn has_frames(&self) -> bool {
        !self.outgoing.frames.is_empty()
    }
}

impl Outgoing {
    fn has_room(&self) -> bool {
        self.frames.len() < MAX_FRAMES
    }

    fn learn(&mut self, source: Ipv4Addr, mac: Mac) {
        if self.neighbours.front() == Some(&(source, mac)) {
            return;
        }
        self.neighbours.retain(|(known, _)| *known != source);
        self.neighbours.truncate(MAX_NEIGHBOURS.saturating_sub(1));
        self.neighbours.push_front((source, mac));
    }

    /// Puts a packet that has room before it into the queue; to nobody that has not talked, or long ago.
    fn send(&mut self, mut frame: Vec<u8>) {
        let packet = frame.get(BEFORE_BYTES..).unwrap_or_default();
        let Some(Ok(destination)) = packet.get(DESTINATION).map(<[u8; 4]>::try_from) else {
            return;
        };
        let destination = Ipv4Addr::from(destination);
        let Some((_, mac)) = self.neighbours.iter().find(|(known, _)| *known == destination) else {
            return;
        };
        let header = ipv4_header(*mac);
        if let Some(place) = frame.get_mut(PACKET_HEADER_BYTES..BEFORE_BYTES) {
            place.copy_from_slice(&header);
        }
        self.frames.push_back(frame);
    }
}

/// A packet for the stack.
pub(crate) struct Incoming<'a>(&'a [u8]);

impl RxToken for Incoming<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(self.0)
    }
}

/// Room for a packet of the stack.
pub(crate) struct Room<'a>(&'a mut Outgoing);

impl TxToken for Room<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, bytes: usize, write: F) -> R {
        let mut frame = vec![0; bytes.saturating_add(BEFORE_BYTES)];
        let result = write(frame.get_mut(BEFORE_BYTES..).unwrap_or_default());
        self.0.send(frame);
        result
    }
}

impl Device for Link {
    type RxToken<'a> = Incoming<'a>;
    type TxToken<'a> = Room<'a>;

    fn receive(&mut self, _now: Instant) -> Option<(Incoming<'_>, Room<'_>)> {
        if !self.has_come || !self.outgoing.has_room() {
            return None;
        }
        self.has_come = false;
        Some((Incoming(&self.incoming), Room(&mut self.outgoing)))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Room<'_>> {
        self.outgoing.has_room().then_some(Room(&mut self.outgoing))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut checksum = ChecksumCapabilities::default();
        // Nothing is lost between the guest and here, and a guest that was promised so leaves the checksum to the card.
        checksum.ipv4 = Checksum::Tx;
        checksum.tcp = Checksum::Tx;
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        capabilities.checksum = checksum;
        capabilities
    }
}
