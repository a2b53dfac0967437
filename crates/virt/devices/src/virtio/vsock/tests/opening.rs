//! Connections begin.

use std::io::{Read as _, Write as _};

use super::guest::{Guest, header, read_all, read_line};
use crate::virtio::VirtioDevice as _;
use crate::virtio::vsock::packet::{NO_MORE, Operation};

#[test]
fn the_host_connects_to_the_guest_and_bytes_go_both_ways() {
    let mut guest = Guest::new();
    let (mut host, port) = guest.open_from_host(52);
    host.write_all(b"from the host").unwrap();
    let (packet, data) = guest.next();
    assert_eq!(packet.operation, Operation::Data.to_wire());
    assert_eq!((packet.source_port, packet.destination_port), (port, 52));
    assert_eq!(data, b"from the host");
    guest.data(port, 52, b"from the guest");
    guest.shut(port, 52, NO_MORE);
    guest.expect(Operation::Reset);
    assert_eq!(read_all(&host), b"from the guest");
}

#[test]
fn the_guest_connects_to_the_host_and_bytes_go_both_ways() {
    let mut guest = Guest::new();
    let listener = guest.host_listens(1024);
    let mut host = guest.open_from_guest(5000, &listener, 1024);
    guest.data(1024, 5000, b"from the guest");
    let mut bytes = [0; 14];
    host.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"from the guest");
    host.write_all(b"from the host").unwrap();
    assert_eq!(guest.expect_data(13), b"from the host");
}

#[test]
fn what_comes_with_the_connect_line_is_data() {
    let mut guest = Guest::new();
    let mut host = guest.host_connects(7);
    host.write_all(b"early").unwrap();
    let request = guest.expect(Operation::Request);
    guest.expect_nothing();
    guest.say(request.source_port, 7, Operation::Response);
    assert_eq!(guest.expect_data(5), b"early");
    assert!(read_line(&host).starts_with("OK "));
}

#[test]
fn where_nobody_listens_is_a_reset() {
    let mut guest = Guest::new();
    guest.say(99, 5000, Operation::Request);
    let reset = guest.expect(Operation::Reset);
    assert_eq!((reset.source_port, reset.destination_port), (99, 5000));
    // The other way round, the client sees the end.
    let host = guest.host_connects(52);
    let request = guest.expect(Operation::Request);
    guest.say(request.source_port, 52, Operation::Reset);
    assert_eq!(read_all(&host), b"");
    guest.expect_nothing();
    assert_eq!(guest.count(|m| &m.refused), 1);
    assert_eq!(guest.harness.device.muxer().connections(), 0);
}

#[test]
fn the_answer_tells_of_the_room_for_data() {
    let mut guest = Guest::new();
    let listener = guest.host_listens(1);
    guest.send(&header(1, 2, Operation::Request), b"");
    let (response, _) = guest.next();
    assert_eq!((response.capacity, response.forwarded), (64 * 1024, 0));
    drop(listener);
}

#[test]
fn the_configuration_is_the_context_id() {
    let guest = Guest::new();
    let mut whole = [0xff; 12];
    guest.harness.device.read_config(0, &mut whole);
    assert_eq!(whole, [3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let mut part = [0xff; 2];
    guest.harness.device.read_config(7, &mut part);
    assert_eq!(part, [0, 0]);
    guest.harness.device.read_config(u64::MAX, &mut part);
    assert_eq!(part, [0, 0]);
}

#[test]
fn a_client_that_is_gone_before_the_answer_still_says_what_it_said() {
    let mut guest = Guest::new();
    let mut host = guest.host_connects(7);
    host.write_all(b"and off").unwrap();
    drop(host);
    let request = guest.expect(Operation::Request);
    guest.expect_nothing();
    guest.say(request.source_port, 7, Operation::Response);
    let (mut data, mut flags) = (Vec::new(), 0);
    while flags != NO_MORE {
        let (packet, bytes) = guest.next();
        data.extend(bytes);
        flags |= packet.flags;
    }
    assert_eq!(data, b"and off");
    guest.say(request.source_port, 7, Operation::Reset);
    assert_eq!(guest.harness.device.muxer().connections(), 0);
}

#[test]
fn a_turn_interrupts_once_for_each_queue() {
    let mut guest = Guest::new();
    let (mut host, port) = guest.open_from_host(52);
    let count = |guest: &Guest| [0, 1, 2].map(|queue| guest.harness.interrupt.of_queue(queue));
    let before = count(&guest);
    host.write_all(&[0; 20_000]).unwrap();
    guest.run();
    assert!(guest.inbox.len() > 4);
    let after = count(&guest);
    assert_eq!(after, [before[0] + 1, before[1], 0]);
    guest.data(port, 52, b"x");
    assert_eq!(count(&guest), [after[0], after[1] + 1, 0]);
}

#[test]
fn ports_of_the_host_are_not_used_twice() {
    let mut guest = Guest::new();
    guest.harness.device.muxer().next_port = (1 << 31) - 1;
    let listener = guest.host_listens(1 << 30);
    let (_one, first) = guest.open_from_host(52);
    assert_eq!(first, (1 << 31) - 1);
    // The next would be the very connection that the guest has made itself.
    let _two = guest.open_from_guest(52, &listener, 1 << 30);
    let (_three, third) = guest.open_from_host(52);
    assert_eq!(third, (1 << 30) + 1);
}
