//! The same by every engine, with many requests in flight, resets among them, and a rate limiter.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::support::{FLUSH, IN, IOERR, OK, OUT, RAM, SECTORS, disk, file, header, options, poll, run, sector_of};
use crate::rate_limiter::{BucketSpec, RateLimiterSpec};
use crate::virtio::VirtioDevice as _;
use crate::virtio::block::{Block, BlockOptions, Engine, EngineChoice};
use crate::virtio::testing::Harness;

pub(super) const ALL: [Engine; 3] = [Engine::Sync, Engine::Threads, Engine::Uring];

/// Options for each engine that can be had here.
fn each() -> Vec<BlockOptions> {
    let with = |engine| BlockOptions {
        engine: EngineChoice::Only(engine),
        ..options()
    };
    let can_be_had = |options: &BlockOptions| match Block::new("x", file(1), *options) {
        Ok(_) => true,
        Err(error) => {
            println!("SKIPPED: {:?}: {error}", options.engine);
            false
        }
    };
    ALL.map(with).into_iter().filter(can_be_had).collect()
}

#[test]
fn the_engine_is_reported() {
    for options in each() {
        let block = Block::new("x", file(1), options).unwrap();
        assert_eq!(EngineChoice::Only(block.engine()), options.engine);
    }
    let block = Block::new(
        "x",
        file(1),
        BlockOptions {
            engine: EngineChoice::Auto,
            ..options()
        },
    );
    assert_ne!(block.unwrap().engine(), Engine::Sync);
}

#[test]
fn many_requests_in_flight() {
    for options in each() {
        let (mut harness, file) = disk(options);
        let mut reads = Vec::new();
        let mut writes = Vec::new();
        for sector in 0..40_u64 {
            let (_, places) = harness.submit(0, &[&header(IN, sector)], &[512, 1]);
            reads.push((sector, places));
            let byte = u8::try_from(200 - sector).unwrap();
            let (_, places) = harness.submit(0, &[&header(OUT, 100 + sector), &[byte; 512]], &[1]);
            writes.push((100 + sector, byte, places));
        }
        harness.notify(0).unwrap();
        let used = run(&mut harness, 80);
        assert_eq!(used.len(), 80);
        for (sector, places) in reads {
            assert_eq!(harness.read(places[1], 1), [OK]);
            assert_eq!(harness.read(places[0], 512), [u8::try_from(sector).unwrap() + 1; 512]);
        }
        for (sector, byte, places) in writes {
            assert_eq!(harness.read(places[0], 1), [OK]);
            assert_eq!(sector_of(&file, sector), [byte; 512]);
        }
        assert_eq!(harness.device.metrics().reads.load(Ordering::Relaxed), 40);
        assert!(harness.interrupt.of_queue(0) > 0);
    }
}

#[test]
fn more_requests_than_are_taken_at_once() {
    for options in each() {
        let (mut harness, _file) = disk(options);
        let (head, places) = harness.submit(0, &[&header(IN, 5)], &[512, 1]);
        for _ in 1..256 {
            harness.queue(0).publish(head);
        }
        harness.notify(0).unwrap();
        assert_eq!(run(&mut harness, 256).len(), 256);
        assert_eq!(harness.read(places[0], 512), [6; 512]);
    }
}

#[test]
fn errors_of_the_file_are_answered() {
    for options in each() {
        let (mut harness, file) = disk(options);
        file.set_len(512 * 9 + 100).unwrap();
        let mut all = Vec::new();
        for (sector, status) in [(8, OK), (9, IOERR), (200, IOERR)] {
            let (_, places) = harness.submit(0, &[&header(IN, sector)], &[512, 1]);
            all.push((places, status));
        }
        harness.notify(0).unwrap();
        run(&mut harness, 3);
        for (places, status) in all {
            assert_eq!(harness.read(places[1], 1), [status], "{:?}", options.engine);
        }
    }
}

#[test]
fn a_guest_without_flushes_is_answered_after_one() {
    for options in each() {
        let block = Block::new("x", file(SECTORS), options).unwrap();
        let mut harness = Harness::with_features(block, RAM, 0);
        let (_, places) = harness.submit(0, &[&header(OUT, 5), &[3; 512]], &[1]);
        harness.notify(0).unwrap();
        assert_eq!(run(&mut harness, 1).len(), 1);
        assert_eq!(harness.read(places[0], 1), [OK]);
    }
}

#[test]
fn a_reset_in_the_middle_leaves_nothing_behind() {
    for options in each() {
        let (mut harness, _file) = disk(options);
        for round in 0..20 {
            for _ in 0..20 {
                let _chain = harness.submit(0, &[&header(IN, 0)], &[4096, 1]);
            }
            let _chain = harness.submit(0, &[&header(FLUSH, 0)], &[1]);
            harness.notify(0).unwrap();
            harness.device.reset();
            // Nothing is written into the guest's memory any more.
            let _seen = harness.queue(0).take_used();
            let index = harness.queue(0).used_index();
            std::thread::sleep(Duration::from_millis(1));
            poll(&mut harness, Duration::ZERO);
            assert_eq!(harness.queue(0).used_index(), index, "round {round}");
            let device = std::mem::replace(&mut harness.device, Block::new("y", file(1), options).unwrap());
            harness = Harness::new(device, RAM);
            let (_, places) = harness.submit(0, &[&header(IN, 1)], &[512, 1]);
            harness.notify(0).unwrap();
            run(&mut harness, 1);
            assert_eq!(harness.read(places[0], 512), [2; 512]);
        }
    }
}

#[test]
fn dropped_in_the_middle() {
    for options in each() {
        let (mut harness, _file) = disk(options);
        for _ in 0..50 {
            let _chain = harness.submit(0, &[&header(IN, 0)], &[8192, 1]);
        }
        harness.notify(0).unwrap();
        drop(harness);
    }
}

#[test]
fn the_rate_limiter_delays_but_loses_nothing() {
    for options in each() {
        let options = BlockOptions {
            rate_limiter: RateLimiterSpec {
                bandwidth: None,
                ops: Some(BucketSpec {
                    size: 5,
                    one_time_burst: 0,
                    refill_time_ms: 50,
                }),
            },
            ..options
        };
        let (mut harness, _file) = disk(options);
        let begun = Instant::now();
        for _ in 0..15 {
            let _chain = harness.submit(0, &[&header(IN, 0)], &[512, 1]);
        }
        harness.notify(0).unwrap();
        assert_eq!(run(&mut harness, 15).len(), 15);
        // Ten more than the bucket holds, at 100 in a second.
        assert!(begun.elapsed() >= Duration::from_millis(95), "{:?}", begun.elapsed());
        assert!(harness.device.metrics().throttled.load(Ordering::Relaxed) > 0);
    }
}
