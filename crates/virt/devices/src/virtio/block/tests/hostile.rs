//! What a mistaken or hostile driver asks for: exact answers, and the disk untouched.

use std::sync::atomic::Ordering;

use super::support::{
    DISCARD, FLUSH, GET_ID, IN, IOERR, OK, OUT, RAM, SECTORS, UNSUPP, WRITE_ZEROES, disk, file, header, options, range,
    sector_of,
};
use crate::virtio::block::{Block, BlockOptions};
use crate::virtio::testing::{Buffer, Harness};
use crate::virtio::{ChainError, DeviceError, Fault};

/// Asks, and expects this status as the only byte of the last writable buffer.
fn expect(harness: &mut Harness<Block>, readable: &[&[u8]], writable: &[u32], status: u8) {
    let (out, _) = harness.request(0, readable, writable);
    let got = *out.last().unwrap().last().unwrap();
    assert_eq!(got, status, "{readable:x?} {writable:?}");
}

#[test]
fn transfers_beyond_the_end() {
    let (mut harness, _file) = disk(options());
    let sector = [0x55; 512];
    for first in [
        SECTORS,
        SECTORS + 1,
        u64::MAX,
        u64::MAX / 512,
        u64::MAX / 512 + 1,
        1 << 55,
        i64::MAX as u64,
    ] {
        expect(&mut harness, &[&header(IN, first)], &[512, 1], IOERR);
        expect(&mut harness, &[&header(OUT, first), &sector], &[1], IOERR);
    }
    expect(&mut harness, &[&header(IN, SECTORS - 1)], &[1024, 1], IOERR);
    expect(
        &mut harness,
        &[&header(OUT, SECTORS - 1), &sector, &sector],
        &[1],
        IOERR,
    );
    // Just at the end.
    expect(&mut harness, &[&header(IN, SECTORS - 2)], &[1024, 1], OK);
    expect(&mut harness, &[&header(IN, SECTORS)], &[1], OK);
    expect(&mut harness, &[&header(IN, SECTORS + 1)], &[1], IOERR);
    assert_eq!(harness.device.metrics().refused.load(Ordering::Relaxed), 17);
    assert_eq!(harness.device.metrics().failed.load(Ordering::Relaxed), 0);
}

#[test]
fn refused_requests_say_that_nothing_was_written() {
    let (mut harness, _file) = disk(options());
    let (out, written) = harness.request(0, &[&header(IN, SECTORS)], &[512, 1]);
    assert_eq!((out[0][0], out[1][0], written), (0, IOERR, 0));
    let (_, written) = harness.request(0, &[&header(OUT, SECTORS), &[0; 512]], &[1]);
    assert_eq!(written, 1);
}

#[test]
fn transfers_that_are_not_whole_sectors() {
    let (mut harness, file) = disk(options());
    for bytes in [1, 511, 513, 1023] {
        expect(&mut harness, &[&header(IN, 0)], &[bytes, 1], IOERR);
        expect(&mut harness, &[&header(OUT, 0), &vec![0; bytes as usize]], &[1], IOERR);
    }
    assert_eq!(sector_of(&file, 0), [1; 512]);
}

#[test]
fn buffers_in_the_wrong_direction() {
    let (mut harness, file) = disk(options());
    expect(&mut harness, &[&header(IN, 0), &[0; 512]], &[512, 1], IOERR);
    expect(&mut harness, &[&header(IN, 0), &[0; 512]], &[1], IOERR);
    expect(&mut harness, &[&header(OUT, 0), &[0; 512]], &[512, 1], IOERR);
    expect(&mut harness, &[&header(OUT, 0)], &[512, 1], IOERR);
    assert_eq!(sector_of(&file, 0), [1; 512]);
}

#[test]
fn headers_that_are_too_short() {
    let (mut harness, _file) = disk(options());
    for bytes in [1, 4, 15] {
        expect(&mut harness, &[&header(IN, 0)[..bytes]], &[512, 1], IOERR);
    }
    expect(&mut harness, &[], &[512, 1], IOERR);
}

