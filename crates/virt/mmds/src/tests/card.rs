//! The service behind a real network card, whose queues a driver fills: beside the real back end, and never through it.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringwall_devices::virtio::VirtioDevice as _;
use ringwall_devices::virtio::net::{Backend, Net, NetOptions, Offloads, Segmentation};
use ringwall_devices::virtio::testing::{Buffer, Harness};
use ringwall_vmm_proto::MmdsVersion;
use rustix::event::{PollFd, PollFlags, Timespec};

use super::support::{ADDRESS, GUEST, GUEST_MAC, Guest, Wire, parts, segment, service};
use crate::Detour;

/// Passes packets to and from a socket.
#[derive(Debug)]
struct Tap(UnixDatagram);

impl Backend for Tap {
    fn offloads(&self) -> Offloads {
        Offloads {
            sent: Segmentation::ALL,
            received: Segmentation::ALL,
        }
    }

    fn begin(&mut self, _offloads: Offloads) -> io::Result<()> {
        Ok(())
    }

    fn send(&mut self, packet: &[u8]) -> io::Result<()> {
        self.0.send(packet).map(|_| ())
    }

    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match self.0.recv(buffer) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A card, its driver, and what is behind its tap.
struct Machine {
    harness: Harness<Net>,
    world: UnixDatagram,
    buffers: Vec<(u16, u64)>,
    /// What the driver says of each packet.
    header: [u8; 12],
    got: std::collections::VecDeque<Vec<u8>>,
}

const BUFFER_BYTES: u32 = 1600;

impl Machine {
    fn new(version: MmdsVersion) -> Self {
        let (tap, world) = UnixDatagram::pair().unwrap();
        tap.set_nonblocking(true).unwrap();
        world.set_nonblocking(true).unwrap();
        let service = Arc::new(service(version, false, r#"{"a": {"b": "c"}}"#));
        let detour = Detour::new(Box::new(Tap(tap)), service, None).unwrap();
        let net = Net::new("test", Box::new(detour), NetOptions::default()).unwrap();
        let mut machine = Self {
            harness: Harness::new(net, 64 << 20),
            world,
            buffers: Vec::new(),
            header: [0; 12],
            got: std::collections::VecDeque::new(),
        };
        for _ in 0..64 {
            let place = machine.harness.allocate(BUFFER_BYTES.into());
            machine.give(place);
        }
        machine
    }

    fn give(&mut self, place: u64) {
        let head = self.harness.queue(0).add(&[Buffer::writable(place, BUFFER_BYTES)]);
        self.buffers.push((head, place));
        self.harness.notify(0).unwrap();
    }

    /// One turn of the event loop; false if there was nothing to do.
    fn turn(&mut self, most: Duration) -> bool {
        let tokens: Vec<u32> = {
            let sources = self.harness.device.sources();
            let mut waited: Vec<_> = sources
                .iter()
                .map(|source| PollFd::new(&source.descriptor, PollFlags::IN))
                .collect();
            let most = Timespec {
                tv_sec: i64::try_from(most.as_secs()).unwrap(),
                tv_nsec: most.subsec_nanos().into(),
            };
            rustix::event::poll(&mut waited, Some(&most)).unwrap();
            let ready = sources
                .iter()
                .zip(&waited)
                .filter(|(_, waited)| !waited.revents().is_empty());
            ready.map(|(source, _)| source.token).collect()
        };
        for token in &tokens {
            self.harness.ready(*token).unwrap();
        }
        !tokens.is_empty()
    }

    fn out(&self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 70_000];
        let bytes = self.world.recv(&mut buffer).ok()?;
        buffer.truncate(bytes);
        Some(buffer)
    }
}

impl Wire for Machine {
    fn send(&mut self, frame: &[u8]) {
        let header = self.header;
        self.harness.request(1, &[&header, frame], &[]);
    }

