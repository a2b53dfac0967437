//! A guest that means no good: nothing panics, and everything that it can make the service keep is bounded.

use std::time::Duration;

use proptest::prelude::*;
use ringwall_vmm_proto::MmdsVersion;
use smoltcp::socket::tcp::State;

use super::support::{ADDRESS, Bare, Guest, Wire as _, framed, parts, segment, service};
use crate::stack::MAX_CONNECTIONS;

const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

fn bare() -> Bare {
    Bare::new(service(MmdsVersion::V1, false, r#"{"a": "b"}"#), 1500)
}

fn works(wire: &mut Bare) {
    let mut guest = Guest::new(1500, wire.now);
    let answer = guest.ask(wire, "GET /a HTTP/1.1\r\n\r\n");
    assert_eq!(parts(&answer), (200, "b"));
}

fn drain(wire: &mut Bare) -> Vec<Vec<u8>> {
    std::iter::from_fn(|| wire.receive()).take(10_000).collect()
}

#[test]
fn connections_that_are_only_begun_do_not_stay() {
    let mut wire = bare();
    for port in 1..=1000 {
        wire.send(&segment(port, SYN, 1, 0, &[]));
    }
    // Not more than fit wait for the guest; it takes none.
    let frames = drain(&mut wire);
    assert!(frames.len() <= 64 + MAX_CONNECTIONS, "{}", frames.len());
    wire.pass(Duration::from_secs(30));
    drain(&mut wire);
    works(&mut wire);
}

#[test]
fn connections_that_say_nothing_or_never_finish_are_ended() {
    for said in ["", "GET /a HTT"] {
        let mut wire = bare();
        let mut guest = Guest::new(1500, wire.now);
        let handle = guest.connect();
        assert_eq!(guest.ask_on(handle, &mut wire, said), "");
        assert_eq!(guest.socket(handle).state(), State::Established);
        // A byte now and then does not keep it.
        for _ in 0..31 {
            wire.pass(Duration::from_secs(1));
            if !said.is_empty() {
                let _closed = guest.socket(handle).send_slice(b"P");
            }
            guest.talk(&mut wire);
        }
        assert_eq!(guest.socket(handle).state(), State::Closed, "{said}");
    }
}

#[test]
fn many_connections_that_never_finish_are_ended_too() {
    let mut wire = bare();
    let mut guest = Guest::new(1500, wire.now);
    for _ in 0..3 * MAX_CONNECTIONS {
        let handle = guest.connect();
        guest.ask_on(handle, &mut wire, "GET /a HTT");
    }
    // All are in the middle of something: this one has to come again.
    assert_eq!(guest.ask(&mut wire, "GET /a HTTP/1.1\r\n\r\n"), "");
    wire.pass(Duration::from_secs(11));
    works(&mut wire);
}

#[test]
fn answers_that_nobody_takes_are_bounded() {
    let long = "x".repeat(600_000);
    let metadata = serde_json::json!({ "a": long }).to_string();
    let mut wire = Bare::new(service(MmdsVersion::V1, false, &metadata), 1500);
    let mut guest = Guest::new(1500, wire.now);
    let handles: Vec<_> = (0..8).map(|_| guest.connect()).collect();
    guest.talk(&mut wire);
    for handle in &handles {
        guest.socket(*handle).send_slice(b"GET /a HTTP/1.1\r\n\r\n").unwrap();
    }
    // Only as far as the guest's buffers take it: it reads nothing.
    guest.talk(&mut wire);
    let answers: Vec<_> = handles.iter().map(|handle| guest.read(*handle)).collect();
    let refused = answers
        .iter()
        .filter(|answer| answer.starts_with("HTTP/1.1 503"))
        .count();
    assert_eq!(refused, 6, "two are more than 1 MiB");
    let turns = wire.pass(Duration::from_secs(70));
    assert!(turns < 1000, "{turns}");
    guest.talk(&mut wire);
    let answer = guest.ask(&mut wire, "GET /a HTTP/1.1\r\n\r\n");
    assert_eq!(parts(&answer), (200, long.as_str()));
}

#[test]
fn a_guest_that_takes_no_frames_gets_no_more() {
    let mut wire = bare();
    for round in 0..10_000_u32 {
        // Each is answered: by a reset, as the service knows nothing of it.
        wire.send(&segment(1000, ACK, round, round, &[]));
    }
    let mut frames = 0;
    while wire.stack.pop().is_some() {
        frames += 1;
    }
    assert_eq!(frames, 64);
    works(&mut wire);
}

#[test]
fn requests_that_are_none_are_refused_and_ended() {
    for (request, status) in [
        ("\u{1}\r\n\r\n".to_owned(), 400),
        (format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(5000)), 413),
        (
            format!("PUT / HTTP/1.1\r\nContent-Length: 5000\r\n\r\n{}", "x".repeat(5000)),
            413,
        ),
        (
            "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
            400,
        ),
    ] {
        let mut wire = bare();
        let mut guest = Guest::new(1500, wire.now);
        let handle = guest.connect();
        let answer = guest.ask_on(handle, &mut wire, &request);
        assert_eq!(parts(&answer).0, status, "{request:.50}");
        assert_ne!(guest.socket(handle).state(), State::Established);
        works(&mut wire);
    }
}

#[test]
fn segments_as_large_as_there_are() {
    let mut wire = bare();
    for bytes in [1460, 10_000, 65_495] {
        wire.send(&segment(1000, ACK, 5, 5, &vec![7; bytes]));
        wire.send(&segment(1000, SYN, 5, 0, &vec![7; bytes]));
        wire.send(&segment(1000, RST, 6, 0, &[]));
    }
    drain(&mut wire);
    works(&mut wire);
}

/// One thing that a guest may do.
#[derive(Debug, Clone)]
enum Step {
    Raw(Vec<u8>),
    /// Header and options and payload of a TCP segment.
    Segment(u16, u8, u32, Vec<u8>),
    Take,
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..100);
    prop_oneof![
        bytes().prop_map(Step::Raw),
        (1..4_u16, any::<u8>(), 0..50_u32, bytes())
            .prop_map(|(port, flags, number, payload)| Step::Segment(port, flags, number, payload)),
        (
            1..4_u16,
            prop::sample::select(vec![SYN, ACK, ACK | 1, ACK | 8, RST]),
            0..5_u32,
            bytes()
        )
            .prop_map(|(port, flags, number, payload)| Step::Segment(port, flags, number, payload)),
        Just(Step::Take),
        (0..70_000_u64).prop_map(Step::Wait),
    ]
}

