//! A guest that rewrites rings, descriptors and headers while the disk works on them: it may break its own device, and nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use vm_memory::{Bytes as _, GuestAddress};

use super::support::{IN, OUT, SECTORS, disk, header, options, sector_of};
use crate::virtio::block::{Block, BlockOptions, Engine, EngineChoice};
use crate::virtio::testing::Harness;
use crate::virtio::{DeviceError, VirtioDevice as _};

/// How long each engine is raced with.
const RACE: Duration = Duration::from_millis(300);

#[test]
fn a_guest_that_races_breaks_only_its_own_device() {
    for engine in [Engine::Sync, Engine::Threads, Engine::Uring] {
        let options = BlockOptions {
            engine: EngineChoice::Only(engine),
            is_read_only: true,
            ..options()
        };
        if let Err(error) = Block::new("x", super::support::file(1), options) {
            println!("SKIPPED: {engine:?}: {error}");
            continue;
        }
        let (mut harness, file) = disk(options);
        let mut heads = Vec::new();
        for sector in 0..30 {
            heads.push(harness.submit(0, &[&header(IN, sector)], &[512, 1]).0);
            heads.push(harness.submit(0, &[&header(OUT, sector), &[0xff; 512]], &[1]).0);
        }
        let until = harness.allocate(0);
        let good = harness.read(0x1000, usize::try_from(until - 0x1000).unwrap());
        let is_over = Arc::new(AtomicBool::new(false));
        let guest = {
            let (memory, is_over) = (harness.session.memory.clone(), Arc::clone(&is_over));
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
                        // Another head in the available ring.
                        _ => {
                            let slot = 0x1000 + 16 * 256 + 4 + (random >> 32) % 256 * 2;
                            memory.write_obj(u16::try_from(random >> 48).unwrap() % 256, GuestAddress(slot))
                        }
                    }
                    .unwrap();
                }
            })
        };
        let end = Instant::now() + RACE;
        let (mut rounds, mut faults) = (0_u64, 0_u64);
        let reads = |harness: &Harness<Block>| harness.device.metrics().reads.load(Ordering::Relaxed);
        // On a busy machine longer, until something was done.
        while Instant::now() < end || (reads(&harness) == 0 && Instant::now() < end + 20 * RACE) {
            rounds += 1;
            for _ in 0..4 {
                let head = heads[usize::try_from(rounds).unwrap() % heads.len()];
                harness.queue(0).publish(head);
            }
            let mut result = harness.notify(0);
            let tokens: Vec<u32> = harness.device.sources().iter().map(|source| source.token).collect();
            for token in tokens {
                result = result.and_then(|()| harness.ready(token));
            }
            if result.is_ok() && rounds.is_multiple_of(64) {
                result = harness.device.quiesce(&mut harness.session);
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
                    harness.session.queues[0] = harness.queues[0].device_side(0, rounds.is_multiple_of(2));
                    harness.device.activate(&mut harness.session).unwrap();
                }
                Err(other) => panic!("{engine:?}: {other:?}"),
            }
        }
        is_over.store(true, Ordering::Relaxed);
        guest.join().unwrap();
        harness.device.reset();
        let reads = reads(&harness);
        println!("{engine:?}: {rounds} rounds, {faults} faults, {reads} reads");
        assert!(reads > 0, "something was done between the faults");
        for sector in 0..SECTORS {
            let byte = u8::try_from(sector % 255).unwrap() + 1;
            assert_eq!(sector_of(&file, sector), [byte; 512], "a disk that is read-only");
        }
    }
}
