//! Connections end: each side, each direction, each order.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::guest::{Guest, noise, read_all};
use crate::virtio::vsock::Timeouts;
use crate::virtio::vsock::packet::{NO_MORE, NO_MORE_RECEIVING, NO_MORE_SENDING, Operation};

fn opened() -> (Guest, UnixStream, u32) {
    let mut guest = Guest::new();
    let (host, port) = guest.open_from_host(52);
    (guest, host, port)
}

fn assert_gone(guest: &mut Guest) {
    guest.expect_nothing();
    assert_eq!(guest.harness.device.muxer().connections(), 0);
    assert_eq!(guest.count(|m| &m.opened), guest.count(|m| &m.closed));
}

#[test]
fn the_host_half_closes_and_goes_on_reading() {
    let (mut guest, mut host, port) = opened();
    host.write_all(b"question").unwrap();
    host.shutdown(Shutdown::Write).unwrap();
    assert_eq!(guest.next().1, b"question");
    assert_eq!(guest.expect(Operation::Shutdown).flags, NO_MORE_SENDING);
    guest.data(port, 52, b"answer");
    guest.shut(port, 52, NO_MORE);
    guest.expect(Operation::Reset);
    assert_eq!(read_all(&host), b"answer");
    assert_gone(&mut guest);
}

#[test]
fn the_guest_half_closes_and_goes_on_reading() {
    let (mut guest, mut host, port) = opened();
    guest.data(port, 52, b"question");
    guest.shut(port, 52, NO_MORE_SENDING);
    assert_eq!(read_all(&host), b"question");
    host.write_all(b"answer").unwrap();
    assert_eq!(guest.next().1, b"answer");
    drop(host);
    while guest.expect(Operation::Shutdown).flags != NO_MORE {}
    guest.say(port, 52, Operation::Reset);
    assert_gone(&mut guest);
}

#[test]
fn the_guest_stops_receiving_and_goes_on_sending() {
    let (mut guest, mut host, port) = opened();
    guest.shut(port, 52, NO_MORE_RECEIVING);
    guest.run();
    assert!(host.write_all(b"nobody").is_err());
    guest.data(port, 52, b"still");
    let mut bytes = [0; 5];
    host.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"still");
    guest.shut(port, 52, NO_MORE_SENDING);
    assert_eq!(read_all(&host), b"");
    guest.expect(Operation::Reset);
    assert_gone(&mut guest);
}

#[test]
fn the_host_closes_and_the_guest_gets_everything_before_the_end() {
    let (mut guest, mut host, port) = opened();
    let noise = noise(5, 100_000);
    host.write_all(&noise).unwrap();
    drop(host);
    let mut all = Vec::new();
    let mut flags = 0;
    while flags != NO_MORE {
        let (packet, data) = guest.next();
        all.extend(data);
        if packet.operation == Operation::Shutdown.to_wire() {
            assert_ne!(packet.flags, flags, "news each time");
            flags = packet.flags;
        }
    }
    assert!(all == noise);
    guest.say(port, 52, Operation::Reset);
    assert_gone(&mut guest);
}

#[test]
fn what_the_guest_sends_to_a_host_that_is_gone_is_dropped() {
    let (mut guest, host, port) = opened();
    drop(host);
    guest.data(port, 52, &[0; 60_000]);
    guest.data(port, 52, &[0; 60_000]);
    guest.shut(port, 52, NO_MORE);
    while guest.next().0.operation != Operation::Reset.to_wire() {}
    assert_gone(&mut guest);
    assert_eq!(guest.count(|m| &m.violations), 0);
}

#[test]
fn both_half_close_and_the_guest_is_told_that_nothing_is_left() {
    let (mut guest, host, port) = opened();
    guest.shut(port, 52, NO_MORE_SENDING);
    host.shutdown(Shutdown::Write).unwrap();
    let mut flags = 0;
    while flags != NO_MORE {
        flags |= guest.expect(Operation::Shutdown).flags;
    }
    assert_eq!(read_all(&host), b"");
    guest.shut(port, 52, NO_MORE);
    guest.expect(Operation::Reset);
    assert_gone(&mut guest);
}

#[test]
fn a_reset_in_mid_stream_ends_both_sides() {
    let (mut guest, mut host, port) = opened();
    host.write_all(&[1; 1000]).unwrap();
    guest.expect_data(1000);
    guest.data(port, 52, &[2; 1000]);
    guest.say(port, 52, Operation::Reset);
    assert_eq!(read_all(&host), [2; 1000]);
    assert!(host.write_all(b"x").is_err());
    assert_gone(&mut guest);
    // Whatever comes for it later is for nobody.
    guest.data(port, 52, b"late");
    guest.expect(Operation::Reset);
    assert_gone(&mut guest);
}

#[test]
fn a_slow_host_gets_what_the_guest_sent_before_it_closed() {
    let (mut guest, host, port) = opened();
    let noise = noise(6, 2 << 20);
    let sent = guest.fill(port, 52, &noise);
    assert!(sent > 65536);
    guest.shut(port, 52, NO_MORE);
    guest.expect_nothing();
    // The guest does not wait any longer, and may use its ports again.
    guest.say(port, 52, Operation::Reset);
    guest.expect_nothing();
    guest.say(port, 52, Operation::Request);
    guest.expect(Operation::Reset);
    let reader = std::thread::spawn(move || read_all(&host));
    while guest.harness.device.muxer().connections() > 0 {
        assert!(guest.is_ready(Duration::from_secs(10)));
        guest.run();
    }
    assert!(reader.join().unwrap() == noise[..sent]);
    assert_gone(&mut guest);
}

#[test]
fn a_guest_that_does_not_answer_the_end_is_reset() {
    let timeouts = Timeouts {
        close: Duration::from_millis(50),
        ..Timeouts::default()
    };
    let mut guest = Guest::starved(timeouts);
    guest.give(100);
    let (host, _) = guest.open_from_host(52);
    drop(host);
    let mut last = guest.next().0;
    while last.operation == Operation::Shutdown.to_wire() {
        last = guest.next().0;
    }
    assert_eq!(last.operation, Operation::Reset.to_wire());
    assert_gone(&mut guest);
    assert_eq!(guest.count(|m| &m.timed_out), 1);
}