proptest! {
    #[test]
    fn any_steps(steps in prop::collection::vec(step(), 0..60)) {
        let mut wire = bare();
        let mut theirs = 0;
        for step in steps {
            match step {
                Step::Raw(bytes) => {
                    let mut packet = vec![0x45, 0, 0, u8::try_from(bytes.len() + 20).unwrap(), 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 2];
                    packet.extend(ADDRESS.octets());
                    packet.extend(&bytes);
                    wire.send(&framed(&packet));
                    wire.send(&bytes);
                }
                Step::Segment(port, flags, number, payload) => {
                    let mut frame = segment(port, flags, 100 + number, theirs, &payload);
                    // Options, if the payload is long enough for what this says.
                    frame[46] = 0x50 + (u8::try_from(payload.len() / 4).unwrap_or(0).min(10) << 4);
                    wire.send(&frame);
                }
                Step::Take => {
                    for frame in drain(&mut wire) {
                        // What comes next is what the service says it is.
                        theirs = u32::from_be_bytes(frame[38..42].try_into().unwrap()).wrapping_add(1);
                    }
                }
                Step::Wait(milliseconds) => drop(wire.pass(Duration::from_millis(milliseconds))),
            }
        }
        // Whatever was done, in a while all is well again.
        drain(&mut wire);
        wire.pass(Duration::from_secs(70));
        drain(&mut wire);
        works(&mut wire);
    }
}
