//! How far a restored guest's clocks step. Arithmetic only: the same on every host, and whatever a snapshot says, no overflow.

use std::time::Duration;

/// How many ticks a counter of this frequency makes in the time that has passed; as many as there can be if there are more.
pub(crate) fn ticks(passed: Duration, hertz: u64) -> u64 {
    /// Nanoseconds of a second.
    const SECOND: u128 = 1_000_000_000;
    // Not above 2^128: a duration has less than 2^94 nanoseconds. Should that change, it is saturated too.
    let ticks = passed.as_nanos().saturating_mul(hertz.into()) / SECOND;
    u64::try_from(ticks).unwrap_or(u64::MAX)
}

/// The time that has passed in nanoseconds, which are the ticks of paravirtual clocks.
pub(crate) fn nanoseconds(passed: Duration) -> u64 {
    u64::try_from(passed.as_nanos()).unwrap_or(u64::MAX)
}

/// The offsets that make the first vCPU's counter, which shows `shows` with the offset `here`, show `wanted`; the others keep their
/// distance to the first, which the guest knows them by. Offsets and counters wrap, as processors' do.
pub(crate) fn offsets(saved: &[u64], here: u64, shows: u64, wanted: u64) -> Vec<u64> {
    let first = here.wrapping_add(wanted.wrapping_sub(shows));
    let origin = saved.first().copied().unwrap_or_default();
    saved
        .iter()
        .map(|offset| first.wrapping_add(offset.wrapping_sub(origin)))
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn time_becomes_ticks_and_never_overflows() {
        let second = Duration::from_secs(1);
        assert_eq!(ticks(Duration::ZERO, 3_000_000_000), 0);
        assert_eq!(ticks(second, 62_500_000), 62_500_000);
        assert_eq!(ticks(Duration::from_nanos(1), 999_999_999), 0, "rounded down");
        assert_eq!(ticks(Duration::from_nanos(15), 1_000_000_000), 15);
        // A year of the fastest counter fits; more than all of time does not, and is no panic.
        assert_eq!(
            ticks(Duration::from_secs(31_536_000), 5_000_000_000),
            157_680_000_000_000_000
        );
        assert_eq!(ticks(Duration::MAX, u64::MAX), u64::MAX);
        assert_eq!(ticks(second * 20, 1 << 62), u64::MAX);
        assert_eq!(nanoseconds(second), 1_000_000_000);
        assert_eq!(nanoseconds(Duration::MAX), u64::MAX);
    }

    #[test]
    fn all_counters_step_by_the_same() {
        let step = offsets(&[100, 100, 107, 90], 1000, 50, 80);
        assert_eq!(step, [1030, 1030, 1037, 1020]);
        assert_eq!(offsets(&[0], 10, 50, 20), [10_u64.wrapping_sub(30)], "back, too");
        assert_eq!(offsets(&[], 1, 2, 3), Vec::<u64>::new());
    }

    proptest! {
        #[test]
        fn a_counter_shows_what_is_wanted(saved: [u64; 3], here: u64, host: u64, wanted: u64) {
            let shows = host.wrapping_add(here);
            let new = offsets(&saved, here, shows, wanted);
            prop_assert_eq!(host.wrapping_add(new[0]), wanted);
            prop_assert_eq!(new[2].wrapping_sub(new[0]), saved[2].wrapping_sub(saved[0]));
        }

        #[test]
        fn more_time_is_never_fewer_ticks(one in 0..u64::MAX, more in 0..u64::MAX, hertz: u64) {
            let passed = Duration::from_nanos(one);
            prop_assert!(ticks(passed, hertz) <= ticks(passed + Duration::from_nanos(more), hertz));
        }
    }
}
