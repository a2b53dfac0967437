//! What a good driver asks for.

use std::os::unix::fs::FileExt as _;
use std::sync::atomic::Ordering;

use super::support::{
    DISCARD, FLUSH, GET_ID, IN, OK, OUT, SECTORS, UNSUPP, WRITE_ZEROES, disk, file, header, options, range, sector_of,
};
use crate::virtio::VirtioDevice as _;
use crate::virtio::block::{Block, BlockOptions, CacheType};
use crate::virtio::testing::{Buffer, Harness};

#[test]
fn reads_and_writes() {
    let (mut harness, file) = disk(options());
    let (out, written) = harness.request(0, &[&header(IN, 3)], &[1024, 1]);
    assert_eq!(out[0], [[4; 512], [5; 512]].concat());
    assert_eq!((out[1][0], written), (OK, 1025));
    let (out, written) = harness.request(0, &[&header(OUT, SECTORS - 1), &[0xaa; 512]], &[1]);
    assert_eq!((out[0][0], written), (OK, 1));
    assert_eq!(sector_of(&file, SECTORS - 1), [0xaa; 512]);
    let (out, _) = harness.request(0, &[&header(IN, SECTORS - 1)], &[512, 1]);
    assert_eq!(out[0], [0xaa; 512]);
    let metrics = harness.device.metrics();
    assert_eq!(metrics.reads.load(Ordering::Relaxed), 2);
    assert_eq!(metrics.read_bytes.load(Ordering::Relaxed), 1536);
    assert_eq!(metrics.writes.load(Ordering::Relaxed), 1);
    assert_eq!(metrics.written_bytes.load(Ordering::Relaxed), 512);
    assert_eq!(harness.interrupt.of_queue(0), 3);
}

#[test]
fn a_request_may_be_split_anywhere() {
    let (mut harness, file) = disk(options());
    let head = header(OUT, 7);
    let data = [[1_u8; 512], [2; 512]].concat();
    let parts: [&[u8]; 5] = [
        &head[..1],
        &head[1..15],
        &[&head[15..], &data[..100]].concat(),
        &data[100..101],
        &data[101..],
    ];
    let (out, written) = harness.request(0, &parts, &[1]);
    assert_eq!((out[0][0], written), (OK, 1));
    assert_eq!(sector_of(&file, 7), [1; 512]);
    assert_eq!(sector_of(&file, 8), [2; 512]);
    // The status is the last writable byte, here at the end of a buffer with data.
    let (out, written) = harness.request(0, &[&header(IN, 7)], &[1, 511, 100, 413]);
    assert_eq!(out.concat()[..1024], data);
    assert_eq!((out[3][412], written), (OK, 1025));
}

#[test]
fn flushes_if_that_is_on_offer() {
    let (mut harness, _file) = disk(options());
    let (out, written) = harness.request(0, &[&header(FLUSH, 0)], &[1]);
    assert_eq!((out[0][0], written), (OK, 1));
    assert_eq!(harness.device.metrics().flushes.load(Ordering::Relaxed), 1);
    let (mut harness, _file) = disk(BlockOptions {
        cache: CacheType::Unsafe,
        ..options()
    });
    let (out, _) = harness.request(0, &[&header(FLUSH, 0)], &[1]);
    assert_eq!(out[0][0], UNSUPP);
}

#[test]
fn a_guest_without_flushes_gets_each_write_to_the_disk() {
    let block = Block::new("test", file(SECTORS), options()).unwrap();
    let features = block.features() & !(1 << 9);
    let mut harness = Harness::with_features(block, super::support::RAM, features);
    let (out, _) = harness.request(0, &[&header(OUT, 0), &[1; 512]], &[1]);
    assert_eq!(out[0][0], OK);
    let metrics = harness.device.metrics();
    assert_eq!(metrics.writes.load(Ordering::Relaxed), 1);
}

#[test]
fn tells_its_name() {
    let (mut harness, _file) = disk(options());
    let (out, written) = harness.request(0, &[&header(GET_ID, 0)], &[20, 1]);
    assert_eq!((out[1][0], written), (OK, 21));
    assert!(out[0].contains(&b'-'), "{:?}", out[0]);
    // More room than needed: the rest stays as it was, and the length says so.
    let (out, written) = harness.request(0, &[&header(GET_ID, 99)], &[30, 1]);
    assert_eq!((out[1][0], written), (OK, 20));
    assert_eq!(out[0][20..], [0; 10]);
}

