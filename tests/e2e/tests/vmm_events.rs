//! `GET /events` of `ringwall-vmm`: what the guest says by the system-control device, for everybody who asks, whenever they ask.
#![cfg(target_arch = "x86_64")]

use std::time::{Duration, Instant};

use ringwall_e2e::vmm::{Follower, Vmm, binary, eventually};
use serde_json::{Value, json};

/// The event without its time, which is in `last..`.
#[track_caller]
fn timeless(event: Option<Value>, last: &mut u64) -> Value {
    let mut event = event.expect("an event");
    let at = event.as_object_mut().expect("an object").remove("at_us");
    let at = at.and_then(|at| at.as_u64()).expect("a time");
    assert!(at >= *last, "{at} after {last}");
    *last = at;
    event
}

#[test]
fn what_the_guest_says_reaches_those_who_were_there_and_those_who_come_late() {
    let Some(binary) = binary() else { return };
    for (letter, code, wanted) in [
        (b'q', 0, json!({"event": "shutdown", "argument": 0})),
        (b'a', 0, json!({"event": "shutdown", "argument": 0})),
        (b'p', 3, json!({"event": "panic", "argument": 7})),
        (b'o', 4, json!({"event": "reboot"})),
    ] {
        let work = tempfile::tempdir().expect("a directory");
        let mut vmm = Vmm::start(&binary, work.path(), &[]);
        let (first, status) = Follower::begin(work.path());
        assert_eq!(status, 200);
        vmm.configure(&json!({}));
        vmm.put("/actions", &json!({"action_type": "InstanceStart"}));
        vmm.until("READY\n");
        let (late, _) = Follower::begin(work.path());
        // One that sends no more still listens.
        late.end_requests();
        let mut followers = [(first, 0), (late, 0)];
        for (follower, at) in &mut followers {
            assert_eq!(timeless(follower.event(), at), json!({"event": "ready"}));
        }
        vmm.key(letter);
        for (follower, at) in &mut followers {
            assert_eq!(timeless(follower.event(), at), wanted);
            assert_eq!(follower.event(), None, "more than the end");
        }
        assert_eq!(vmm.ended().code(), Some(code), "{}", vmm.log());
    }
}

#[test]
fn many_followers_leave_room_for_requests_and_those_who_go_for_others() {
    let Some(binary) = binary() else { return };
    let work = tempfile::tempdir().expect("a directory");
    let mut vmm = Vmm::boot(&binary, work.path(), &json!({}));
    for _ in 0..40 {
        let (mut follower, status) = Follower::begin(work.path());
        assert_eq!(status, 200);
        assert!(follower.event().is_some());
    }
    // Those of before are seen to be gone when the server next looks.
    let mut all = Vec::new();
    eventually("sixteen places", || {
        let (follower, status) = Follower::begin(work.path());
        if status == 200 {
            all.push(follower);
        }
        all.len() == 16
    });
    assert_eq!(Follower::begin(work.path()).1, 503);
    for _ in 0..20 {
        assert_eq!(vmm.ask("GET", "/", None).0, 200);
    }
    assert_eq!(vmm.ask("PUT", "/events", Some(&json!({}))).0, 400);
    // None of them reads, and the end comes at once.
    let ending = Instant::now();
    vmm.key(b'q');
    assert_eq!(vmm.ended().code(), Some(0));
    assert!(ending.elapsed() < Duration::from_secs(5), "{:?}", ending.elapsed());
    for follower in &mut all {
        assert_eq!(timeless(follower.event(), &mut 0), json!({"event": "ready"}));
        assert_eq!(timeless(follower.event(), &mut 0)["event"], "shutdown");
        assert_eq!(follower.event(), None);
    }
}
