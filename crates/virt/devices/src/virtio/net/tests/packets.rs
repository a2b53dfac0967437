//! What a good driver and back end do.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::support::{card, card_of, card_with, give_buffers, plain, poll, run_until, settle, wire};
use crate::rate_limiter::{BucketSpec, RateLimiterSpec};
use crate::virtio::VirtioDevice as _;
use crate::virtio::net::{MacAddress, MakeNetError, Net, NetOptions, Offloads, Segmentation};
use crate::virtio::testing::{Buffer, Used};

const CSUM: u64 = 1;
const GUEST_CSUM: u64 = 1 << 1;
const GUEST_TSO4: u64 = 1 << 7;
const MRG_RXBUF: u64 = 1 << 15;

#[test]
fn packets_of_the_guest_reach_the_world() {
    let (mut harness, world) = card();
    let packet = plain(60, 0xab);
    // In one piece, and in many.
    let (_, written) = harness.request(1, &[&packet], &[]);
    assert_eq!(written, 0);
    assert_eq!(world.take().unwrap(), packet);
    harness.request(1, &[&packet[..5], &packet[5..12], &packet[12..13], &packet[13..]], &[]);
    assert_eq!(world.take().unwrap(), packet);
    assert_eq!(world.take(), None);
    let metrics = harness.device.metrics();
    assert_eq!(metrics.sent.load(Ordering::Relaxed), 2);
    assert_eq!(metrics.sent_bytes.load(Ordering::Relaxed), 120);
    assert!(harness.interrupt.of_queue(1) >= 2);
}

#[test]
fn packets_of_the_world_reach_the_guest() {
    let (mut harness, world) = card();
    let places = give_buffers(&mut harness, 4, 1600);
    for byte in 1..=3 {
        world.socket.send(&plain(100, byte)).unwrap();
    }
    settle(&mut harness);
    let used = harness.queue(0).take_used();
    assert_eq!(used.len(), 3);
    for (byte, (place, used)) in (1..).zip(places.iter().zip(used)) {
        assert_eq!(used.written, 112);
        let mut expected = plain(100, byte);
        expected[10] = 1; // one buffer
        assert_eq!(harness.read(*place, 112), expected);
    }
    assert_eq!(harness.device.metrics().received.load(Ordering::Relaxed), 3);
    assert!(harness.interrupt.of_queue(0) > 0);
}

#[test]
fn a_large_packet_fills_several_buffers() {
    let (mut harness, world) = card();
    let places = give_buffers(&mut harness, 40, 2048);
    let mut packet = plain(60_000, 7);
    packet[0] = 1; // checksum
    packet[1] = 1; // TCP in IPv4
    packet[2..10].copy_from_slice(&[54, 0, 0xa8, 5, 34, 0, 16, 0]);
    world.socket.send(&packet).unwrap();
    settle(&mut harness);
    let used = harness.queue(0).take_used();
    assert_eq!(used.len(), 30);
    assert!(used[..29].iter().all(|used| used.written == 2048));
    assert_eq!(used[29].written, 60_012 - 29 * 2048);
    let got: Vec<u8> = places
        .iter()
        .zip(&used)
        .flat_map(|(place, used)| harness.read(*place, used.written as usize))
        .collect();
    packet[10] = 30;
    assert_eq!(got, packet);
}

#[test]
fn without_several_buffers_a_packet_that_is_too_large_is_dropped() {
    let (mut harness, world) = card_of(0);
    let places = give_buffers(&mut harness, 2, 1526);
    world.socket.send(&plain(1515, 1)).unwrap();
    world.socket.send(&plain(1514, 2)).unwrap();
    settle(&mut harness);
    let written: Vec<u32> = harness.queue(0).take_used().iter().map(|used| used.written).collect();
    assert_eq!(written, [0, 1526]);
    assert_eq!(harness.read(places[1], 1526)[12..], [2; 1514]);
    assert_eq!(harness.device.metrics().received_dropped.load(Ordering::Relaxed), 1);
}