#[test]
fn a_status_without_room_is_a_fault() {
    for writable in [0, 16] {
        let (mut harness, _file) = disk(options());
        let head = harness.place(&header(OUT, 0));
        harness.queue(0).add(&[Buffer::readable(head, writable.max(16))]);
        let error = harness.notify(0).unwrap_err();
        assert!(
            matches!(error, DeviceError::Guest(Fault::Request { queue: 0, .. })),
            "{error:?}"
        );
    }
    // A buffer without length is no room either.
    let (mut harness, _file) = disk(options());
    let head = harness.place(&header(IN, 0));
    harness
        .queue(0)
        .add(&[Buffer::readable(head, 16), Buffer::writable(head, 0)]);
    assert!(matches!(
        harness.notify(0),
        Err(DeviceError::Guest(Fault::Request { .. }))
    ));
}

#[test]
fn malformed_chains_are_faults() {
    let (mut harness, _file) = disk(options());
    harness.queue(0).publish(4000);
    assert!(matches!(
        harness.notify(0),
        Err(DeviceError::Guest(Fault::Chain {
            queue: 0,
            source: ChainError::BadIndex(4000)
        }))
    ));
    let (mut harness, _file) = disk(options());
    harness.queue(0).add(&[Buffer::writable(RAM as u64 - 1, 2)]);
    assert!(matches!(
        harness.notify(0),
        Err(DeviceError::Guest(Fault::Chain {
            queue: 0,
            source: ChainError::Unmapped { .. }
        }))
    ));
}

#[test]
fn types_that_are_not_on_offer() {
    let (mut harness, _file) = disk(options());
    for kind in [2, 3, 5, 7, 10, 12, 14, 15, 16, 0x8000_0000, u32::MAX] {
        expect(&mut harness, &[&header(kind, 0)], &[512, 1], UNSUPP);
    }
}

#[test]
fn a_disk_that_is_read_only_is_not_written() {
    let options = BlockOptions {
        is_read_only: true,
        ..options()
    };
    let (mut harness, file) = disk(options);
    expect(&mut harness, &[&header(OUT, 0), &[0; 512]], &[1], IOERR);
    expect(&mut harness, &[&header(DISCARD, 0), &range(0, 8, 0)], &[1], IOERR);
    expect(&mut harness, &[&header(WRITE_ZEROES, 0), &range(0, 8, 0)], &[1], IOERR);
    expect(&mut harness, &[&header(IN, 0)], &[512, 1], OK);
    expect(&mut harness, &[&header(FLUSH, 0)], &[1], OK);
    for sector in 0..8 {
        assert_ne!(sector_of(&file, sector), [0; 512]);
    }
}

#[test]
fn identifiers_without_room() {
    let (mut harness, _file) = disk(options());
    expect(&mut harness, &[&header(GET_ID, 0)], &[19, 1], IOERR);
    expect(&mut harness, &[&header(GET_ID, 0)], &[1], IOERR);
}

#[test]
fn ranges_that_can_not_be() {
    let (mut harness, file) = disk(options());
    let large = u64::MAX / 512 + 1;
    for (kind, range, status) in [
        (DISCARD, range(SECTORS - 7, 8, 0), IOERR),
        (DISCARD, range(u64::MAX, 1, 0), IOERR),
        (DISCARD, range(large, 1, 0), IOERR),
        (DISCARD, range(0, u32::MAX, 0), IOERR),
        (DISCARD, range(0, 8, 1), UNSUPP),
        (DISCARD, range(0, 8, 2), UNSUPP),
        (DISCARD, range(SECTORS, 0, 0), OK),
        (DISCARD, range(SECTORS + 1, 0, 0), IOERR),
        (WRITE_ZEROES, range(SECTORS - 7, 8, 0), IOERR),
        (WRITE_ZEROES, range(0, 8, 2), UNSUPP),
        (WRITE_ZEROES, range(0, 8, u32::MAX), UNSUPP),
        (WRITE_ZEROES, range(0, 0, 1), OK),
    ] {
        expect(&mut harness, &[&header(kind, 0), &range], &[1], status);
    }
    for kind in [DISCARD, WRITE_ZEROES] {
        let whole = range(0, 1, 0);
        expect(&mut harness, &[&header(kind, 0)], &[1], IOERR);
        expect(&mut harness, &[&header(kind, 0), &whole[..15]], &[1], IOERR);
        // One range is the limit.
        expect(&mut harness, &[&header(kind, 0), &whole, &whole], &[1], IOERR);
        expect(&mut harness, &[&header(kind, 0), &whole, &[0]], &[1], IOERR);
    }
    for sector in 0..SECTORS {
        assert_ne!(sector_of(&file, sector), [0; 512]);
    }
}

