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
