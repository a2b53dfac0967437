//! Snapshots of a card.

use serde_json::json;

use super::support::{card, card_with, give_buffers, plain, settle, wire};
use crate::rate_limiter::{BucketSpec, RateLimiterSpec};
use crate::virtio::net::{MacAddress, Net, NetOptions};
use crate::virtio::{RestoreError, VirtQueue, VirtioDevice as _};

#[test]
fn what_the_rings_hold_is_used_after_a_restore() {
    let options = NetOptions {
        transmit_limiter: RateLimiterSpec {
            bandwidth: None,
            ops: Some(BucketSpec {
                size: 2,
                one_time_burst: 0,
                refill_time_ms: 20,
            }),
        },
        ..NetOptions::default()
    };
    let (wire_before, world_before) = wire();
    let mut harness = card_with(wire_before, options);
    let places = give_buffers(&mut harness, 3, 1600);
    for byte in 1..=5 {
        harness.submit(1, &[&plain(60, byte)], &[]);
    }
    harness.notify(1).unwrap();
    harness.device.quiesce(&mut harness.session).unwrap();
    assert_eq!(harness.queue(1).take_used().len(), 2);
    let state = harness.device.save();
    let (wire, world) = wire();
    let mut restored = Net::new("test", wire, options).unwrap();
    restored.restore(state).unwrap();
    for (number, queue) in (0_u16..).zip(&mut harness.session.queues) {
        *queue = VirtQueue::new(queue.state().try_into().unwrap(), number);
    }
    harness.device = restored;
    harness.device.activate(&mut harness.session).unwrap();
    world.socket.send(&plain(60, 0x77)).unwrap();
    let mut sent = Vec::new();
    super::support::run_until(&mut harness, |_| {
        sent.extend(world.take().map(|packet| packet[12]));
        sent.len() == 3
    });
    assert_eq!(sent, [3, 4, 5]);
    assert_eq!(harness.queue(0).take_used().len(), 1);
    assert_eq!(harness.read(places[0], 72)[12..], [0x77; 60]);
    drop(world_before);
}

#[test]
fn a_state_that_does_not_fit_is_refused() {
    let (harness, _world) = card();
    let state = harness.device.save();
    let with = |mac, mtu| {
        let (wire, _) = wire();
        let options = NetOptions {
            mac,
            mtu,
            ..NetOptions::default()
        };
        Net::new("x", wire, options).unwrap()
    };
    let mac = Some(MacAddress([2, 0, 0, 0, 0, 1]));
    let refused = |mut net: Net| net.restore(state.clone()).unwrap_err().to_string();
    assert_eq!(
        refused(with(mac, None)),
        "the saved state does not fit: the network cards' addresses differ"
    );
    assert_eq!(
        refused(with(None, Some(1500))),
        "the saved state does not fit: the network cards' MTUs differ"
    );
    let mut net = with(None, None);
    for broken in [json!(null), json!({"mac": 7}), json!([])] {
        assert!(matches!(net.restore(broken), Err(RestoreError::Malformed(_))));
    }
    net.restore(state).unwrap();
}

#[test]
fn a_packet_that_waits_stays_with_the_machine_that_goes_on() {
    let (mut harness, world) = card();
    world.socket.send(&plain(60, 1)).unwrap();
    settle(&mut harness);
    harness.device.quiesce(&mut harness.session).unwrap();
    let _state = harness.device.save();
    give_buffers(&mut harness, 1, 200);
    harness.notify(0).unwrap();
    settle(&mut harness);
    assert_eq!(harness.queue(0).take_used().len(), 1);
}