#[test]
fn without_buffers_packets_wait_and_nothing_spins() {
    for features in [MRG_RXBUF, 0, MRG_RXBUF | 1 << 29] {
        let (mut harness, world) = card_of(features);
        for byte in 1..=5 {
            world.socket.send(&plain(100, byte)).unwrap();
        }
        settle(&mut harness);
        assert!(!poll(&mut harness, Duration::from_millis(20)), "nothing to do");
        assert_eq!(harness.device.metrics().received_no_room.load(Ordering::Relaxed), 1);
        let places = give_buffers(&mut harness, 2, 1600);
        harness.notify(0).unwrap();
        settle(&mut harness);
        assert_eq!(harness.queue(0).take_used().len(), 2);
        let more = give_buffers(&mut harness, 10, 1600);
        harness.notify(0).unwrap();
        settle(&mut harness);
        assert_eq!(harness.queue(0).take_used().len(), 3);
        for (byte, place) in (1..=5).zip(places.iter().chain(&more)) {
            assert_eq!(harness.read(*place, 112)[12..], [byte; 100], "in order, none lost");
        }
        // And again by itself, with the buffers that are left.
        world.socket.send(&plain(100, 6)).unwrap();
        settle(&mut harness);
        assert_eq!(harness.queue(0).take_used().len(), 1);
    }
}

#[test]
fn a_packet_waits_until_there_are_enough_buffers_for_it() {
    let (mut harness, world) = card();
    give_buffers(&mut harness, 2, 1000);
    world.socket.send(&plain(2500, 1)).unwrap();
    settle(&mut harness);
    assert_eq!(harness.queue(0).take_used(), []);
    assert!(!poll(&mut harness, Duration::from_millis(20)), "nothing to do");
    give_buffers(&mut harness, 1, 1000);
    harness.notify(0).unwrap();
    settle(&mut harness);
    let written: Vec<u32> = harness.queue(0).take_used().iter().map(|used| used.written).collect();
    assert_eq!(written, [1000, 1000, 512]);
}

#[test]
fn the_driver_is_asked_to_tell_of_the_buffer_that_is_missing() {
    // With the event index, a driver that has two buffers out tells of a third only if it is asked for just that one (§2.7.10).
    let (mut harness, world) = card_of(MRG_RXBUF | 1 << 29);
    give_buffers(&mut harness, 2, 1000);
    world.socket.send(&plain(2500, 1)).unwrap();
    settle(&mut harness);
    let available_event = harness.queue(0).used + 4 + 8 * 256;
    assert_eq!(harness.read(available_event, 2), [2, 0]);
}

#[test]
fn many_packets_both_ways() {
    let (mut harness, world) = card();
    let (mut sent, mut got, mut received) = (0_u32, 0_u32, 0_u32);
    for round in 0..200_u32 {
        let byte = u8::try_from(round % 250).unwrap();
        let place = harness.allocate(200);
        harness.queue(0).add(&[Buffer::writable(place, 200)]);
        harness.notify(0).unwrap();
        world.socket.send(&plain(100, byte)).unwrap();
        let packet = plain(60, byte);
        harness.submit(1, &[&packet], &[]);
        sent += 1;
        harness.notify(1).unwrap();
        settle(&mut harness);
        got += u32::try_from(harness.queue(0).take_used().len()).unwrap();
        assert_eq!(harness.read(place, 112)[12..], [byte; 100]);
        harness.queue(1).take_used();
        while world.take().is_some() {
            received += 1;
        }
    }
    assert_eq!((sent, got, received), (200, 200, 200));
}

#[test]
fn only_what_was_agreed_on_is_passed_on() {
    let (_harness, world) = card();
    let all = Offloads {
        sent: Segmentation::ALL,
        received: Segmentation::ALL,
    };
    assert_eq!(*world.begun.lock().unwrap(), [all]);
    let (_harness, world) = card_of(CSUM | GUEST_TSO4);
    let expected = Offloads {
        sent: Segmentation {
            checksum: true,
            ..Segmentation::default()
        },
        // Cutting without the checksum is not a thing.
        received: Segmentation::default(),
    };
    assert_eq!(*world.begun.lock().unwrap(), [expected]);
    let (_harness, world) = card_of(GUEST_CSUM | GUEST_TSO4);
    let received = world.begun.lock().unwrap()[0].received;
    assert!(received.checksum && received.tcp4 && !received.tcp6);
}

