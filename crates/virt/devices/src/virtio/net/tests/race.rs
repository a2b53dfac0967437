//! A guest that rewrites rings, descriptors and headers while the card works on them: it may break its own device, and nothing else; and
//! what reaches the back end was checked as it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use vm_memory::{Bytes as _, GuestAddress};

use super::support::{card, give_buffers, plain};
use crate::virtio::net::{PacketHeader, Segmentation};
use crate::virtio::testing::DriverQueue;
use crate::virtio::{DeviceError, VirtioDevice as _};

/// How long it is raced.
const RACE: Duration = Duration::from_millis(500);

#[test]
fn a_guest_that_races_breaks_only_its_own_device() {
    let (mut harness, world) = card();
    give_buffers(&mut harness, 100, 300);
    let mut packet = plain(200, 1);
    packet[..10].copy_from_slice(&[1, 1, 54, 0, 0xa8, 5, 34, 0, 16, 0]);
    let heads: Vec<u16> = (0..100).map(|_| harness.submit(1, &[&packet], &[]).0).collect();
    let until = harness.allocate(0);
    let good = harness.read(0x1000, usize::try_from(until - 0x1000).unwrap());
    let is_over = Arc::new(AtomicBool::new(false));
    let guest = {
        let (memory, is_over) = (harness.session.memory.clone(), Arc::clone(&is_over));
        let rings = [0x1000, 0x1000 + DriverQueue::footprint(256)].map(|base| base + 16 * 256 + 4);
        std::thread::spawn(move || {
            let mut random = 0x9e37_79b9_7f4a_7c15_u64;
            while !is_over.load(Ordering::Relaxed) {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                let place = 0x1000 + (random >> 16) % (until - 0x1000 - 8);
                match random % 4 {
                    0 => memory.write_obj(u8::try_from(random >> 56).unwrap(), GuestAddress(place)),
                    1 => memory.write_obj(u16::try_from(random >> 48).unwrap() % 512, GuestAddress(place & !1)),
                    2 => memory.write_obj(0x1000_u64 + random % 0x10000, GuestAddress(place & !7)),
                    _ => {
                        // Another head in an available ring.
                        let slot = rings[usize::try_from(random >> 63).unwrap()] + (random >> 32) % 256 * 2;
                        memory.write_obj(u16::try_from(random >> 48).unwrap() % 256, GuestAddress(slot))
                    }
                }
                .unwrap();
            }
        })
    };
    let end = Instant::now() + RACE;
    let (mut rounds, mut faults, mut sent) = (0_u64, 0_u64, 0_u64);
    // On a busy machine longer, until something was done.
    while Instant::now() < end || (sent == 0 && Instant::now() < end + 20 * RACE) {
        rounds += 1;
        let _full = world.socket.send(&plain(1000, 1));
        harness.queue(0).publish(u16::try_from(rounds % 100).unwrap());
        for _ in 0..4 {
            let head = heads[usize::try_from(rounds).unwrap() % heads.len()];
            harness.queue(1).publish(head);
        }
        let mut result = harness.notify(0).and_then(|()| harness.notify(1));
        for token in 0..4 {
            result = result.and_then(|()| harness.ready(token));
        }
        match result {
            Ok(()) if rounds % 32 != 0 => {}
            // As the transport does it.
            Ok(()) | Err(DeviceError::Guest(_)) => {
                faults += u64::from(result.is_err());
                harness.device.reset();
                // As good as at the beginning, for a moment.
                let memory = &harness.session.memory;
                memory.write_slice(&good, GuestAddress(0x1000)).unwrap();
                for (number, queue) in (0_u16..).zip(&mut harness.session.queues) {
                    *queue = harness.queues[usize::from(number)].device_side(number, rounds.is_multiple_of(2));
                }
                harness.device.activate(&mut harness.session).unwrap();
            }
            Err(other) => panic!("{other:?}"),
        }
        while let Some(packet) = world.take() {
            sent += 1;
            let header = PacketHeader::parse(&packet, Segmentation::ALL).unwrap();
            assert_eq!(header.bytes(), packet[..12]);
        }
    }
    is_over.store(true, Ordering::Relaxed);
    guest.join().unwrap();
    harness.device.reset();
    println!("{rounds} rounds, {faults} faults, {sent} packets sent");
    assert!(
        faults > 0 && rounds > 10,
        "the race was one: {rounds} rounds, {faults} faults"
    );
}