#[test]
fn ranges_longer_than_the_limit() {
    // 2 GiB without contents.
    let file = tempfile::tempfile_in(".").unwrap();
    file.set_len(2 << 30).unwrap();
    let mut harness = Harness::new(Block::new("x", file, options()).unwrap(), RAM);
    expect(&mut harness, &[&header(DISCARD, 0), &range(0, 1 << 21, 0)], &[1], OK);
    expect(
        &mut harness,
        &[&header(DISCARD, 0), &range(0, (1 << 21) + 1, 0)],
        &[1],
        IOERR,
    );
    expect(
        &mut harness,
        &[&header(WRITE_ZEROES, 0), &range(0, (1 << 15) + 1, 1)],
        &[1],
        IOERR,
    );
}

#[test]
fn what_was_not_agreed_on_is_not_done() {
    let mut harness = Harness::with_features(Block::new("x", file(SECTORS), options()).unwrap(), RAM, 0);
    expect(&mut harness, &[&header(DISCARD, 0), &range(0, 8, 0)], &[1], UNSUPP);
    expect(&mut harness, &[&header(WRITE_ZEROES, 0), &range(0, 8, 0)], &[1], UNSUPP);
    expect(&mut harness, &[&header(FLUSH, 0)], &[1], UNSUPP);
}

#[test]
fn as_many_segments_as_the_queue_has_places() {
    let (mut harness, _file) = disk(options());
    let head = harness.place(&header(IN, 0));
    let data = harness.allocate(512 * 254);
    let status = harness.allocate(1);
    let mut buffers = vec![Buffer::readable(head, 16)];
    buffers.extend((0..254).map(|index| Buffer::writable(data + index * 512, 512)));
    buffers.push(Buffer::writable(status, 1));
    harness.queue(0).add(&buffers);
    harness.notify(0).unwrap();
    assert_eq!(harness.read(status, 1), [OK]);
    assert_eq!(harness.read(data + 253 * 512, 512), [254; 512]);
}

#[test]
fn one_piece_of_memory_named_again_and_again() {
    // 254 times 1 MiB is more than any request may move, though little memory is behind it.
    let (mut harness, _file) = disk(options());
    let head = harness.place(&header(IN, 0));
    let data = harness.allocate(1 << 20);
    let status = harness.allocate(1);
    let mut buffers = vec![Buffer::readable(head, 16)];
    buffers.extend((0..254).map(|_| Buffer::writable(data, 1 << 20)));
    buffers.push(Buffer::writable(status, 1));
    harness.queue(0).add(&buffers);
    harness.notify(0).unwrap();
    assert_eq!(harness.read(status, 1), [IOERR]);
}

#[test]
fn a_file_that_became_shorter_is_an_error_of_the_disk() {
    let (mut harness, file) = disk(options());
    file.set_len(512 * 10).unwrap();
    expect(&mut harness, &[&header(IN, 9)], &[512, 1], OK);
    expect(&mut harness, &[&header(IN, 9)], &[1024, 1], IOERR);
    expect(&mut harness, &[&header(IN, 10)], &[512, 1], IOERR);
    assert_eq!(harness.device.metrics().failed.load(Ordering::Relaxed), 2);
}

#[test]
fn a_guest_that_never_stops_asking_does_not_keep_the_thread() {
    // A driver that moves the index on while the device works, here by the same chain put everywhere in the ring.
    let (mut harness, _file) = disk(options());
    let (head, _) = harness.submit(0, &[&header(IN, 0)], &[512, 1]);
    for _ in 1..256 {
        harness.queue(0).publish(head);
    }
    harness.notify(0).unwrap();
    assert_eq!(harness.queue(0).take_used().len(), 256);
}