#[test]
fn features_and_configuration() {
    let (wire, _world) = wire();
    let options = NetOptions {
        mac: Some(MacAddress([2, 1, 2, 3, 4, 5])),
        mtu: Some(1400),
        ..NetOptions::default()
    };
    let net = Net::new("eth0", wire, options).unwrap();
    assert_eq!(net.features(), 0b1001_1001_1010_1011);
    assert_eq!(
        (net.id(), net.name(), net.queue_sizes()),
        (1, "net eth0", &[256, 256][..])
    );
    let mut space = [9; 14];
    net.read_config(0, &mut space);
    assert_eq!(space, [2, 1, 2, 3, 4, 5, 0, 0, 0, 0, 0x78, 5, 0, 0]);
    let made = |options| Net::new("x", super::support::wire().0, options);
    for mac in [[1, 0, 0, 0, 0, 0], [0; 6], [0xff; 6]] {
        let mac = Some(MacAddress(mac));
        let refused = made(NetOptions {
            mac,
            ..NetOptions::default()
        });
        assert!(matches!(refused, Err(MakeNetError::Mac { .. })));
    }
    let refused = made(NetOptions {
        mtu: Some(67),
        ..NetOptions::default()
    });
    assert!(matches!(refused, Err(MakeNetError::Mtu { mtu: 67 })));
}

fn ops(size: u64, refill_time_ms: u64) -> RateLimiterSpec {
    RateLimiterSpec {
        bandwidth: None,
        ops: Some(BucketSpec {
            size,
            one_time_burst: 0,
            refill_time_ms,
        }),
    }
}

#[test]
fn rate_limiters_delay_but_lose_nothing() {
    let (wire, world) = wire();
    let options = NetOptions {
        receive_limiter: ops(5, 50),
        transmit_limiter: ops(5, 50),
        ..NetOptions::default()
    };
    let mut harness = card_with(wire, options);
    give_buffers(&mut harness, 20, 1600);
    let begun = Instant::now();
    // As many as fit into a socket's queue (`net.unix.max_dgram_qlen`).
    for byte in 1..=9 {
        world.socket.send(&plain(60, byte)).unwrap();
        harness.submit(1, &[&plain(60, byte)], &[]);
    }
    harness.notify(1).unwrap();
    let (mut received, mut sent) = (0, 0);
    run_until(&mut harness, |harness| {
        received += harness.queue(0).take_used().len();
        while world.take().is_some() {
            sent += 1;
        }
        received == 9 && sent == 9
    });
    // Four more than the bucket holds, at 100 in a second.
    assert!(begun.elapsed() >= Duration::from_millis(35), "{:?}", begun.elapsed());
    let metrics = harness.device.metrics();
    assert!(metrics.sent_throttled.load(Ordering::Relaxed) > 0);
    assert!(metrics.received_throttled.load(Ordering::Relaxed) > 0);
    let heads = harness.queue(1).take_used();
    assert!(heads.iter().all(|used: &Used| used.written == 0));
    assert_eq!(heads.len(), 9);
}

#[test]
fn what_the_back_end_does_not_take_is_lost_and_counted() {
    let (mut harness, world) = card();
    drop(world);
    harness.request(1, &[&plain(60, 1)], &[]);
    assert_eq!(harness.device.metrics().sent_failed.load(Ordering::Relaxed), 1);
}

#[test]
fn a_reset_forgets_what_waits() {
    let (mut harness, world) = card();
    world.socket.send(&plain(60, 1)).unwrap();
    settle(&mut harness);
    harness.device.reset();
    world.socket.send(&plain(60, 2)).unwrap();
    assert!(
        !poll(&mut harness, Duration::from_millis(5)),
        "not waited on after a reset"
    );
    harness.device.activate(&mut harness.session).unwrap();
    let places = give_buffers(&mut harness, 2, 200);
    settle(&mut harness);
    assert_eq!(harness.queue(0).take_used().len(), 1);
    assert_eq!(harness.read(places[0], 72)[12..], [2; 60]);
}
