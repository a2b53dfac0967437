//! A service with metadata, and a guest with a TCP/IP of its own.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ringwall_vmm_proto::mmds_store::SharedStore;
use ringwall_vmm_proto::{MmdsStore, MmdsVersion};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer};
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr};

use crate::alarm::When;
use crate::frame::for_service;
use crate::service::Service;
use crate::stack::Stack;

pub(crate) fn store(metadata: &str) -> SharedStore {
    let mut store = MmdsStore::new(1 << 22);
    store.put(serde_json::from_str(metadata).unwrap()).unwrap();
    Arc::new(Mutex::new(store))
}

pub(crate) fn service(version: MmdsVersion, imds_compat: bool, metadata: &str) -> Service {
    let config = ringwall_vmm_proto::MmdsConfig {
        version,
        network_interfaces: Vec::new(),
        ipv4_address: ADDRESS,
        imds_compat,
    };
    Service::new(&config, store(metadata)).unwrap()
}

/// Where the tests' service is.
pub(crate) const ADDRESS: Ipv4Addr = ringwall_vmm_proto::mmds::DEFAULT_ADDRESS;
/// The guest's addresses.
pub(crate) const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
pub(crate) const GUEST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
const ETHERNET_BYTES: usize = 14;

/// What is between a guest and the service, in frames.
pub(crate) trait Wire {
    fn send(&mut self, frame: &[u8]);
    fn receive(&mut self) -> Option<Vec<u8>>;
    fn now(&self) -> Instant;
}

/// A stack in a time of its own.
pub(crate) struct Bare {
    pub(crate) stack: Stack,
    pub(crate) now: Instant,
    taken: VecDeque<Vec<u8>>,
}

impl Bare {
    pub(crate) fn new(service: Service, mtu: u16) -> Self {
        let now = Instant::now();
        let stack = Stack::new(Arc::new(service), mtu, now).unwrap();
        let taken = VecDeque::new();
        Self { stack, now, taken }
    }

    fn next(&mut self) -> Option<Vec<u8>> {
        let packet = self.stack.pop();
        if !self.stack.has_frames() {
            self.stack.run(self.now);
        }
        packet.map(|packet| {
            assert_eq!(packet[..12], [0; 12], "nothing is left to the guest");
            packet[12..].to_vec()
        })
    }

    /// Lets time pass, as the alarm would. Returns how often the stack had something to do.
    pub(crate) fn pass(&mut self, time: Duration) -> usize {
        let end = self.now + time;
        for turns in 0..100_000 {
            match self.stack.next(self.now) {
                When::At(then) if then <= end => {
                    self.now = then;
                    self.stack.run(then);
                }
                When::At(_) | When::Never => {
                    self.now = end;
                    return turns;
                }
                // The guest's card takes them, and the guest looks at them later.
                When::Now => {
                    let frame = self.next();
                    self.taken.extend(frame);
                }
            }
        }
        panic!("the stack spins");
    }
}

impl Wire for Bare {
    fn send(&mut self, frame: &[u8]) {
        if let Some(found) = for_service(frame, ADDRESS) {
            self.stack.take(found, self.now);
        }
    }

    fn receive(&mut self) -> Option<Vec<u8>> {
        self.taken.pop_front().or_else(|| self.next())
    }

    fn now(&self) -> Instant {
        self.now
    }
}

/// The guest's own TCP/IP.
pub(crate) struct Guest {
    begun: Instant,
    card: Card,
    interface: Interface,
    sockets: SocketSet<'static>,
    /// All frames that came.
    pub(crate) seen: Vec<Vec<u8>>,
}

#[derive(Default)]
struct Card {
    mtu: usize,
    received: VecDeque<Vec<u8>>,
    sent: VecDeque<Vec<u8>>,
}

pub(crate) struct Received(Vec<u8>);
pub(crate) struct Sent<'a>(&'a mut VecDeque<Vec<u8>>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(&self.0)
    }
}

impl TxToken for Sent<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, bytes: usize, write: F) -> R {
        let mut packet = vec![0; bytes];
        let result = write(&mut packet);
        self.0.push_back(packet);
        result
    }
}

impl Device for Card {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sent<'a>;

    fn receive(&mut self, _now: smoltcp::time::Instant) -> Option<(Received, Sent<'_>)> {
        let packet = self.received.pop_front()?;
        Some((Received(packet), Sent(&mut self.sent)))
    }

    fn transmit(&mut self, _now: smoltcp::time::Instant) -> Option<Sent<'_>> {
        Some(Sent(&mut self.sent))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        // All checksums are looked at.
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        capabilities
    }
}

