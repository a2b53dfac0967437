//! Random chains: whatever they are, each is answered or a fault, nothing panics, and nothing outside of the named memory is written.

use proptest::prelude::*;

use super::support::{RAM, file, options};
use crate::virtio::DeviceError;
use crate::virtio::block::{Block, BlockOptions, Engine, EngineChoice};
use crate::virtio::testing::{Buffer, Harness};

#[derive(Debug, Clone)]
struct Part {
    offset: u64,
    bytes: u32,
    writable: bool,
}

fn part() -> impl Strategy<Value = Part> {
    let bytes = prop_oneof![Just(1), Just(16), Just(512), Just(1024), 0..2000_u32, any::<u32>()];
    (0..0x8000_u64, bytes, any::<bool>()).prop_map(|(offset, bytes, writable)| Part {
        offset,
        bytes,
        writable,
    })
}

fn chains() -> impl Strategy<Value = Vec<(u32, u64, Vec<Part>)>> {
    let kind = prop_oneof![Just(0_u32), Just(1), Just(4), Just(8), Just(11), Just(13), any::<u32>()];
    let sector = prop_oneof![0..300_u64, any::<u64>()];
    prop::collection::vec((kind, sector, prop::collection::vec(part(), 0..8)), 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn every_chain_has_an_end(chains in chains(), engine in 0..3_usize) {
        let engine = [Engine::Sync, Engine::Threads, Engine::Uring][engine];
        let options = BlockOptions { engine: EngineChoice::Only(engine), ..options() };
        let Ok(block) = Block::new("x", file(16), options) else {
            println!("SKIPPED: no {engine:?} here");
            return Ok(());
        };
        let mut harness = Harness::new(block, RAM);
        let count = chains.len();
        let mut fences = Vec::new();
        let mut reaches_fences = false;
        for (kind, sector, parts) in chains {
            let head = harness.place(&super::support::header(kind, sector));
            let base = harness.allocate(0x8000);
            fences.push(harness.place(&[0xee; 16]));
            let mut buffers = vec![Buffer::readable(head, 16)];
            // Mostly in the right order, since otherwise it is a fault at once.
            let mut parts = parts;
            reaches_fences |= parts.iter().any(|part| part.offset + u64::from(part.bytes) > 0x8000);
            parts.sort_by_key(|part| part.writable);
            buffers.extend(parts.iter().map(|part| Buffer {
                address: base + part.offset,
                bytes: part.bytes,
                writable: part.writable,
            }));
            harness.queue(0).add(&buffers);
        }
        match harness.notify(0) {
            Ok(()) => {
                let used = super::support::run(&mut harness, count);
                prop_assert_eq!(used.len(), count);
            }
            Err(DeviceError::Guest(_)) => crate::virtio::VirtioDevice::reset(&mut harness.device),
            Err(other) => prop_assert!(false, "{other:?}"),
        }
        // A part may be long enough to name a fence itself.
        if reaches_fences {
            return Ok(());
        }
        for fence in fences {
            prop_assert_eq!(harness.read(fence, 16), vec![0xee; 16]);
        }
    }
}
