//! Searches larger than any rule's, where jumps don't reach: nothing may wrap, and every value must find its way.

use proptest::prelude::*;

use super::simulator::{check, run};
use crate::assembler::{Assembler, Compare, Goto, Step};

/// Where a value must lead: the last step that doesn't start after it.
fn expected(steps: &[(u32, u32)], value: u32) -> Option<u32> {
    steps.iter().rev().find(|step| step.0 <= value).map(|step| step.1)
}

/// A program that searches the call number among `steps`, each outcome a block of its own at the program's end, or,
/// where `direct`, a return wherever the search likes it.
fn assemble(steps: &[(u32, u32)], direct: bool) -> Vec<libc::sock_filter> {
    let mut assembler = Assembler::default();
    let mut blocks: Vec<(u32, Goto)> = Vec::new();
    let mut targets: Vec<Step> = Vec::new();
    for &(start, outcome) in steps {
        let known = blocks.iter().find(|block| block.0 == outcome).map(|block| block.1);
        let goto = known.filter(|_| !direct).unwrap_or_else(|| {
            let end = Goto::Return(outcome);
            if direct {
                return end;
            }
            let block = assembler
                .branch(Compare::Equal, u32::MAX, Goto::Return(outcome + 1000), end)
                .expect("written");
            let block = assembler.load(16, u32::MAX, block).expect("written");
            blocks.push((outcome, block));
            block
        });
        if targets.last().is_none_or(|last| last.1 != goto) {
            targets.push((start, goto));
        }
    }
    let entry = assembler.search(&targets).expect("written");
    assembler.load(0, u32::MAX, entry).expect("written");
    assembler.finish()
}

fn assert_searches(steps: &[(u32, u32)]) {
    for direct in [false, true] {
        let program = assemble(steps, direct);
        assert_eq!(check(&program), Ok(()), "{} steps", steps.len());
        for &(start, _) in steps {
            for value in [start, start.wrapping_sub(1), start.wrapping_add(1)] {
                let got = run(&program, 0, value, &[0; 6]).map(|ran| ran.0);
                assert_eq!(
                    got.ok(),
                    expected(steps, value),
                    "{value:#x} among {} steps",
                    steps.len()
                );
            }
        }
    }
}

#[test]
fn long_searches_reach_far_blocks() {
    for outcomes in [2, 3, 40, 120] {
        for stride in [1, 2, 9] {
            let steps: Vec<(u32, u32)> = (0..900).map(|at| (at * stride, (at * 7 + at / 5) % outcomes)).collect();
            assert_searches(&steps);
        }
    }
}

#[test]
fn a_long_program_has_jumps_that_an_8_bit_offset_does_not_reach() {
    // If this fails, the tests above no longer show anything about far jumps.
    let steps: Vec<(u32, u32)> = (0..900).map(|at| (at * 2, (at * 7) % 40)).collect();
    let program = assemble(&steps, false);
    assert!(program.iter().any(|line| line.code == 0x05 && line.k > 255));
}

proptest! {
    #[test]
    fn random_searches_find_every_value(
        gaps in prop::collection::vec((prop_oneof![3 => Just(1_u32), 1 => 2_u32..5000], 0_u32..90), 1..700),
    ) {
        let mut start = 0;
        let mut steps = vec![(0, 0)];
        for (gap, outcome) in gaps {
            start += gap;
            steps.push((start, outcome));
        }
        assert_searches(&steps);
    }
}
