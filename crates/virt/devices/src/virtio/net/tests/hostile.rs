//! What a mistaken or hostile driver does: dropped, counted, and the card goes on; or a fault.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::support::{RAM, card, card_of, card_with, give_buffers, plain, poll, settle};
use crate::virtio::net::{Backend, NetOptions, Offloads};
use crate::virtio::testing::Buffer;
use crate::virtio::{ChainError, DeviceError, Fault};

#[test]
fn packets_that_are_too_short_or_too_long() {
    let (mut harness, world) = card();
    for bytes in [1, 11, 12, 13, 25] {
        harness.request(1, &[&vec![0; bytes]], &[]);
    }
    // The longest is 65,562 bytes.
    harness.request(1, &[&vec![0; 65_563]], &[]);
    assert_eq!(world.take(), None);
    assert_eq!(harness.device.metrics().sent_malformed.load(Ordering::Relaxed), 6);
    harness.request(1, &[&plain(14, 1)], &[]);
    assert_eq!(world.take().unwrap().len(), 26);
    harness.request(1, &[&plain(65_550, 1)], &[]);
    assert_eq!(world.take().unwrap().len(), 65_562);
}

#[test]
fn headers_that_say_the_impossible() {
    for features in [0, 0x9983] {
        let (mut harness, world) = card_of(features);
        for header in [
            [1, 0, 0, 0, 0, 0, 60, 0, 0, 0, 0, 0],            // a checksum at the end
            [1, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0], // and far behind it
            [0, 1, 54, 0, 0xa8, 5, 34, 0, 16, 0, 0, 0],       // cutting without a checksum
            [1, 1, 54, 0, 1, 0, 34, 0, 16, 0, 0, 0],          // cutting into single bytes
            [1, 1, 54, 0, 0, 0, 34, 0, 16, 0, 0, 0],          // into nothing
            [1, 1, 0xff, 0xff, 0xa8, 5, 34, 0, 16, 0, 0, 0],  // headers longer than the frame
            [1, 3, 54, 0, 0xa8, 5, 34, 0, 6, 0, 0, 0],        // UDP, which is not on offer
            [1, 0xff, 54, 0, 0xa8, 5, 34, 0, 16, 0, 0, 0],    // no kind at all
        ] {
            let mut packet = plain(60, 0);
            packet[..12].copy_from_slice(&header);
            harness.request(1, &[&packet], &[]);
        }
        assert_eq!(world.take(), None);
        assert_eq!(harness.device.metrics().sent_malformed.load(Ordering::Relaxed), 8);
    }
}

#[test]
fn what_the_header_need_not_say_is_not_passed_on() {
    let (mut harness, world) = card();
    let mut packet = plain(60, 5);
    packet[..12].copy_from_slice(&[0xfe, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    harness.request(1, &[&packet], &[]);
    assert_eq!(world.take().unwrap(), plain(60, 5));
}

#[test]
fn buffers_in_the_wrong_direction() {
    let (mut harness, world) = card();
    harness.request(1, &[&plain(60, 1)], &[100]);
    assert_eq!(world.take(), None);
    assert_eq!(harness.device.metrics().sent_malformed.load(Ordering::Relaxed), 1);
    // For receiving: nothing to write to. They are given back as they are, in the end.
    let place = harness.place(&[0x55; 100]);
    for _ in 0..256 {
        harness.queue(0).add(&[Buffer::readable(place, 100)]);
    }
    world.socket.send(&plain(60, 1)).unwrap();
    settle(&mut harness);
    let used = harness.queue(0).take_used();
    assert_eq!(used.len(), 256);
    assert!(used.iter().all(|used| used.written == 0));
    assert_eq!(harness.read(place, 100), [0x55; 100]);
    assert_eq!(harness.device.metrics().received_dropped.load(Ordering::Relaxed), 1);
}

#[test]
fn receive_buffers_of_a_single_byte() {
    let (mut harness, world) = card();
    let places = give_buffers(&mut harness, 256, 1);
    world.socket.send(&plain(60, 7)).unwrap();
    settle(&mut harness);
    let used = harness.queue(0).take_used();
    assert_eq!(used.len(), 72);
    assert_eq!(harness.read(places[10], 1), [72], "the number of buffers");
    assert_eq!(harness.read(places[71], 1), [7]);
}

#[test]
fn as_many_buffers_as_there_are_and_still_too_small() {
    let (mut harness, world) = card();
    give_buffers(&mut harness, 256, 1);
    world.socket.send(&plain(300, 7)).unwrap();
    settle(&mut harness);
    let used = harness.queue(0).take_used();
    assert_eq!(used.len(), 256);
    assert!(used.iter().all(|used| used.written == 0));
    assert!(!poll(&mut harness, Duration::from_millis(5)));
}

#[test]
fn malformed_chains_are_faults() {
    for queue in [0, 1] {
        let (mut harness, world) = card();
        harness.queue(queue).add(&[Buffer::writable(RAM as u64, 100)]);
        world.socket.send(&plain(60, 1)).unwrap();
        let error = harness.notify(queue).unwrap_err();
        let DeviceError::Guest(Fault::Chain { queue: which, source }) = error else {
            panic!("{error:?}");
        };
        assert_eq!(which, queue);
        assert!(matches!(source, ChainError::Unmapped { index: 0, .. }));
    }
}

#[test]
fn packets_of_the_back_end_are_checked_too() {
    let (mut harness, world) = card_of(0);
    give_buffers(&mut harness, 4, 1600);
    let mut packet = plain(60, 1);
    packet[0] = 1;
    world.socket.send(&packet).unwrap(); // a checksum that was not agreed on
    world.socket.send(&[0; 20]).unwrap(); // too short
    world.socket.send(&plain(60, 2)).unwrap();
    settle(&mut harness);
    assert_eq!(harness.queue(0).take_used().len(), 1);
    assert_eq!(harness.device.metrics().received_dropped.load(Ordering::Relaxed), 2);
}

/// Always readable, and always failing.
#[derive(Debug)]
struct Broken(OwnedFd);

impl Backend for Broken {
    fn offloads(&self) -> Offloads {
        Offloads::default()
    }
    fn begin(&mut self, _offloads: Offloads) -> io::Result<()> {
        Ok(())
    }
    fn send(&mut self, _packet: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::BrokenPipe.into())
    }
    fn receive(&mut self, _buffer: &mut [u8]) -> io::Result<Option<usize>> {
        Err(io::ErrorKind::BrokenPipe.into())
    }
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[test]
fn a_broken_back_end_does_not_spin() {
    let event = rustix::event::eventfd(1, rustix::event::EventfdFlags::NONBLOCK).unwrap();
    let mut harness = card_with(Box::new(Broken(event)), NetOptions::default());
    settle(&mut harness);
    assert_eq!(harness.device.metrics().receive_failed.load(Ordering::Relaxed), 1);
    give_buffers(&mut harness, 2, 100);
    harness.notify(0).unwrap();
    settle(&mut harness);
    assert_eq!(harness.device.metrics().receive_failed.load(Ordering::Relaxed), 1);
    harness.request(1, &[&plain(60, 1)], &[]);
}
