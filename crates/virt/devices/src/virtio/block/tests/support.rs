//! A disk of known contents and a driver for it.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};

use crate::virtio::VirtioDevice as _;
use crate::virtio::block::{Block, BlockOptions, CacheType, Engine, EngineChoice};
use crate::virtio::testing::{Harness, Used};

pub(super) const IN: u32 = 0;
pub(super) const OUT: u32 = 1;
pub(super) const FLUSH: u32 = 4;
pub(super) const GET_ID: u32 = 8;
pub(super) const DISCARD: u32 = 11;
pub(super) const WRITE_ZEROES: u32 = 13;

pub(super) const OK: u8 = 0;
pub(super) const IOERR: u8 = 1;
pub(super) const UNSUPP: u8 = 2;

/// Guest memory of the tests.
pub(super) const RAM: usize = 4 << 20;
/// Sectors of the disk of the tests.
pub(super) const SECTORS: u64 = 256;

/// Writable, flushes on offer, everything at once.
pub(super) fn options() -> BlockOptions {
    BlockOptions {
        cache: CacheType::Writeback,
        engine: EngineChoice::Only(Engine::Sync),
        ..BlockOptions::default()
    }
}

/// A file in which every sector is filled with the low byte of its number plus one.
pub(super) fn file(sectors: u64) -> File {
    let file = tempfile::tempfile_in(".").unwrap();
    for sector in 0..sectors {
        let byte = u8::try_from(sector % 255).unwrap() + 1;
        file.write_all_at(&[byte; 512], sector * 512).unwrap();
    }
    file
}

pub(super) fn disk(options: BlockOptions) -> (Harness<Block>, File) {
    let file = file(SECTORS);
    let block = Block::new("test", file.try_clone().unwrap(), options).unwrap();
    (Harness::new(block, RAM), file)
}

pub(super) fn sector_of(file: &File, sector: u64) -> [u8; 512] {
    let mut contents = [0; 512];
    file.read_exact_at(&mut contents, sector * 512).unwrap();
    contents
}

pub(super) fn header(kind: u32, sector: u64) -> [u8; 16] {
    let mut raw = [0; 16];
    raw[..4].copy_from_slice(&kind.to_le_bytes());
    raw[8..].copy_from_slice(&sector.to_le_bytes());
    raw
}

pub(super) fn range(sector: u64, sectors: u32, flags: u32) -> [u8; 16] {
    let mut raw = [0; 16];
    raw[..8].copy_from_slice(&sector.to_le_bytes());
    raw[8..12].copy_from_slice(&sectors.to_le_bytes());
    raw[12..].copy_from_slice(&flags.to_le_bytes());
    raw
}

/// Runs the event loop until so many requests have come back.
pub(super) fn run(harness: &mut Harness<Block>, count: usize) -> Vec<Used> {
    let until = Instant::now() + Duration::from_secs(30);
    let mut used = harness.queue(0).take_used();
    while used.len() < count {
        assert!(Instant::now() < until, "{} of {count} came back", used.len());
        poll(harness, Duration::from_secs(1));
        used.extend(harness.queue(0).take_used());
    }
    used
}

/// One turn of the event loop.
pub(super) fn poll(harness: &mut Harness<Block>, most: Duration) {
    let mut tokens = Vec::new();
    {
        let sources = harness.device.sources();
        let mut waited: Vec<_> = sources
            .iter()
            .map(|source| PollFd::new(&source.descriptor, PollFlags::IN))
            .collect();
        let most = Timespec {
            tv_sec: i64::try_from(most.as_secs()).unwrap(),
            tv_nsec: most.subsec_nanos().into(),
        };
        rustix::event::poll(&mut waited, Some(&most)).unwrap();
        for (source, waited) in sources.iter().zip(&waited) {
            if !waited.revents().is_empty() {
                tokens.push(source.token);
            }
        }
    }
    for token in tokens {
        harness.ready(token).unwrap();
    }
}
