//! Any packets in any order: nothing panics, everything stays bounded, and an honest connection still works afterwards.

use proptest::prelude::*;

use super::guest::{Guest, noise};
use crate::virtio::vsock::fuzzing::fuzz_packets;
use crate::virtio::vsock::muxer::MOST_CONNECTIONS;
use crate::virtio::vsock::packet::{Header, Operation};

/// Packets near enough to right ones that they get somewhere.
fn packet() -> impl Strategy<Value = (Header, Vec<u8>)> {
    let port = prop_oneof![
        Just(80_u32),
        Just(81),
        Just(1 << 30),
        Just((1 << 30) + 1),
        0..4_u32,
        any::<u32>()
    ];
    let guest = prop_oneof![Just(52_u32), 0..4_u32, any::<u32>()];
    let number = prop_oneof![Just(0_u32), 0..70_000_u32, any::<u32>()];
    let operation = prop_oneof![9 => 0..9_u16, 1 => any::<u16>()];
    let kind = prop_oneof![9 => Just(1_u16), 1 => any::<u16>()];
    let cid = prop_oneof![20 => Just(3_u64), 1 => any::<u64>()];
    let length = prop_oneof![Just(0_usize), 0..100_usize, 0..70_000_usize];
    let honest = prop_oneof![9 => Just(true), 1 => Just(false)];
    (
        port,
        guest,
        number.clone(),
        number,
        operation,
        kind,
        cid,
        length,
        (honest, 0..5_u32),
    )
        .prop_map(
            |(host, guest, capacity, forwarded, operation, kind, cid, length, (honest, flags))| {
                let header = Header {
                    source_cid: cid,
                    destination_cid: 2,
                    source_port: guest,
                    destination_port: host,
                    length: if honest {
                        u32::try_from(length).unwrap()
                    } else {
                        capacity
                    },
                    kind,
                    operation,
                    flags,
                    capacity,
                    forwarded: if honest { 0 } else { forwarded },
                };
                (header, vec![7; length])
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn any_packets(packets in prop::collection::vec((packet(), 0..8_u8), 1..100)) {
        let mut guest = Guest::new();
        let listener = guest.host_listens(80);
        listener.set_nonblocking(true).unwrap();
        let mut hosts = Vec::new();
        for ((header, data), step) in packets {
            match step {
                0 => hosts.push(guest.host_connects(52)),
                1 => drop(hosts.pop()),
                2 => hosts.extend(listener.accept().map(|(stream, _)| stream)),
                3 => guest.run(),
                4 => guest.gives_back = !guest.gives_back,
                _ => {}
            }
            if data.is_empty() && header.operation == Operation::Response.to_wire() {
                guest.run();
            }
            guest.post(&header, &data);
            guest.notify(1);
            guest.collect();
            guest.inbox.clear();
        }
        prop_assert!(guest.harness.device.muxer().connections() <= MOST_CONNECTIONS);
        // An honest connection still works.
        guest.gives_back = true;
        guest.give(30);
        guest.notify(0);
        guest.run();
        guest.inbox.clear();
        let _old = listener.incoming().map_while(Result::ok).count();
        guest.say(80, 6_000, Operation::Request);
        guest.say(80, 6_000, Operation::CreditRequest);
        loop {
            let (packet, _) = guest.next();
            if packet.destination_port == 6_000 {
                prop_assert_eq!(packet.operation, Operation::Response.to_wire());
                break;
            }
        }
    }

    /// The fuzz target takes anything.
    #[test]
    fn any_bytes(data in prop::collection::vec(any::<u8>(), 0..2000)) {
        fuzz_packets(&data);
    }
}

#[test]
fn the_fuzz_target_gets_somewhere() {
    for seed in 0..50 {
        fuzz_packets(&noise(seed, 3000));
    }
}
