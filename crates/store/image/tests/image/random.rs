//! Random archives and random bytes: nothing escapes, nothing panics, and every directory can be removed again.

use proptest::prelude::*;
use ringwall_image::ArchiveKind::{OciLayer, Plain};
use ringwall_image::fuzzing::fuzz_unpack_into;

use crate::support::{Archive, Entry, Ground};

/// Names that meet each other often, and the ones that lead out.
fn name() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        8 => prop::sample::select(vec!["a", "b", "c", "l"]),
        1 => prop::sample::select(vec!["..", ".", "", "canary", "file", ".wh.a", ".wh.l", ".wh..wh..opq"]),
    ];
    prop::collection::vec(part, 1..4).prop_map(|parts| parts.join("/"))
}

fn target() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => name(),
        1 => prop::sample::select(vec!["../canary", "../canary/file", "/", "/a", "..", "../..", "/proc/self/root", "l"])
            .prop_map(str::to_owned),
    ]
}

fn entry() -> impl Strategy<Value = Entry> {
    let kind = prop::sample::select(b"0000222225555111".to_vec());
    (kind, name(), target(), 0_u32..0o10000, 0_usize..600).prop_map(|(kind, path, link, mode, size)| {
        let mut entry = Entry::new(kind, path.as_bytes());
        entry.mode = mode;
        match kind {
            b'0' => entry.content = vec![b'x'; size],
            b'1' | b'2' => entry.link = link.into_bytes(),
            _ => {}
        }
        entry
    })
}

fn archive() -> impl Strategy<Value = Archive> {
    prop::collection::vec(entry(), 1..24)
        .prop_map(|entries| entries.iter().fold(Archive::new(), |archive, entry| archive.add(entry)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn entry_sequences_stay_inside(layers in prop::collection::vec(archive(), 1..4)) {
        let ground = Ground::new();
        for layer in layers {
            // One entry at a time as well, so that a refusal doesn't hide what would come after it.
            drop(ground.unpack(&layer.clone().end(), OciLayer));
            drop(ground.unpack(&layer.clone().end(), Plain));
            drop(ground.unpack(&layer.0, OciLayer));
        }
    }

    #[test]
    fn single_entries_pile_up_inside(entries in prop::collection::vec(entry(), 1..40)) {
        let ground = Ground::new();
        for entry in entries {
            drop(ground.unpack(&Archive::new().add(&entry).end(), OciLayer));
        }
    }

    #[test]
    fn damaged_archives_stay_inside(
        archive in archive(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        must_sign in any::<bool>(),
    ) {
        let mut data = archive.end();
        for (place, value) in damage {
            let index = place.index(data.len());
            data[index] = value;
        }
        if must_sign {
            crate::support::sign(&mut data);
        }
        let ground = Ground::new();
        drop(fuzz_unpack_into(&data, &ground.root));
        ground.check_canary();
    }
}
