//! Many connections with much data, both ways at once, every byte compared.

use std::collections::HashMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use super::guest::{Guest, header, noise};
use crate::virtio::vsock::packet::{NO_MORE, NO_MORE_SENDING, Operation, Ports};

/// The guest's receive buffer of each connection.
const ROOM: u32 = 16 * 1024;
/// The noise that all connections take their bytes from, each from another place on.
const NOISE_BYTES: usize = 1 << 20;

/// One connection as both of its ends see it.
#[derive(Debug)]
struct End {
    ports: Ports,
    stream: UnixStream,
    /// Where its bytes begin in the noise; the other direction begins a prime number later.
    start: usize,
    host_written: usize,
    host_read: usize,
    guest_sent: usize,
    guest_received: usize,
    told: usize,
    /// What the device last said of its room.
    capacity: u32,
    forwarded: u32,
    device_has_shut: bool,
    host_has_end: bool,
}

impl End {
    fn new(ports: Ports, stream: UnixStream, start: usize) -> Self {
        stream.set_nonblocking(true).unwrap();
        End {
            ports,
            stream,
            start,
            host_written: 0,
            host_read: 0,
            guest_sent: 0,
            guest_received: 0,
            told: 0,
            capacity: 64 * 1024,
            forwarded: 0,
            device_has_shut: false,
            host_has_end: false,
        }
    }

    /// A piece of the endless stream to the guest, or (`back`) to the host.
    fn piece<'a>(&self, noise: &'a [u8], back: bool, from: usize, most: usize) -> &'a [u8] {
        let start = (self.start + usize::from(back) * 7919 + from) % NOISE_BYTES;
        &noise[start..(start + most).min(NOISE_BYTES)]
    }

    fn is_done(&self, bytes: usize) -> bool {
        self.host_has_end && self.device_has_shut && self.host_read == bytes && self.guest_received == bytes
    }
}

/// Lets all ends send `bytes` each way, then half-close each way, until all has come.
fn exchange(guest: &mut Guest, ends: Vec<End>, bytes: usize) {
    let noise = noise(1, NOISE_BYTES);
    let mut ends: HashMap<u32, End> = ends.into_iter().map(|end| (end.ports.guest, end)).collect();
    let mut turns = 0;
    while ends.values().any(|end| !end.is_done(bytes)) {
        turns += 1;
        assert!(turns < 20_000, "no end");
        let mut posted = 0;
        for end in ends.values_mut() {
            host_turn(end, &noise, bytes);
            if posted < 60 && guest_turn(guest, end, &noise, bytes) {
                posted += 1;
            }
        }
        guest.notify(1);
        guest.collect();
        guest.run();
        while let Some((packet, data)) = guest.inbox.pop_front() {
            let end = ends.get_mut(&packet.destination_port).unwrap();
            end.capacity = packet.capacity;
            end.forwarded = packet.forwarded;
            match Operation::from_wire(packet.operation).unwrap() {
                Operation::Data => {
                    let mut rest = &data[..];
                    while !rest.is_empty() {
                        let piece = end.piece(&noise, false, end.guest_received, rest.len());
                        assert_eq!(&rest[..piece.len()], piece, "{:?}", end.ports);
                        end.guest_received += piece.len();
                        rest = &rest[piece.len()..];
                    }
                    assert!(
                        end.guest_received - end.told <= ROOM as usize,
                        "more than there is room for"
                    );
                }
                Operation::Shutdown => {
                    assert_eq!(packet.flags & NO_MORE_SENDING, NO_MORE_SENDING);
                    assert_eq!(end.guest_received, bytes, "the end comes last");
                    end.device_has_shut = true;
                    if packet.flags == NO_MORE {
                        guest.say(end.ports.host, end.ports.guest, Operation::Reset);
                    }
                }
                Operation::CreditUpdate => {}
                Operation::CreditRequest => tell(guest, end),
                other => panic!("{other:?}"),
            }
            if end.guest_received - end.told > ROOM as usize / 2 {
                tell(guest, end);
            }
        }
    }
}

/// The guest says how much it has taken.
fn tell(guest: &mut Guest, end: &mut End) {
    end.told = end.guest_received;
    let mut packet = header(end.ports.host, end.ports.guest, Operation::CreditUpdate);
    packet.capacity = ROOM;
    packet.forwarded = u32::try_from(end.told).unwrap();
    guest.send(&packet, b"");
}

