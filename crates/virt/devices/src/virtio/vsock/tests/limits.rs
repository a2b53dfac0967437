//! What is bounded: connections, clients, answers, time, work of a turn; and what waits while the guest gives no buffers.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::guest::{Guest, header, read_all, read_line};
use crate::virtio::vsock::accepting::MOST_CLIENTS;
use crate::virtio::vsock::muxer::{MOST_CONNECTIONS, MOST_RESETS};
use crate::virtio::vsock::packet::Operation;
use crate::virtio::vsock::{Connector, Timeouts, Vsock, listen_at};

/// Connects everything, and keeps the other ends.
#[derive(Debug, Default)]
struct Pairs(std::sync::Arc<std::sync::Mutex<Vec<UnixStream>>>);

impl Connector for Pairs {
    fn connect(&mut self, _port: u32) -> std::io::Result<std::os::fd::OwnedFd> {
        let (ours, theirs) = UnixStream::pair()?;
        self.0.lock().unwrap().push(theirs);
        Ok(ours.into())
    }
}

#[test]
fn packets_wait_for_the_guests_buffers() {
    let mut guest = Guest::starved(Timeouts::default());
    let host = guest.host_connects(52);
    guest.run();
    guest.expect_nothing();
    assert!(guest.count(|m| &m.rx_starved) > 0);
    assert!(!guest.is_ready(Duration::ZERO), "waiting makes no noise");
    guest.give(1);
    guest.notify(0);
    guest.collect();
    let request = guest.expect(Operation::Request);
    guest.say(request.source_port, 52, Operation::Response);
    assert!(read_line(&host).starts_with("OK"));
}

#[test]
fn buffers_that_come_unnoticed_are_found_at_the_next_call() {
    // As when the rx queue was notified while the VM was paused, and nobody looked.
    let mut guest = Guest::starved(Timeouts::default());
    guest.give(3);
    guest.gives_back = false;
    let (mut host, _) = guest.open_from_host(52);
    host.write_all(&[1; 9000]).unwrap();
    guest.run();
    assert_eq!(guest.inbox.len(), 2, "two buffers were left");
    guest.inbox.clear();
    guest.give(10);
    host.write_all(&[2; 10]).unwrap();
    guest.run();
    assert!(!guest.inbox.is_empty());
    guest.inbox.clear();
    host.write_all(&[3; 10]).unwrap();
    // Or any other queue is notified.
    guest.harness.notify(1).unwrap();
    guest.collect();
    guest.run();
    assert!(!guest.inbox.is_empty());
}

#[test]
fn a_storm_of_packets_for_nobody_is_answered_and_bounded() {
    let mut guest = Guest::starved(Timeouts::default());
    let mut sent = 0;
    for port in 0..2 * MOST_RESETS {
        let port = u32::try_from(port).unwrap();
        guest.post(&header(1, port, Operation::Data), b"");
        guest.notify(1);
        sent += guest.harness.queue(1).take_used().len();
        if sent == MOST_RESETS {
            break;
        }
    }
    assert_eq!(sent, MOST_RESETS);
    guest.post(&header(1, 9999, Operation::Data), b"");
    guest.notify(1);
    guest.run();
    assert_eq!(guest.harness.queue(1).take_used().len(), 0, "no more is taken");
    guest.give(200);
    guest.notify(0);
    guest.collect();
    for port in 0..MOST_RESETS {
        assert_eq!(guest.expect(Operation::Reset).destination_port as usize, port);
    }
    assert_eq!(guest.expect(Operation::Reset).destination_port, 9999);
    guest.expect_nothing();
}

