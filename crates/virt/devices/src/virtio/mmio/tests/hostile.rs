//! Accesses that no driver makes.

use proptest::prelude::*;

use super::*;
use crate::virtio::mmio::WINDOW_BYTES;

/// Every register in every width, at every offset, in every stage of initialisation.
#[test]
fn any_access_at_any_stage_is_harmless() {
    let mut values = proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha);
    for stage in 0..5 {
        let rig = Rig::new();
        let prepare = || match stage {
            0 => rig.driver().write(offsets::STATUS, 0),
            1 => rig.driver().write(offsets::STATUS, 3),
            2 => drop(rig.driver().negotiate(rig.driver().features())),
            3 => drop(rig.up()),
            _ => {
                drop(rig.up());
                rig.driver().write(offsets::STATUS, 0x8f);
            }
        };
        for offset in (0..0x120).chain([0x800, WINDOW_BYTES - 8]) {
            for width in [1, 2, 3, 4, 5, 6, 7, 8] {
                prepare();
                for _ in 0..2 {
                    let mut data = [0; 8];
                    values.fill_bytes(&mut data);
                    rig.window.write(offset, &data[..width]);
                    rig.window.read(offset, &mut data[..width]);
                    rig.turn();
                }
            }
        }
        drop(rig.up());
        assert!(rig.transport.lock().unwrap().is_active());
    }
}

proptest! {
    #[test]
    fn any_sequence_of_writes_leaves_a_device_that_can_be_reset_and_saved(
        writes in prop::collection::vec(
            (prop::sample::select(vec![0x14_u64, 0x20, 0x24, 0x30, 0x38, 0x44, 0x50, 0x64, 0x70, 0x80, 0x84, 0x90, 0x94, 0xa0, 0xa4, 0x100]),
             prop_oneof![0_u32..20, prop::sample::select(vec![0xb_u32, 0xf, 0x1000, 0x2000, 0x3000, 0x8000_0000]), any::<u32>()]),
            0..80),
    ) {
        let rig = Rig::new();
        for (offset, value) in writes {
            rig.driver().write(offset, value);
            rig.turn();
        }
        let state = rig.transport.lock().unwrap().save();
        let restored = Rig::with(rig.memory.clone(), false);
        let mut transport = restored.transport.lock().unwrap();
        transport.restore(state.clone()).unwrap();
        prop_assert_eq!(transport.save(), state);
        drop(transport);
        drop(rig.up());
        prop_assert!(rig.transport.lock().unwrap().is_active());
    }
}