/// The host's program writes and reads what goes.
fn host_turn(end: &mut End, noise: &[u8], bytes: usize) {
    while end.host_written < bytes {
        let piece = end.piece(noise, false, end.host_written, (bytes - end.host_written).min(50_000));
        match end.stream.write(piece) {
            Ok(count) => end.host_written += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
        if end.host_written == bytes {
            end.stream.shutdown(Shutdown::Write).unwrap();
        }
    }
    let mut room = [0; 20_000];
    while !end.host_has_end {
        match end.stream.read(&mut room) {
            Ok(0) => end.host_has_end = true,
            Ok(count) => {
                let mut rest = &room[..count];
                while !rest.is_empty() {
                    let piece = end.piece(noise, true, end.host_read, rest.len());
                    assert_eq!(&rest[..piece.len()], piece, "{:?}", end.ports);
                    end.host_read += piece.len();
                    rest = &rest[piece.len()..];
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
    }
}

/// The guest sends what it has credit for. Returns whether it has sent anything.
fn guest_turn(guest: &mut Guest, end: &mut End, noise: &[u8], bytes: usize) -> bool {
    let in_flight = u32::try_from(end.guest_sent).unwrap().wrapping_sub(end.forwarded);
    let credit = end.capacity - in_flight;
    let most = (bytes - end.guest_sent).min(credit as usize).min(30_000);
    if most == 0 {
        return false;
    }
    let piece = end.piece(noise, true, end.guest_sent, most);
    let mut packet = header(end.ports.host, end.ports.guest, Operation::Data);
    packet.length = u32::try_from(piece.len()).unwrap();
    packet.capacity = ROOM;
    packet.forwarded = u32::try_from(end.told).unwrap();
    guest.post(&packet, piece);
    end.guest_sent += piece.len();
    if end.guest_sent == bytes {
        let mut packet = header(end.ports.host, end.ports.guest, Operation::Shutdown);
        packet.flags = NO_MORE_SENDING;
        packet.capacity = ROOM;
        packet.forwarded = u32::try_from(end.told).unwrap();
        guest.post(&packet, b"");
    }
    true
}

/// Opens `count` connections, half of them by either side.
fn open(guest: &mut Guest, count: u32) -> Vec<End> {
    let listener = guest.host_listens(80);
    (0..count)
        .map(|number| {
            let port = 10_000 + number;
            let start = number as usize * 4001;
            if number % 2 == 0 {
                let stream = guest.host_connects(port);
                let request = guest.expect(Operation::Request);
                let mut answer = header(request.source_port, port, Operation::Response);
                answer.capacity = ROOM;
                guest.send(&answer, b"");
                super::guest::read_line(&stream);
                let host = request.source_port;
                End::new(Ports { host, guest: port }, stream, start)
            } else {
                let mut question = header(80, port, Operation::Request);
                question.capacity = ROOM;
                guest.send(&question, b"");
                guest.expect(Operation::Response);
                let (stream, _) = listener.accept().unwrap();
                End::new(Ports { host: 80, guest: port }, stream, start)
            }
        })
        .collect()
}

#[test]
fn two_hundred_connections_carry_what_was_sent() {
    let mut guest = Guest::new();
    let ends = open(&mut guest, 200);
    assert_eq!(guest.harness.device.muxer().connections(), 200);
    exchange(&mut guest, ends, 1_000_000);
    assert_eq!(guest.count(|m| &m.violations), 0);
    assert_eq!(guest.count(|m| &m.rx_bytes), 200 * 1_000_000);
    assert_eq!(guest.count(|m| &m.tx_bytes), 200 * 1_000_000);
}

#[test]
fn no_notification_is_missed_with_the_event_index() {
    let mut guest = Guest::with_event_index();
    let ends = open(&mut guest, 20);
    exchange(&mut guest, ends, 500_000);
}

#[test]
fn a_long_stream_carries_what_was_sent() {
    let mut guest = Guest::new();
    let ends = open(&mut guest, 2);
    exchange(&mut guest, ends, 16 << 20);
}

#[test]
fn counters_wrap_in_the_middle_of_a_stream() {
    let mut guest = Guest::new();
    let listener = guest.host_listens(1);
    let mut host = guest.open_from_guest(2, &listener, 1);
    let start = u32::MAX - 100_000;
    guest.harness.device.muxer().age(Ports { host: 1, guest: 2 }, start);
    let noise = noise(3, 400_000);
    let mut sent = 0_u32;
    for piece in noise.chunks(40_000) {
        // To the host, and back to the guest.
        let mut packet = header(1, 2, Operation::Data);
        packet.length = u32::try_from(piece.len()).unwrap();
        packet.capacity = 64 * 1024;
        packet.forwarded = start.wrapping_add(sent);
        guest.send(&packet, piece);
        let mut back = vec![0; piece.len()];
        host.read_exact(&mut back).unwrap();
        assert!(back == piece);
        host.write_all(&back).unwrap();
        let mut all = Vec::new();
        while all.len() < piece.len() {
            let (packet, data) = guest.next();
            all.extend(data);
            sent += packet.length;
            if packet.operation == Operation::Data.to_wire() {
                assert_eq!(packet.forwarded, start.wrapping_add(sent.next_multiple_of(40_000)));
            }
        }
        assert!(all == piece);
    }
    assert_eq!(guest.count(|m| &m.violations), 0);
}