#[test]
fn connections_are_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let pairs = Pairs::default();
    let ends = pairs.0.clone();
    let path = folder.path().join("v.sock");
    let device = Vsock::new("v", 3, listen_at(&path).unwrap(), Box::new(pairs), Timeouts::default()).unwrap();
    let mut guest = Guest::with_device(device, folder, 0);
    guest.give(200);
    for port in 0..MOST_CONNECTIONS {
        guest.say(1, u32::try_from(port).unwrap(), Operation::Request);
        guest.expect(Operation::Response);
    }
    guest.say(1, 5000, Operation::Request);
    guest.expect(Operation::Reset);
    let client = guest.host_connects(1);
    guest.run();
    assert_eq!(read_all(&client), b"", "the host's are refused too");
    assert_eq!(guest.count(|m| &m.refused), 2);
    assert_eq!(ends.lock().unwrap().len(), MOST_CONNECTIONS);
    guest.say(1, 7, Operation::Reset);
    guest.say(1, 5000, Operation::Request);
    guest.expect(Operation::Response);
    // All at once.
    ends.lock().unwrap().clear();
    guest.run();
    assert_eq!(
        guest.inbox.len(),
        MOST_CONNECTIONS * 2,
        "each is told of either direction"
    );
}

#[test]
fn clients_that_say_nothing_are_bounded_in_number() {
    let mut guest = Guest::new();
    let mut silent = Vec::new();
    for _ in 0..MOST_CLIENTS + 10 {
        silent.push(UnixStream::connect(guest.path()).unwrap());
        guest.run();
    }
    let ended = silent.iter().filter(|stream| has_ended(stream)).count();
    assert_eq!(ended, 10);
    assert!(silent[..10].iter().all(has_ended), "the oldest");
    let (_host, _) = guest.open_from_host(52);
    assert_eq!(guest.count(|m| &m.clients_dropped), 11);
}

/// Whether nothing more can come, without waiting.
fn has_ended(mut stream: &UnixStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    match stream.read(&mut [0]) {
        Ok(count) => count == 0,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
            false
        }
    }
}

#[test]
fn clients_that_say_nothing_are_bounded_in_time() {
    let mut guest = Guest::starved(Timeouts {
        greeting: Duration::from_millis(50),
        ..Timeouts::default()
    });
    guest.give(10);
    let silent = UnixStream::connect(guest.path()).unwrap();
    (&silent).write_all(b"CONN").unwrap();
    let start = Instant::now();
    while !has_ended(&silent) {
        assert!(start.elapsed() < Duration::from_secs(10));
        if guest.is_ready(Duration::from_millis(100)) {
            guest.run();
        }
    }
    assert!(start.elapsed() >= Duration::from_millis(50));
    guest.expect_nothing();
}

#[test]
fn a_guest_that_does_not_answer_is_given_up() {
    let mut guest = Guest::starved(Timeouts {
        request: Duration::from_millis(50),
        ..Timeouts::default()
    });
    guest.give(10);
    let host = guest.host_connects(52);
    guest.expect(Operation::Request);
    let reset = guest.expect(Operation::Reset);
    assert_eq!(read_all(&host), b"");
    // An answer that comes too late is for nobody.
    guest.say(reset.source_port, 52, Operation::Response);
    guest.expect(Operation::Reset);
    assert_eq!(guest.count(|m| &m.timed_out), 1);
}

#[test]
fn a_connection_that_the_guest_never_heard_of_goes_without_a_word() {
    let mut guest = Guest::starved(Timeouts {
        request: Duration::from_millis(50),
        ..Timeouts::default()
    });
    let host = guest.host_connects(52);
    guest.run();
    assert!(guest.is_ready(Duration::from_secs(10)));
    guest.run();
    assert_eq!(read_all(&host), b"");
    guest.give(10);
    guest.notify(0);
    guest.collect();
    guest.expect_nothing();
}

#[test]
fn a_turn_has_an_end_and_goes_on_by_itself() {
    let mut guest = Guest::new();
    let (_host, port) = guest.open_from_host(52);
    // Each of these is answered with a packet of up to 64 KiB of credit spent at once; more than one turn may cost.
    for round in 0..60 {
        let mut packet = header(port, 52 + 1 + round, Operation::Data);
        packet.length = 65536;
        guest.post(&packet, &[0; 65536]);
    }
    for _ in 0..60 {
        guest.post(&header(port, 52, Operation::CreditRequest), b"");
    }
    let start = guest.count(|m| &m.tx_packets);
    guest.notify(1);
    let once = guest.count(|m| &m.tx_packets) - start;
    assert!(once < 120, "{once}");
    guest.run();
    assert_eq!(guest.count(|m| &m.tx_packets) - start, 120);
}