    fn receive(&mut self) -> Option<Vec<u8>> {
        for _ in 0..1000 {
            for used in self.harness.queue(0).take_used() {
                let index = self
                    .buffers
                    .iter()
                    .position(|(head, _)| u32::from(*head) == used.head)
                    .unwrap();
                let (_, place) = self.buffers.swap_remove(index);
                let packet = self.harness.read(place, used.written as usize);
                assert_eq!(packet[..12], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
                self.got.push_back(packet[12..].to_vec());
                self.give(place);
            }
            if let Some(frame) = self.got.pop_front() {
                return Some(frame);
            }
            if !self.turn(Duration::from_millis(1)) {
                return None;
            }
        }
        panic!("the card spins");
    }

    fn now(&self) -> Instant {
        Instant::now()
    }
}

#[test]
fn a_guest_reads_its_metadata() {
    let mut machine = Machine::new(MmdsVersion::V2);
    let mut guest = Guest::new(1500, Instant::now());
    let answer = guest.ask(
        &mut machine,
        "PUT /latest/api/token HTTP/1.1\r\nX-metadata-token-ttl-seconds: 60\r\n\r\n",
    );
    let (status, token) = parts(&answer);
    assert_eq!(status, 200);
    let get = format!("GET /a/b HTTP/1.1\r\nX-metadata-token: {token}\r\n\r\n");
    assert_eq!(parts(&guest.ask(&mut machine, &get)), (200, "c"));
    assert_eq!(machine.out(), None, "the tap has seen nothing of it");
}

#[test]
fn arp_is_answered_and_other_frames_pass() {
    let mut machine = Machine::new(MmdsVersion::V1);
    let mut question = vec![0xff; 6];
    question.extend(GUEST_MAC);
    question.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    question.extend(GUEST_MAC);
    question.extend(GUEST.octets());
    question.extend([0; 6]);
    let mut to_other = question.clone();
    question.extend(ADDRESS.octets());
    machine.send(&question);
    let answer = machine.receive().unwrap();
    assert_eq!(answer, crate::frame::arp_reply(GUEST_MAC, GUEST, ADDRESS));
    assert_eq!(machine.out(), None);
    to_other.extend([10, 0, 0, 1]);
    machine.send(&to_other);
    assert_eq!(machine.out().unwrap()[12..], to_other);
    assert_eq!(machine.receive(), None);
}

#[test]
fn the_taps_frames_come_beside_the_services() {
    let mut machine = Machine::new(MmdsVersion::V1);
    let mut guest = Guest::new(1500, Instant::now());
    let frame = |byte| {
        let mut packet = vec![0; 12];
        packet.resize(80, byte);
        packet
    };
    for byte in 1..=3 {
        machine.world.send(&frame(byte)).unwrap();
    }
    machine.send(&segment(7, 2, 1, 0, &[]));
    let got: Vec<_> = std::iter::from_fn(|| machine.receive()).collect();
    assert_eq!(got.len(), 4);
    let taps: Vec<_> = got
        .iter()
        .filter(|frame| frame[12..14] != [8, 0])
        .map(|frame| frame[20])
        .collect();
    assert_eq!(taps, [1, 2, 3], "in their order");
    machine.send(&segment(7, 4, 2, 0, &[]));
    assert_eq!(parts(&guest.ask(&mut machine, "GET /a HTTP/1.1\r\n\r\n")), (200, "b"));
}

#[test]
fn checksums_and_cutting_may_be_left_to_the_card() {
    let mut machine = Machine::new(MmdsVersion::V1);
    let mut guest = Guest::new(1500, Instant::now());
    // The checksum goes to byte 50 of the frame, and is not there yet; the segment is to be cut.
    machine.header = [1, 1, 54, 0, 0xa8, 5, 34, 0, 16, 0, 0, 0];
    let request = format!("GET /a HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(3900));
    assert_eq!(parts(&guest.ask(&mut machine, &request)), (200, "b"));
}

#[test]
fn a_driver_that_begins_again_finds_no_connections() {
    let mut machine = Machine::new(MmdsVersion::V1);
    machine.send(&segment(7, 2, 1, 0, &[]));
    assert_eq!(machine.receive().unwrap()[47] & 0x3f, 0x12, "SYN and ACK");
    machine.harness.device.reset();
    let session = &mut machine.harness.session;
    machine.harness.device.activate(session).unwrap();
    machine.send(&segment(7, 16, 2, 2, &[]));
    assert_eq!(machine.receive().unwrap()[47] & 0x3f, 4, "RST");
    let mut guest = Guest::new(1500, Instant::now());
    assert_eq!(parts(&guest.ask(&mut machine, "GET /a HTTP/1.1\r\n\r\n")), (200, "b"));
}

#[test]
fn a_guest_without_buffers_does_not_make_the_card_spin() {
    let mut machine = Machine::new(MmdsVersion::V1);
    // All buffers are used up.
    for _ in 0..64 {
        machine.world.send(&[0; 80]).unwrap();
    }
    while machine.turn(Duration::from_millis(1)) {}
    for port in 1..200 {
        machine.send(&segment(port, 2, 1, 0, &[]));
    }
    let mut turns = 0;
    while machine.turn(Duration::from_millis(20)) {
        turns += 1;
        assert!(turns < 100);
    }
    // They come when there is room.
    assert!(std::iter::from_fn(|| machine.receive()).count() > 64);
}