#[test]
fn discards_and_writes_zeros() {
    let (mut harness, file) = disk(options());
    for (kind, sector, sectors, flags) in [(DISCARD, 8, 8, 0), (WRITE_ZEROES, 32, 3, 0), (WRITE_ZEROES, 40, 8, 1)] {
        let (out, written) = harness.request(0, &[&header(kind, 0), &range(sector, sectors, flags)], &[1]);
        assert_eq!((out[0][0], written), (OK, 1), "{kind} {flags}");
        for sector in sector..sector + u64::from(sectors) {
            assert_eq!(sector_of(&file, sector), [0; 512]);
        }
        for sector in [sector - 1, sector + u64::from(sectors)] {
            assert_ne!(sector_of(&file, sector), [0; 512]);
        }
    }
    assert_eq!(file.metadata().unwrap().len(), SECTORS * 512);
    let metrics = harness.device.metrics();
    assert_eq!(metrics.discards.load(Ordering::Relaxed), 1);
    assert_eq!(metrics.zeroes.load(Ordering::Relaxed), 2);
}

#[test]
fn zeros_get_written_where_the_file_system_has_no_call_for_it() {
    // tmpfs has PUNCH_HOLE but not ZERO_RANGE (fallocate(2)).
    let Ok(file) = tempfile::tempfile_in("/dev/shm") else {
        println!("SKIPPED: no tmpfs at /dev/shm");
        return;
    };
    file.write_all_at(&[9; 4096], 0).unwrap();
    for engine in super::engines::ALL {
        let options = BlockOptions {
            engine: crate::virtio::block::EngineChoice::Only(engine),
            ..options()
        };
        file.write_all_at(&[9; 4096], 0).unwrap();
        let Ok(block) = Block::new("test", file.try_clone().unwrap(), options) else {
            println!("SKIPPED: no {engine:?} here");
            continue;
        };
        let mut harness = Harness::new(block, super::support::RAM);
        let (_, places) = harness.submit(0, &[&header(WRITE_ZEROES, 0), &range(1, 2, 0)], &[1]);
        harness.notify(0).unwrap();
        super::support::run(&mut harness, 1);
        assert_eq!(harness.read(places[0], 1), [OK], "{engine:?}");
        assert_eq!(sector_of(&file, 0), [9; 512]);
        assert_eq!(sector_of(&file, 1), [0; 512]);
        assert_eq!(sector_of(&file, 2), [0; 512]);
        assert_eq!(sector_of(&file, 3), [9; 512]);
    }
}

#[test]
fn the_configuration_tells_capacity_and_limits() {
    let (harness, _file) = disk(options());
    let mut space = [0xff; 80];
    harness.device.read_config(0, &mut space);
    assert_eq!(space[..8], SECTORS.to_le_bytes());
    assert_eq!(space[12..16], 254_u32.to_le_bytes());
    assert_eq!(space[20..24], 512_u32.to_le_bytes());
    assert_eq!(space[32], 1);
    assert_eq!(space[72..], [0; 8]);
    // RO, FLUSH, DISCARD, WRITE_ZEROES.
    for (options, expected) in [
        (options(), 1 << 2 | 1 << 6 | 1 << 9 | 1 << 13 | 1 << 14),
        (
            BlockOptions {
                is_read_only: true,
                cache: CacheType::Unsafe,
                ..options()
            },
            1 << 2 | 1 << 5 | 1 << 6,
        ),
    ] {
        assert_eq!(Block::new("x", file(1), options).unwrap().features(), expected);
    }
}

#[test]
fn without_the_page_cache_blocks_are_larger() {
    let options = BlockOptions {
        is_direct: true,
        ..options()
    };
    let block = match Block::new("x", file(SECTORS), options) {
        Ok(block) => block,
        Err(error) => {
            println!("SKIPPED: {error}");
            return;
        }
    };
    let mut harness = Harness::new(block, super::support::RAM);
    let buffer = harness.allocate(16_384).next_multiple_of(4096);
    let head = harness.place(&header(IN, 8));
    let status = harness.allocate(1);
    harness.queue(0).add(&[
        Buffer::readable(head, 16),
        Buffer::writable(buffer, 4096),
        Buffer::writable(status, 1),
    ]);
    harness.notify(0).unwrap();
    assert_eq!(harness.read(status, 1), [OK]);
    assert_eq!(harness.read(buffer, 512), [9; 512]);
    let mut block_bytes = [0; 4];
    harness.device.read_config(20, &mut block_bytes);
    assert_eq!(block_bytes, 4096_u32.to_le_bytes());
}

#[test]
fn what_the_disk_wrote_into_the_guest_is_tracked() {
    let block = Block::new("test", file(SECTORS), options()).unwrap();
    let features = block.features();
    let memory = crate::virtio::testing::ram_at(&[(0, 0x40000)], true);
    let mut harness = Harness::in_memory(block, memory, features);
    let (_, places) = harness.submit(0, &[&header(IN, 0)], &[0x8000, 1]);
    harness.notify(0).unwrap();
    let region = vm_memory::GuestMemoryBackend::iter(&harness.session.memory)
        .next()
        .unwrap();
    let mapped = region.get_mmap();
    let bitmap = mapped.bitmap().as_ref().unwrap();
    for page in (places[0]..places[1]).step_by(4096) {
        assert!(bitmap.is_addr_set(usize::try_from(page).unwrap()), "{page:#x}");
    }
    assert!(!bitmap.is_addr_set(0x3_f000));
}
