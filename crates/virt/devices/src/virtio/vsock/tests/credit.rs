//! Flow control as both sides see it.

use std::io::{Read as _, Write as _};

use super::guest::{Guest, header, noise};
use crate::virtio::vsock::packet::{Header, Operation};

/// The guest says how much room it has.
fn update(host: u32, guest: u32, capacity: u32, forwarded: u32) -> Header {
    let mut packet = header(host, guest, Operation::CreditUpdate);
    packet.capacity = capacity;
    packet.forwarded = forwarded;
    packet
}

#[test]
fn the_guest_is_sent_no_more_than_it_has_room_for() {
    let mut guest = Guest::new();
    let (mut host, port) = guest.open_from_host(52);
    guest.send(&update(port, 52, 1000, 0), b"");
    let noise = noise(1, 5000);
    host.write_all(&noise).unwrap();
    assert!(guest.expect_data(1000) == noise[..1000]);
    guest.expect(Operation::CreditRequest);
    guest.expect_nothing();
    // A little at a time.
    guest.send(&update(port, 52, 1000, 1), b"");
    assert!(guest.expect_data(1) == noise[1000..1001]);
    guest.expect(Operation::CreditRequest);
    guest.send(&update(port, 52, 500, 1001), b"");
    assert!(guest.expect_data(500) == noise[1001..1501]);
    guest.expect(Operation::CreditRequest);
    // A buffer that shrinks under what is in flight.
    guest.send(&update(port, 52, 10, 1001), b"");
    guest.expect_nothing();
    guest.send(&update(port, 52, u32::MAX, 1501), b"");
    assert!(guest.expect_data(3499) == noise[1501..]);
    assert_eq!(guest.count(|m| &m.violations), 0);
}

#[test]
fn a_full_host_closes_the_credit_and_opens_it_again() {
    let mut guest = Guest::new();
    let (mut host, port) = guest.open_from_host(52);
    let noise = noise(2, 4 << 20);
    let sent = guest.fill(port, 52, &noise);
    assert!(sent > 65536, "the socket takes some, {sent}");
    guest.expect_nothing();
    // Asked, the device says that there is no room; so one byte more is too many, which another test shows.
    guest.say(port, 52, Operation::CreditRequest);
    let answer = guest.expect(Operation::CreditUpdate);
    let held = u32::try_from(sent).unwrap() - answer.forwarded;
    assert!(held > answer.capacity / 2 && held <= answer.capacity, "{held}");
    let mut all = vec![0; sent];
    host.set_nonblocking(true).unwrap();
    let mut read = 0;
    let mut last = answer.forwarded;
    while read < sent {
        match host.read(&mut all[read..]) {
            Ok(count) => read += count,
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
        }
        guest.run();
        for (packet, _) in guest.inbox.drain(..) {
            assert_eq!(packet.operation, Operation::CreditUpdate.to_wire());
            last = packet.forwarded;
        }
    }
    assert!(all == noise[..sent]);
    assert_eq!(last as usize, sent, "all is forwarded, and the guest knows");
}

#[test]
fn more_than_there_is_room_for_ends_the_connection() {
    let mut guest = Guest::new();
    let (_host, port) = guest.open_from_host(52);
    for _ in 0..100 {
        guest.data(port, 52, &[0; 65536]);
        guest.run();
        if guest.count(|m| &m.violations) > 0 {
            break;
        }
    }
    assert_eq!(guest.count(|m| &m.violations), 1);
    assert_eq!(guest.harness.device.muxer().connections(), 0);
    while guest.next().0.operation != Operation::Reset.to_wire() {}
}

#[test]
fn a_busy_stream_keeps_nobody_waiting() {
    let mut guest = Guest::starved(super::super::Timeouts::default());
    guest.give(200);
    let (mut busy, _) = guest.open_from_host(1);
    let (mut quiet, _) = guest.open_from_host(2);
    guest.gives_back = false;
    busy.set_nonblocking(true).unwrap();
    while busy.write(&[0; 65536]).is_ok() {}
    quiet.write_all(b"now").unwrap();
    guest.run();
    let place = guest.inbox.iter().position(|(packet, _)| packet.destination_port == 2);
    assert!(place.unwrap() <= 2, "at its turn: {place:?}");
    assert!(guest.inbox.len() > 10);
}
