//! The balloon with a driver, well-behaved and not.

use std::os::fd::AsFd as _;
use std::sync::atomic::Ordering;

use proptest::prelude::*;
use ringwall_arch::GuestRam;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{MemfdFlags, fstat, ftruncate, memfd_create};
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{Bytes as _, FileOffset, GuestAddress, GuestRegionMmap};

use super::{Balloon, BalloonOptions, SetBalloonError};
use crate::virtio::testing::{Buffer, Harness, NEXT, ram_at};
use crate::virtio::{DeviceError, Fault, VirtioDevice as _};

const MEMORY_BYTES: usize = 16 << 20;
const INFLATE: u16 = 0;
const DEFLATE: u16 = 1;
const STATISTICS: u16 = 2;
const TIMER: u32 = 1;

const ALL: BalloonOptions = BalloonOptions {
    target_mib: 4,
    deflate_on_oom: true,
    statistics_interval_s: 1,
    reporting: true,
};

fn harness(options: BalloonOptions) -> Harness<Balloon> {
    Harness::new(Balloon::new(options, MEMORY_BYTES as u64).unwrap(), MEMORY_BYTES)
}

fn list(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

fn fill(memory: &GuestRam, address: u64, bytes: usize) {
    memory.write_slice(&vec![0x5a; bytes], GuestAddress(address)).unwrap();
}

#[test]
fn inflated_pages_are_given_back_and_no_others() {
    let mut harness = harness(ALL);
    fill(&harness.session.memory, 0x80_0000, 0x8000);
    harness.request(INFLATE, &[&list(&[0x802, 0x801, 0x805, 0x801])], &[]);
    for page in 0..8_u64 {
        let given = [1, 2, 5].contains(&page);
        let expected = if given { 0 } else { 0x5a };
        let content = harness.read(0x80_0000 + page * 4096, 4096);
        assert!(content.iter().all(|byte| *byte == expected), "page {page}");
    }
    let metrics = harness.device.metrics();
    assert_eq!(metrics.inflated_pages.load(Ordering::Relaxed), 4);
    assert_eq!(metrics.discarded_bytes.load(Ordering::Relaxed), 3 * 4096);
    harness.request(DEFLATE, &[&list(&[0x801])], &[]);
    assert_eq!(harness.device.metrics().deflated_pages.load(Ordering::Relaxed), 1);
}

#[test]
fn shared_memory_gets_a_hole() {
    let file = memfd_create("guest", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&file, MEMORY_BYTES as u64).unwrap();
    let watched = file.try_clone().unwrap();
    // PROT_READ | PROT_WRITE, MAP_SHARED
    let mapping = MmapRegionBuilder::new_with_bitmap(MEMORY_BYTES, None)
        .with_file_offset(FileOffset::new(file.into(), 0))
        .with_mmap_prot(3)
        .with_mmap_flags(1)
        .build()
        .unwrap();
    let region = GuestRegionMmap::new(mapping, GuestAddress(0)).unwrap();
    let memory = GuestRam::from_regions(vec![region]).unwrap();
    let balloon = Balloon::new(ALL, MEMORY_BYTES as u64).unwrap();
    let features = balloon.features();
    let mut harness = Harness::in_memory(balloon, memory, features);
    fill(&harness.session.memory, 0x80_0000, 0x10_0000);
    let before = fstat(&watched).unwrap().st_blocks;
    let pages: Vec<u32> = (0x800..0x900).collect();
    harness.request(INFLATE, &[&list(&pages)], &[]);
    let after = fstat(&watched).unwrap().st_blocks;
    // Blocks of 512 bytes; the request itself took a few pages.
    assert!(before - after >= 0x10_0000 / 512 - 64, "{before} -> {after}");
    assert_eq!(harness.read(0x80_0000, 16), [0; 16]);
    assert_eq!(harness.device.metrics().discard_failures.load(Ordering::Relaxed), 0);
}

#[test]
fn pages_that_are_not_memory_are_passed_over() {
    let memory = ram_at(&[(0, 8 << 20), (16 << 20, 4096)], false);
    let balloon = Balloon::new(ALL, 8 << 20).unwrap();
    let features = balloon.features();
    let mut harness = Harness::in_memory(balloon, memory, features);
    fill(&harness.session.memory, 0x7f_f000, 4096);
    fill(&harness.session.memory, 16 << 20, 4096);
    // The last page of the first region, three of the hole, the only page of the second, and the last number there is.
    let numbers = [0x7ff, 0x800, 0x801, 0xfff, 0x1000, 0x1001, u32::MAX];
    harness.request(INFLATE, &[&list(&numbers)], &[]);
    assert_eq!(harness.read(0x7f_f000, 1), [0]);
    assert_eq!(harness.read(16 << 20, 1), [0]);
    let metrics = harness.device.metrics();
    assert_eq!(metrics.refused_pages.load(Ordering::Relaxed), 5);
    assert_eq!(metrics.discarded_bytes.load(Ordering::Relaxed), 2 * 4096);
}

#[test]
fn a_list_is_capped() {
    let mut harness = harness(ALL);
    fill(&harness.session.memory, 0x80_0000, 4096);
    // The same 4,096 numbers over and over; the last would be a page of the guest's.
    let place = harness.place(&list(&vec![0x900; 4096]));
    let last = harness.place(&list(&[0x800]));
    let mut buffers = vec![Buffer::readable(place, 4096 * 4); 100];
    buffers.push(Buffer::readable(last, 4));
    harness.queue(INFLATE).add(&buffers);
    harness.notify(INFLATE).unwrap();
    assert_eq!(harness.queue(INFLATE).take_used().len(), 1);
    assert_eq!(harness.read(0x80_0000, 1), [0x5a]);
    let metrics = harness.device.metrics();
    assert_eq!(metrics.inflated_pages.load(Ordering::Relaxed), 1024);
    assert_eq!(metrics.refused_pages.load(Ordering::Relaxed), 100 * 4096 + 1 - 1024);
}

#[test]
fn a_turn_ends_although_more_is_queued_and_goes_on_later() {
    let mut harness = harness(ALL);
    for _ in 0..100 {
        harness.submit(INFLATE, &[&list(&[0x900])], &[]);
    }
    harness.notify(INFLATE).unwrap();
    assert_eq!(harness.queue(INFLATE).take_used().len(), 32);
    for _ in 0..3 {
        harness.ready(0).unwrap();
    }
    assert_eq!(harness.queue(INFLATE).take_used().len(), 68);
}

#[test]
fn lists_that_are_none_are_faults() {
    for (readable, writable) in [(&b"abc"[..], None), (&b"abcd"[..], Some(4)), (&b""[..], None)] {
        let mut harness = harness(ALL);
        let writable: Vec<u32> = writable.into_iter().collect();
        harness.submit(INFLATE, &[readable], &writable);
        let error = harness.notify(INFLATE).unwrap_err();
        assert!(
            matches!(error, DeviceError::Guest(Fault::Request { queue: 0, .. })),
            "{error:?}"
        );
    }
}

#[test]
fn reported_pages_are_given_back() {
    let mut harness = harness(ALL);
    fill(&harness.session.memory, 0x80_0000, 0x4000);
    harness
        .queue(3)
        .add(&[Buffer::writable(0x80_0000, 0x2000), Buffer::writable(0x80_3000, 0x1000)]);
    harness.notify(3).unwrap();
    assert_eq!(harness.queue(3).take_used().len(), 1);
    assert_eq!(harness.read(0x80_0000, 0x2000), vec![0; 0x2000]);
    assert_eq!(harness.read(0x80_2000, 1), [0x5a]);
    assert_eq!(harness.read(0x80_3000, 1), [0]);
    assert_eq!(harness.device.metrics().reported_ranges.load(Ordering::Relaxed), 2);
}

/// Linux numbers the queues that were negotiated, without gaps.
#[test]
fn without_statistics_reports_have_their_queue() {
    let balloon = Balloon::new(ALL, MEMORY_BYTES as u64).unwrap();
    let mut harness = Harness::with_features(balloon, MEMORY_BYTES, 1 << 5);
    fill(&harness.session.memory, 0x80_0000, 0x1000);
    harness.queue(2).add(&[Buffer::writable(0x80_0000, 0x1000)]);
    harness.notify(2).unwrap();
    assert_eq!(harness.read(0x80_0000, 1), [0]);
    harness.notify(3).unwrap();
}

fn entry(tag: u16, value: u64) -> Vec<u8> {
    [tag.to_le_bytes().as_slice(), &value.to_le_bytes()].concat()
}

fn wait_for_timer(harness: &mut Harness<Balloon>) {
    let source = harness
        .device
        .sources()
        .into_iter()
        .find(|source| source.token == TIMER)
        .unwrap();
    let mut wait = [PollFd::from_borrowed_fd(source.descriptor.as_fd(), PollFlags::IN)];
    let limit = rustix::time::Timespec { tv_sec: 10, tv_nsec: 0 };
    assert_eq!(poll(&mut wait, Some(&limit)).unwrap(), 1);
    harness.ready(TIMER).unwrap();
}

#[test]
fn statistics_are_asked_for_by_the_timer() {
    let mut harness = harness(ALL);
    let (head, _) = harness.submit(STATISTICS, &[&entry(4, 1000)], &[]);
    harness.notify(STATISTICS).unwrap();
    assert!(harness.queue(STATISTICS).take_used().is_empty());
    assert_eq!(harness.device.summary().statistics.free_memory, Some(1000));
    wait_for_timer(&mut harness);
    let used = harness.queue(STATISTICS).take_used();
    assert_eq!(used.len(), 1);
    assert_eq!(used[0].head, u32::from(head));
    harness.submit(STATISTICS, &[&entry(4, 900), &entry(5, 2000)], &[]);
    harness.notify(STATISTICS).unwrap();
    assert_eq!(harness.device.summary().statistics.free_memory, Some(900));
    assert_eq!(harness.device.summary().statistics.total_memory, Some(2000));
    // A second buffer sends the first one back.
    harness.submit(STATISTICS, &[&entry(4, 800)], &[]);
    harness.notify(STATISTICS).unwrap();
    assert_eq!(harness.queue(STATISTICS).take_used().len(), 1);
}

/// The guest's buffer is in flight at every snapshot; a restored balloon that forgot it would never get statistics again.
#[test]
fn the_buffer_of_statistics_survives_a_snapshot() {
    let mut harness = harness(ALL);
    let (head, _) = harness.submit(STATISTICS, &[&entry(4, 1000)], &[]);
    harness.notify(STATISTICS).unwrap();
    harness.device.write_config(4, &77_u32.to_le_bytes());
    let saved = harness.device.save();
    let mut restored = Balloon::new(BalloonOptions { target_mib: 0, ..ALL }, MEMORY_BYTES as u64).unwrap();
    restored.restore(saved.clone()).unwrap();
    assert_eq!(restored.save(), saved);
    assert_eq!(restored.summary().actual_pages, 77);
    assert_eq!(restored.options(), ALL);
    restored.activate(&mut harness.session).unwrap();
    harness.device = restored;
    harness.notify(STATISTICS).unwrap();
    wait_for_timer(&mut harness);
    let used = harness.queue(STATISTICS).take_used();
    assert_eq!(used[0].head, u32::from(head));
}

#[test]
fn a_saved_state_that_does_not_fit_is_refused() {
    let good = Balloon::new(ALL, MEMORY_BYTES as u64).unwrap().save();
    let table = [
        ("deflate_on_oom", serde_json::json!(false)),
        ("reporting", serde_json::json!(false)),
        ("interval_s", serde_json::json!(0)),
        ("target_pages", serde_json::json!(4097)),
        ("statistics_chain", serde_json::json!(128)),
        ("target_pages", serde_json::json!(-1)),
        ("unknown", serde_json::json!(1)),
    ];
    for (field, value) in table {
        let mut state = good.clone();
        state[field] = value;
        let mut balloon = Balloon::new(ALL, MEMORY_BYTES as u64).unwrap();
        balloon.restore(state).expect_err(field);
    }
}

#[test]
fn a_target_is_shown_to_the_guest() {
    let mut harness = harness(ALL);
    harness.device.set_target(16, Some(&harness.session)).unwrap();
    assert_eq!(harness.interrupt.of_configuration(), 1);
    let mut space = [0xff; 12];
    harness.device.read_config(0, &mut space);
    assert_eq!(space, *b"\x00\x10\0\0\0\0\0\0\0\0\0\0");
    harness.device.write_config(4, &5_u32.to_le_bytes());
    harness.device.write_config(0, &6_u32.to_le_bytes());
    harness.device.write_config(4, &[1, 2]);
    let summary = harness.device.summary();
    assert_eq!((summary.target_pages, summary.actual_pages), (4096, 5));
}

/// Firecracker's bug: MiB times 256 wrapped.
#[test]
fn a_target_that_would_wrap_is_refused() {
    let mut balloon = Balloon::new(ALL, MEMORY_BYTES as u64).unwrap();
    for wanted_mib in [17, 1 << 24, (1 << 24) + 1, 1 << 56, u64::MAX] {
        let refused = balloon.set_target(wanted_mib, None);
        assert_eq!(
            refused,
            Err(SetBalloonError::TooLarge {
                wanted_mib,
                memory_mib: 16
            })
        );
    }
    // 2^24 MiB are 2^32 pages, one more than the guest can be asked for, however much it has.
    let mut balloon = Balloon::new(ALL, u64::MAX).unwrap();
    balloon.set_target(1 << 24, None).unwrap_err();
    balloon.set_target((1 << 24) - 1, None).unwrap();
    Balloon::new(BalloonOptions { target_mib: 17, ..ALL }, MEMORY_BYTES as u64).unwrap_err();
}

#[test]
fn statistics_are_on_or_off_for_good() {
    let mut with = Balloon::new(ALL, MEMORY_BYTES as u64).unwrap();
    with.set_statistics_interval(5, None).unwrap();
    assert_eq!(
        with.set_statistics_interval(0, None),
        Err(SetBalloonError::StatisticsFixed)
    );
    let mut without = Balloon::new(BalloonOptions::default(), MEMORY_BYTES as u64).unwrap();
    assert_eq!(
        without.set_statistics_interval(1, None),
        Err(SetBalloonError::StatisticsFixed)
    );
    assert_eq!((without.features(), without.queue_sizes().len()), (0, 2));
    assert_eq!((with.features(), with.queue_sizes().len()), (0b10_0110, 4));
}

proptest! {
    #[test]
    fn any_chain_is_harmless(
        chains in prop::collection::vec(
            (0_u16..4, prop::collection::vec((0_u64..0x110_0000, 0_u32..0x3000, 0_u16..4), 1..4)), 1..20),
    ) {
        let mut harness = harness(ALL);
        // The rings are not the guest's to give away here: chains are told by what they say, and a discarded ring says nothing.
        for (queue, descriptors) in chains {
            let count = u16::try_from(descriptors.len()).unwrap();
            for (index, (address, bytes, flags)) in (0_u16..).zip(descriptors) {
                let flags = if index + 1 == count { flags & !NEXT } else { flags };
                harness.queue(queue).descriptor(index, address, bytes, flags, index + 1);
            }
            harness.queue(queue).publish(0);
            let _outcome = harness.notify(queue);
            let _outcome = harness.ready(0);
        }
        let saved = harness.device.save();
        Balloon::new(ALL, MEMORY_BYTES as u64).unwrap().restore(saved).unwrap();
    }
}
