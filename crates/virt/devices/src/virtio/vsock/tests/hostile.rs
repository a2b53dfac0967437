//! What a driver must not do. None of it may do more than end a connection, or stop the device.

use super::guest::{Guest, header};
use crate::virtio::testing::Buffer;
use crate::virtio::vsock::packet::{HEADER_BYTES, Header, NO_MORE_SENDING, Operation, STREAM};
use crate::virtio::{DeviceError, Fault};

/// With a connection open, sends a packet that must end it.
fn ends(change: impl FnOnce(&mut Header), data: &[u8]) {
    let mut guest = Guest::new();
    let (host, port) = guest.open_from_host(52);
    let mut packet = header(port, 52, Operation::Data);
    packet.length = data.len().try_into().unwrap();
    change(&mut packet);
    guest.send(&packet, data);
    let reset = guest.expect(Operation::Reset);
    assert_eq!((reset.source_port, reset.destination_port), (port, 52));
    assert_eq!(super::guest::read_all(&host), b"");
    guest.expect_nothing();
    assert_eq!(guest.count(|m| &m.violations), 1);
    assert_eq!(guest.harness.device.muxer().connections(), 0);
}

#[test]
fn a_length_beyond_the_chain() {
    ends(|packet| packet.length = 5, b"four");
    ends(|packet| packet.length = u32::MAX, b"four");
    ends(|packet| packet.length = 65537, &[0; 65537]);
}

#[test]
fn operations_that_have_no_meaning_or_no_place() {
    for number in [0, 8, 255, u16::MAX] {
        ends(|packet| packet.operation = number, b"");
    }
    ends(|packet| packet.operation = Operation::Request.to_wire(), b"");
    ends(|packet| packet.operation = Operation::Response.to_wire(), b"");
    // Data belongs to data.
    ends(|packet| packet.operation = Operation::CreditUpdate.to_wire(), b"data");
}

#[test]
fn more_taken_than_sent() {
    ends(|packet| packet.forwarded = 1, b"x");
    ends(|packet| packet.forwarded = u32::MAX / 2, b"x");
}

#[test]
fn data_after_the_end() {
    let mut guest = Guest::new();
    let (_host, port) = guest.open_from_host(52);
    guest.shut(port, 52, NO_MORE_SENDING);
    guest.data(port, 52, b"x");
    guest.expect(Operation::Reset);
    assert_eq!(guest.count(|m| &m.violations), 1);
}

#[test]
fn anything_but_an_answer_to_a_request() {
    for operation in [
        Operation::Request,
        Operation::Data,
        Operation::Shutdown,
        Operation::CreditRequest,
    ] {
        let mut guest = Guest::new();
        let host = guest.host_connects(52);
        let request = guest.expect(Operation::Request);
        guest.say(request.source_port, 52, operation);
        guest.expect(Operation::Reset);
        assert_eq!(super::guest::read_all(&host), b"");
    }
}

#[test]
fn an_answer_to_a_question_that_was_not_asked_yet() {
    let mut guest = Guest::starved(super::super::Timeouts::default());
    let host = guest.host_connects(52);
    guest.run();
    guest.say(1 << 30, 52, Operation::Response);
    assert_eq!(super::guest::read_all(&host), b"");
    assert_eq!(guest.count(|m| &m.violations), 1);
}

#[test]
fn other_addresses_are_passed_over() {
    let mut guest = Guest::new();
    let (_host, port) = guest.open_from_host(52);
    for (source, destination) in [
        (4, 2),
        (2, 2),
        (0, 2),
        (3, 3),
        (3, 1),
        (3, u64::MAX),
        (3 | 1 << 32, 2),
        (3, 2 | 1 << 32),
    ] {
        let mut packet = header(port, 52, Operation::Reset);
        packet.source_cid = source;
        packet.destination_cid = destination;
        guest.send(&packet, b"");
    }
    guest.expect_nothing();
    assert_eq!(guest.count(|m| &m.malformed), 8);
    assert_eq!(guest.harness.device.muxer().connections(), 1);
}

#[test]
fn other_kinds_of_sockets_are_refused_in_kind() {
    let mut guest = Guest::new();
    let _listener = guest.host_listens(1);
    for kind in [0, 2, 3, u16::MAX] {
        let mut packet = header(1, 2, Operation::Request);
        packet.kind = kind;
        guest.send(&packet, b"");
        assert_eq!(guest.expect(Operation::Reset).kind, kind);
        packet.operation = Operation::Reset.to_wire();
        guest.send(&packet, b"");
    }
    guest.expect_nothing();
}

#[test]
fn a_reset_is_never_answered() {
    let mut guest = Guest::new();
    for port in 0..100 {
        guest.say(port, 1, Operation::Reset);
    }
    guest.expect_nothing();
}

#[test]
fn unknown_flags_mean_nothing() {
    let mut guest = Guest::new();
    let (_host, port) = guest.open_from_host(52);
    guest.shut(port, 52, 0xffff_fffc);
    guest.expect_nothing();
    assert_eq!(guest.harness.device.muxer().connections(), 1);
}

