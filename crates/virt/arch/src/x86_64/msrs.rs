//! Which model-specific registers a snapshot holds.

/// `IA32_TIME_STAMP_COUNTER` and `IA32_TSC_DEADLINE` (Intel SDM vol. 4).
const TSC: u32 = 0x10;
const TSC_DEADLINE: u32 = 0x6e0;

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

/// The registers to save, in the order in which they are restored: the counter first, because others are relative to it; the deadline
/// last, because it is compared with the counter, and is ignored until the local APIC's timer is in its mode.
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
