//! Which model-specific registers a snapshot holds.

/// `IA32_TIME_STAMP_COUNTER` and `IA32_TSC_DEADLINE` (Intel SDM vol. 4).
pub(crate) const TSC: u32 = 0x10;
pub(crate) const TSC_DEADLINE: u32 = 0x6e0;

/// Memory type range registers, which KVM emulates but does not list: variable ranges, fixed ranges, the default type.
fn memory_types() -> impl Iterator<Item = u32> {
    (0x200..=0x20f)
        .chain([0x250, 0x258, 0x259])
        .chain(0x268..=0x26f)
        .chain([0x2ff])
}

/// Hyper-V's registers (`HV_X64_MSR_*`, Hypervisor Top Level Functional Specification, appendix F). Guests are not told of Hyper-V, so
/// they hold nothing; and some are clocks, which would make each snapshot of the same machine another one.
const HYPER_V: std::ops::Range<u32> = 0x4000_0000..0x4000_0200;

/// The registers to save: the counter first, nearest to the moment of the save, and its deadline last.
pub(crate) fn to_save(listed: &[u32]) -> Vec<u32> {
    let mut all: Vec<u32> = listed
        .iter()
        .copied()
        .filter(|index| !HYPER_V.contains(index))
        .chain(memory_types())
        .collect();
    all.sort_by_key(|index| match *index {
        TSC => 0,
        TSC_DEADLINE => 2,
        _ => 1,
    });
    let mut seen = std::collections::HashSet::new();
    all.retain(|index| seen.insert(*index));
    all
}

/// Whether a register is set with the other clocks, after everything else of every vCPU: the counters together, and the deadline when
/// its counter is right, with which it is compared.
pub(crate) const fn is_time(index: u32) -> bool {
    matches!(index, TSC | TSC_DEADLINE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_comes_first_and_its_deadline_last() {
        let msrs = to_save(&[0x174, TSC_DEADLINE, TSC, 0x2ff, 0x174, 0x4000_0020]);
        assert_eq!(msrs.first(), Some(&TSC));
        assert_eq!(msrs.last(), Some(&TSC_DEADLINE));
        assert!(!msrs.contains(&0x4000_0020));
        assert_eq!(msrs.iter().filter(|index| matches!(index, 0x174 | 0x2ff)).count(), 2);
    }
}