/// Makes a packet available in pieces of these lengths.
fn send_split(guest: &mut Guest, whole: &[u8], lengths: &[usize]) {
    let place = guest.harness.place(whole);
    let mut buffers = Vec::new();
    let mut offset = 0;
    for &length in lengths {
        let address = place + u64::try_from(offset).unwrap();
        buffers.push(Buffer::readable(address, length.try_into().unwrap()));
        offset += length;
    }
    let rest = whole.len() - offset;
    if rest > 0 {
        let address = place + u64::try_from(offset).unwrap();
        buffers.push(Buffer::readable(address, rest.try_into().unwrap()));
    }
    guest.harness.queue(1).add(&buffers);
    guest.notify(1);
    guest.collect();
}

#[test]
fn a_packet_may_be_split_anywhere() {
    use std::io::Read as _;
    let mut guest = Guest::new();
    let (mut host, port) = guest.open_from_host(52);
    let mut packet = header(port, 52, Operation::Data);
    packet.length = 6;
    let mut whole = packet.to_bytes().to_vec();
    whole.extend_from_slice(b"abcdef");
    for first in 1..whole.len() {
        send_split(&mut guest, &whole, &[first]);
        let mut bytes = [0; 6];
        host.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"abcdef");
    }
    send_split(&mut guest, &whole, &[1; 49]);
    // An empty descriptor is allowed, and what lies behind the packet is nobody's.
    send_split(&mut guest, &whole, &[0, 44, 0]);
    whole.extend_from_slice(b"behind");
    send_split(&mut guest, &whole, &[44]);
    let mut bytes = [0; 18];
    host.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"abcdefabcdefabcdef");
}

#[test]
fn less_than_a_header_is_passed_over() {
    let mut guest = Guest::new();
    let whole = header(1, 2, Operation::Data).to_bytes();
    for length in 1..HEADER_BYTES {
        send_split(&mut guest, &whole[..length], &[]);
    }
    guest.expect_nothing();
    assert_eq!(guest.count(|m| &m.malformed), 43);
    // A buffer to be written is no packet either.
    let place = guest.harness.allocate(100);
    guest.harness.queue(1).add(&[Buffer::writable(place, 100)]);
    guest.notify(1);
    assert_eq!(guest.count(|m| &m.malformed), 44);
}

#[test]
fn a_buffer_without_room_stops_the_device() {
    for bytes in [1, 43, 44] {
        let mut guest = Guest::starved(super::super::Timeouts::default());
        let place = guest.harness.allocate(100);
        guest.give_at(place, bytes);
        guest.post(&header(1, 2, Operation::Data), b"");
        let error = guest.harness.notify(1).unwrap_err();
        assert!(
            matches!(error, DeviceError::Guest(Fault::Request { queue: 0, .. })),
            "{error}"
        );
    }
}

#[test]
fn a_packet_for_the_guest_may_be_split_anywhere() {
    use std::io::Write as _;
    for first in [1, 43, 44, 45, 60] {
        let mut guest = Guest::starved(super::super::Timeouts::default());
        guest.give(1);
        guest.gives_back = false;
        let (mut host, _) = guest.open_from_host(52);
        let one = guest.harness.allocate(100);
        let two = guest.harness.allocate(100);
        let buffers = [Buffer::writable(one, first), Buffer::writable(two, 100)];
        guest.harness.queue(0).add(&buffers);
        host.write_all(b"0123456789").unwrap();
        guest.notify(0);
        while guest.is_ready(std::time::Duration::ZERO) {
            guest.harness.ready(0).unwrap();
        }
        let used = guest.harness.queue(0).take_used();
        assert_eq!(used.len(), 1);
        assert_eq!(used[0].written, 54);
        let mut whole = guest.harness.read(one, first.min(54) as usize);
        whole.extend(guest.harness.read(two, 54_usize.saturating_sub(first as usize)));
        let packet = Header::parse(whole[..HEADER_BYTES].try_into().unwrap());
        assert_eq!((packet.length, packet.kind), (10, STREAM));
        assert_eq!(&whole[HEADER_BYTES..], b"0123456789");
    }
}

#[test]
fn a_broken_ring_stops_the_device() {
    let mut guest = Guest::new();
    guest.harness.queue(1).set_available_index(1000);
    assert!(matches!(
        guest.harness.notify(1),
        Err(DeviceError::Guest(Fault::Chain { queue: 1, .. }))
    ));

    let mut guest = Guest::new();
    guest.harness.queue(1).descriptor(0, 1 << 40, 44, 0, 0);
    guest.harness.queue(1).publish(0);
    assert!(matches!(
        guest.harness.notify(1),
        Err(DeviceError::Guest(Fault::Chain { queue: 1, .. }))
    ));
}

#[test]
fn header_and_data_may_be_the_same_memory() {
    let mut guest = Guest::new();
    let (mut host, port) = guest.open_from_host(52);
    let mut packet = header(port, 52, Operation::Data);
    packet.length = 44;
    let place = guest.harness.place(&packet.to_bytes());
    guest
        .harness
        .queue(1)
        .add(&[Buffer::readable(place, 44), Buffer::readable(place, 44)]);
    guest.notify(1);
    let mut bytes = [0; 44];
    std::io::Read::read_exact(&mut host, &mut bytes).unwrap();
    assert_eq!(bytes, packet.to_bytes());
    assert_eq!(guest.harness.read(place, 44), bytes, "nothing was written to it");
}