impl Guest {
    pub(crate) fn new(mtu: usize, now: Instant) -> Self {
        let mut card = Card { mtu, ..Card::default() };
        let mut interface = Interface::new(
            Config::new(HardwareAddress::Ip),
            &mut card,
            smoltcp::time::Instant::ZERO,
        );
        interface.update_ip_addrs(|known| known.push(IpCidr::new(IpAddress::Ipv4(GUEST), 0)).unwrap());
        Self {
            begun: now,
            card,
            interface,
            sockets: SocketSet::new(Vec::new()),
            seen: Vec::new(),
        }
    }

    pub(crate) fn connect(&mut self) -> SocketHandle {
        let buffer = |bytes| SocketBuffer::new(vec![0; bytes]);
        let mut socket = Socket::new(buffer(32_768), buffer(32_768));
        // No port is used twice, so that no guest of a test meets the end of another's connection.
        static NEXT_PORT: AtomicU16 = AtomicU16::new(20_000);
        let port = NEXT_PORT.fetch_add(1, Ordering::Relaxed);
        let to = (IpAddress::Ipv4(ADDRESS), 80);
        socket.connect(self.interface.context(), to, port).unwrap();
        self.sockets.add(socket)
    }

    pub(crate) fn socket(&mut self, handle: SocketHandle) -> &mut Socket<'static> {
        self.sockets.get_mut(handle)
    }

    /// Sends and receives until nothing moves.
    pub(crate) fn talk(&mut self, wire: &mut impl Wire) {
        for _ in 0..1000 {
            let mut has_moved = false;
            while let Some(frame) = wire.receive() {
                has_moved = true;
                assert!(frame.len() <= self.card.mtu + ETHERNET_BYTES, "{}", frame.len());
                assert_eq!(
                    frame[..14],
                    [&GUEST_MAC[..], &[6, 1, 0x23, 0x45, 0x67, 1, 8, 0]].concat()
                );
                self.card.received.push_back(frame[ETHERNET_BYTES..].to_vec());
                self.seen.push(frame);
            }
            let time = wire.now().saturating_duration_since(self.begun);
            let time = smoltcp::time::Instant::from_micros(i64::try_from(time.as_micros()).unwrap());
            self.interface.poll(time, &mut self.card, &mut self.sockets);
            while let Some(packet) = self.card.sent.pop_front() {
                has_moved = true;
                wire.send(&framed(&packet));
            }
            if !has_moved {
                return;
            }
        }
        panic!("they never stop talking");
    }

    /// What has come on a connection.
    pub(crate) fn read(&mut self, handle: SocketHandle) -> String {
        let mut text = Vec::new();
        let socket = self.socket(handle);
        while let Ok(bytes) = socket.recv(|data| (data.len(), data.to_vec())) {
            if bytes.is_empty() {
                break;
            }
            text.extend(bytes);
        }
        String::from_utf8(text).unwrap()
    }

    /// Sends on a connection, and returns what is answered.
    pub(crate) fn ask_on(&mut self, handle: SocketHandle, wire: &mut impl Wire, request: &str) -> String {
        let mut rest = request.as_bytes();
        let mut text = String::new();
        for _ in 0..10_000 {
            self.talk(wire);
            if !rest.is_empty()
                && let Ok(sent) = self.socket(handle).send_slice(rest)
            {
                rest = &rest[sent..];
                continue;
            }
            let more = self.read(handle);
            if more.is_empty() {
                break;
            }
            text.push_str(&more);
        }
        text
    }

    /// Connects, asks, and returns what is answered.
    pub(crate) fn ask(&mut self, wire: &mut impl Wire, request: &str) -> String {
        let handle = self.connect();
        let answer = self.ask_on(handle, wire, request);
        self.socket(handle).close();
        self.talk(wire);
        answer
    }
}

/// A packet of the guest in a frame to no address in particular, as to its router.
pub(crate) fn framed(packet: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x52, 0, 0, 0, 0, 1];
    frame.extend(GUEST_MAC);
    frame.extend([8, 0]);
    frame.extend(packet);
    frame
}

/// Status and body of an answer.
pub(crate) fn parts(answer: &str) -> (u16, &str) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}"));
    (head[9..12].parse().unwrap(), body)
}

/// A TCP segment of the guest, without checksums.
pub(crate) fn segment(port: u16, flags: u8, sequence: u32, acknowledged: u32, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(40 + payload.len()).unwrap();
    let mut packet = vec![0x45, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
    packet.extend(GUEST.octets());
    packet.extend(ADDRESS.octets());
    packet.extend(port.to_be_bytes());
    packet.extend(80_u16.to_be_bytes());
    packet.extend(sequence.to_be_bytes());
    packet.extend(acknowledged.to_be_bytes());
    packet.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    packet.extend(payload);
    framed(&packet)
}
