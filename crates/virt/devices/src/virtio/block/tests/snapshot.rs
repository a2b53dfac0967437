//! Snapshots, and another file behind the disk.

use std::time::Duration;

use serde_json::json;

use super::support::{IN, OK, RAM, SECTORS, disk, file, header, options, poll, run};
use crate::rate_limiter::{BucketSpec, RateLimiterSpec};
use crate::virtio::block::{Block, BlockOptions, CacheType, Engine, EngineChoice, ReplaceDiskError};
use crate::virtio::testing::Harness;
use crate::virtio::{RestoreError, VirtQueue, VirtioDevice as _};

#[test]
fn in_flight_requests_are_answered_before_a_snapshot() {
    for engine in [Engine::Sync, Engine::Threads, Engine::Uring] {
        let options = BlockOptions {
            engine: EngineChoice::Only(engine),
            ..options()
        };
        if let Err(error) = Block::new("x", file(1), options) {
            println!("SKIPPED: {engine:?}: {error}");
            continue;
        }
        let (mut harness, _file) = disk(options);
        let mut places = Vec::new();
        for sector in 0..60 {
            places.push(harness.submit(0, &[&header(IN, sector)], &[512, 1]).1);
        }
        harness.notify(0).unwrap();
        harness.device.quiesce(&mut harness.session).unwrap();
        assert_eq!(harness.queue(0).take_used().len(), 60, "{engine:?}");
        for (sector, places) in (0_u8..).zip(places) {
            assert_eq!(harness.read(places[0], 512), [sector + 1; 512]);
            assert_eq!(harness.read(places[1], 1), [OK]);
        }
    }
}

#[test]
fn what_the_ring_still_holds_is_done_after_a_restore() {
    let options = BlockOptions {
        rate_limiter: RateLimiterSpec {
            bandwidth: None,
            ops: Some(BucketSpec {
                size: 4,
                one_time_burst: 0,
                refill_time_ms: 100,
            }),
        },
        ..options()
    };
    let (mut harness, file) = disk(options);
    for _ in 0..10 {
        let _chain = harness.submit(0, &[&header(IN, 0)], &[512, 1]);
    }
    harness.notify(0).unwrap();
    harness.device.quiesce(&mut harness.session).unwrap();
    assert_eq!(harness.queue(0).take_used().len(), 4);
    let state = harness.device.save();
    let ring = harness.session.queues[0].state();
    // The same memory, rings and state; another device.
    let mut restored = Block::new("test", file, options).unwrap();
    restored.restore(state.clone()).unwrap();
    harness.session.queues[0] = VirtQueue::new(ring.try_into().unwrap(), 0);
    harness.device = restored;
    harness.device.activate(&mut harness.session).unwrap();
    assert_eq!(run(&mut harness, 6).len(), 6);
    poll(&mut harness, Duration::ZERO);
}

#[test]
fn the_machine_goes_on_after_a_snapshot() {
    let options = BlockOptions {
        engine: EngineChoice::Only(Engine::Threads),
        ..options()
    };
    let (mut harness, _file) = disk(options);
    let (head, _) = harness.submit(0, &[&header(IN, 0)], &[512, 1]);
    for _ in 1..256 {
        harness.queue(0).publish(head);
    }
    // Only as many as fit are in flight; the others must not be forgotten.
    harness.notify(0).unwrap();
    harness.device.quiesce(&mut harness.session).unwrap();
    assert_eq!(run(&mut harness, 256).len(), 256);
}

#[test]
fn a_state_that_does_not_fit_is_refused() {
    let (harness, _file) = disk(options());
    let state = harness.device.save();
    let with = |change: fn(&mut serde_json::Value)| {
        let mut changed = state.clone();
        change(&mut changed);
        changed
    };
    let mut block = Block::new("x", file(SECTORS), options()).unwrap();
    let mut refused = |state: serde_json::Value| block.restore(state).unwrap_err().to_string();
    assert_eq!(
        refused(with(|state| state["sectors"] = json!(7))),
        "the saved state does not fit: the disk had 7 sectors and has 256"
    );
    assert_eq!(
        refused(with(|state| state["block_bytes"] = json!(4096))),
        "the saved state does not fit: the disk's blocks had 4096 bytes and have 512"
    );
    assert_eq!(
        refused(with(|state| state["is_read_only"] = json!(true))),
        "the saved state does not fit: one of the disks is read-only"
    );
    assert_eq!(
        refused(with(|state| state["cache"] = json!("Unsafe"))),
        "the saved state does not fit: the disks' cache types differ"
    );
    let bucket = json!({"spec": {"size": 1, "one_time_burst": 0, "refill_time": 1}, "burst": 9, "level": 0, "debt": 0});
    let mut overfull = state.clone();
    overfull["limiter"]["ops"] = bucket;
    assert_eq!(
        refused(overfull),
        "the saved state does not fit: a saved bucket holds 9 tokens, but at most 0 fit"
    );
    for broken in [json!(null), json!([]), json!({"sectors": -1}), json!("x")] {
        assert!(matches!(block.restore(broken), Err(RestoreError::Malformed(_))));
    }
    block.restore(state).unwrap();
}

#[test]
fn the_name_stays_with_the_guest() {
    let (mut harness, _file) = disk(options());
    let (before, _) = harness.request(0, &[&header(8, 0)], &[20, 1]);
    let mut clone = Block::new("x", file(SECTORS), options()).unwrap();
    clone.restore(harness.device.save()).unwrap();
    let mut harness = Harness::new(clone, RAM);
    assert_eq!(harness.request(0, &[&header(8, 0)], &[20, 1]).0, before);
}

#[test]
fn another_file_behind_the_disk() {
    for engine in [Engine::Sync, Engine::Threads, Engine::Uring] {
        let options = BlockOptions {
            engine: EngineChoice::Only(engine),
            ..options()
        };
        if let Err(error) = Block::new("x", file(1), options) {
            println!("SKIPPED: {engine:?}: {error}");
            continue;
        }
        let (mut harness, _file) = disk(options);
        let (_, old) = harness.submit(0, &[&header(IN, 200)], &[512, 1]);
        harness.notify(0).unwrap();
        let Harness { device, session, .. } = &mut harness;
        device.replace_disk(file(100), Some(session)).unwrap();
        assert_eq!(harness.interrupt.of_configuration(), 1);
        assert_eq!(harness.read(old[0], 512), [201; 512], "finished on the old file");
        let mut capacity = [0; 8];
        harness.device.read_config(0, &mut capacity);
        assert_eq!(capacity, 100_u64.to_le_bytes());
        let _seen = harness.queue(0).take_used();
        let (_, places) = harness.submit(0, &[&header(IN, 200)], &[512, 1]);
        harness.notify(0).unwrap();
        run(&mut harness, 1);
        assert_eq!(harness.read(places[1], 1), [1], "beyond the new end");
    }
}

#[test]
fn a_file_that_can_not_be_the_disk_does_not_replace_it() {
    let (mut harness, _file) = disk(options());
    let directory = std::fs::File::open(".").unwrap();
    let Harness { device, session, .. } = &mut harness;
    assert!(matches!(
        device.replace_disk(directory, Some(session)),
        Err(ReplaceDiskError::Disk(_))
    ));
    assert_eq!(harness.interrupt.of_configuration(), 0);
    assert_eq!(harness.device.sectors(), SECTORS);
    let mut unused = Block::new(
        "x",
        file(3),
        BlockOptions {
            cache: CacheType::Unsafe,
            ..options()
        },
    )
    .unwrap();
    unused.replace_disk(file(5), None).unwrap();
    assert_eq!(unused.sectors(), 5);
}
