//! Random chains and packets: whatever they are, nothing panics or spins, and every chain comes back or is a fault.

use proptest::prelude::*;

use super::support::{card_of, plain, settle};
use crate::virtio::DeviceError;
use crate::virtio::testing::Buffer;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn every_chain_to_be_sent_comes_back(
        features: u16,
        headers in prop::collection::vec((any::<[u8; 12]>(), 0..3000_usize, 1..70_000_usize), 1..10),
    ) {
        let (mut harness, world) = card_of(features.into());
        for (header, frame, cut) in &headers {
            let mut packet = plain(*frame, 1);
            packet[..12].copy_from_slice(header);
            let (first, second) = packet.split_at((*cut).min(packet.len()));
            let parts: Vec<&[u8]> = [first, second].into_iter().filter(|part| !part.is_empty()).collect();
            harness.submit(1, &parts, &[]);
        }
        harness.notify(1).unwrap();
        prop_assert_eq!(harness.queue(1).take_used().len(), headers.len());
        while world.take().is_some() {}
    }

    #[test]
    fn nothing_is_written_outside_of_the_buffers(
        features: u16, event_index: bool,
        buffers in prop::collection::vec(prop::collection::vec((0..3000_u32, any::<bool>()), 1..4), 0..60),
        frames in prop::collection::vec(14..5000_usize, 0..8),
    ) {
        let (mut harness, world) = card_of(u64::from(features) | u64::from(event_index) << 29);
        let mut fences = Vec::new();
        let mut room = 0_u64;
        for chain in &buffers {
            let mut chain = chain.clone();
            chain.sort_by_key(|(_, writable)| *writable);
            let mut parts = Vec::new();
            for (bytes, writable) in chain {
                fences.push(harness.place(&[0xee; 16]));
                let address = harness.allocate(bytes.into());
                room += u64::from(bytes);
                parts.push(Buffer { address, bytes, writable });
            }
            harness.queue(0).add(&parts);
        }
        for frame in &frames {
            world.socket.send(&plain(*frame, 0x11)).unwrap();
        }
        match harness.notify(0) {
            Ok(()) => settle(&mut harness),
            Err(DeviceError::Guest(_)) => {}
            Err(other) => prop_assert!(false, "{other:?}"),
        }
        let written: u64 = harness.queue(0).take_used().iter().map(|used| u64::from(used.written)).sum();
        prop_assert!(written <= room);
        for fence in fences {
            prop_assert_eq!(harness.read(fence, 16), vec![0xee; 16]);
        }
    }
}
