//! A good guest.

use std::time::Duration;

use ringwall_vmm_proto::MmdsVersion;
use smoltcp::socket::tcp::State;

use super::support::{Bare, Guest, parts, service};
use crate::stack::MAX_CONNECTIONS;

const METADATA: &str = r#"{"latest": {"meta-data": {"ami-id": "ami-1"}}}"#;

fn v1(metadata: &str, mtu: u16) -> (Bare, Guest) {
    let wire = Bare::new(service(MmdsVersion::V1, false, metadata), mtu);
    let guest = Guest::new(1500, wire.now);
    (wire, guest)
}

#[test]
fn version_1() {
    let (mut wire, mut guest) = v1(METADATA, 1500);
    let answer = guest.ask(&mut wire, "GET /latest/meta-data/ami-id HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(parts(&answer), (200, "ami-1"));
    let answer = guest.ask(&mut wire, "GET /latest HTTP/1.0\r\nAccept: application/json\r\n\r\n");
    assert_eq!(parts(&answer), (200, r#"{"meta-data":{"ami-id":"ami-1"}}"#));
    assert!(answer.contains("\r\nConnection: close\r\n"));
    let answer = guest.ask(&mut wire, "DELETE /latest HTTP/1.1\r\n\r\n");
    assert_eq!(parts(&answer).0, 405);
    assert!(answer.contains("\r\nAllow: GET, PUT\r\n"));
}

#[test]
fn version_2() {
    let mut wire = Bare::new(service(MmdsVersion::V2, false, METADATA), 1500);
    let mut guest = Guest::new(1500, wire.now);
    let answer = guest.ask(&mut wire, "GET /latest HTTP/1.1\r\n\r\n");
    assert_eq!(parts(&answer).0, 401);
    let answer = guest.ask(
        &mut wire,
        "PUT /latest/api/token HTTP/1.1\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\nContent-Length: 0\r\n\r\n",
    );
    let (status, token) = parts(&answer);
    assert_eq!(status, 200);
    assert!(
        answer.contains("\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\n"),
        "{answer}"
    );
    let get = format!("GET /latest/meta-data/ HTTP/1.1\r\nX-metadata-token: {token}\r\n\r\n");
    assert_eq!(parts(&guest.ask(&mut wire, &get)), (200, "ami-id"));
    // It ends, and is no other machine's.
    wire.now += Duration::from_secs(61);
    assert_eq!(parts(&guest.ask(&mut wire, &get)).0, 401);
    let mut clone = Bare::new(service(MmdsVersion::V2, false, METADATA), 1500);
    let mut guest = Guest::new(1500, clone.now);
    assert_eq!(parts(&guest.ask(&mut clone, &get)).0, 401);
}

#[test]
fn many_requests_on_one_connection() {
    let (mut wire, mut guest) = v1(METADATA, 1500);
    let handle = guest.connect();
    for _ in 0..50 {
        let answer = guest.ask_on(handle, &mut wire, "GET /latest/meta-data/ami-id HTTP/1.1\r\n\r\n");
        assert_eq!(parts(&answer), (200, "ami-1"));
        wire.pass(Duration::from_secs(5));
    }
    // Several at once are answered in their order.
    let answers = guest.ask_on(
        handle,
        &mut wire,
        "GET /latest HTTP/1.1\r\n\r\nGET /a HTTP/1.1\r\n\r\nGET /latest/meta-data HTTP/1.1\r\nConnection: close\r\n\r\n",
    );
    let places: Vec<_> = ["200 OK", "meta-data/", "404", "ami-id"]
        .map(|part| answers.find(part).unwrap())
        .to_vec();
    assert!(places.is_sorted(), "{answers}");
    assert_eq!(
        guest.socket(handle).state(),
        State::CloseWait,
        "the service has ended it"
    );
}

#[test]
fn long_answers_are_whole_and_in_packets_of_the_least_mtu() {
    let long: String = (0..300_000_u32)
        .map(|index| char::from(b'a' + (index % 23) as u8))
        .collect();
    let metadata = serde_json::json!({ "a": long }).to_string();
    for (ours, theirs) in [(1500, 1500), (600, 1500), (1500, 700), (68, 1500)] {
        let mut wire = Bare::new(service(MmdsVersion::V1, false, &metadata), ours);
        let mut guest = Guest::new(theirs, wire.now);
        let answer = guest.ask(&mut wire, "GET /a HTTP/1.1\r\n\r\n");
        assert_eq!(parts(&answer), (200, long.as_str()), "{ours} {theirs}");
        let longest = guest.seen.iter().map(Vec::len).max();
        assert_eq!(longest, Some(14 + theirs.min(ours.into())));
    }
}

#[test]
fn a_request_byte_by_byte() {
    let (mut wire, mut guest) = v1(METADATA, 1500);
    let handle = guest.connect();
    let request = "GET /latest/meta-data/ami-id HTTP/1.1\r\nConnection: close\r\n\r\n";
    let mut answer = String::new();
    for byte in request.split_inclusive("") {
        answer.push_str(&guest.ask_on(handle, &mut wire, byte));
    }
    assert_eq!(parts(&answer), (200, "ami-1"));
}

#[test]
fn connections_are_used_again_at_once() {
    let (mut wire, mut guest) = v1(METADATA, 1500);
    // Ended by the service, which then has to wait for late packets (RFC 9293 §3.6.1), and by the guest.
    for field in ["Connection: close", "Host: x"] {
        for round in 0..4 * MAX_CONNECTIONS {
            let answer = guest.ask(&mut wire, &format!("GET /latest HTTP/1.1\r\n{field}\r\n\r\n"));
            assert_eq!(parts(&answer).0, 200, "{round}");
        }
    }
}

#[test]
fn idle_connections_make_room_for_new_ones() {
    let (mut wire, mut guest) = v1(METADATA, 1500);
    let idle: Vec<_> = (0..MAX_CONNECTIONS)
        .map(|_| {
            let handle = guest.connect();
            assert_eq!(
                parts(&guest.ask_on(handle, &mut wire, "GET /latest HTTP/1.1\r\n\r\n")).0,
                200
            );
            wire.now += Duration::from_millis(1);
            handle
        })
        .collect();
    // For a second they are let be, and a new one waits.
    let late = guest.connect();
    assert_eq!(guest.ask_on(late, &mut wire, ""), "");
    assert_eq!(guest.socket(late).state(), State::SynSent);
    wire.pass(Duration::from_secs(2));
    let answer = guest.ask_on(late, &mut wire, "GET /latest HTTP/1.1\r\n\r\n");
    assert_eq!(parts(&answer).0, 200);
    // The one that was idle longest had to go, and was told.
    assert_eq!(guest.socket(idle[0]).state(), State::Closed);
    assert_eq!(guest.socket(idle[MAX_CONNECTIONS - 1]).state(), State::Established);
}

#[test]
fn nothing_is_done_when_there_is_nothing_to_do() {
    let (mut wire, mut guest) = v1(METADATA, 1500);
    let answer = guest.ask(&mut wire, "GET /latest HTTP/1.1\r\nConnection: close\r\n\r\n");
    assert_eq!(parts(&answer).0, 200);
    assert!(wire.pass(Duration::from_secs(100)) < 10);
    assert_eq!(wire.stack.next(wire.now), crate::alarm::When::Never);
}

#[test]
fn lost_packets_are_sent_again() {
    let long = "x".repeat(20_000);
    let (mut wire, mut guest) = v1(&serde_json::json!({ "a": long }).to_string(), 1500);
    let handle = guest.connect();
    guest.talk(&mut wire);
    guest.socket(handle).send_slice(b"GET /a HTTP/1.1\r\n\r\n").unwrap();
    let mut answer = String::new();
    for round in 0..200 {
        guest.talk(&mut wire);
        answer.push_str(&guest.read(handle));
        if answer.ends_with("xxx") && answer.len() > long.len() {
            break;
        }
        // One is lost now and then.
        if round % 3 == 0 {
            drop(super::support::Wire::receive(&mut wire));
        }
        wire.now += Duration::from_millis(1100);
        wire.stack.run(wire.now);
    }
    assert_eq!(parts(&answer), (200, long.as_str()));
}
