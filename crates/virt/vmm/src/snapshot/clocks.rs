//! How far a restored guest's clocks step: by the wall clock of the host that saved it and of the one that restores it.

use std::time::{Duration, SystemTime};

/// What becomes of a guest's clocks at a restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuestClocks {
    /// They go on where they stopped.
    GoOn,
    /// They step by the time that has passed since.
    CatchUp,
}

impl GuestClocks {
    /// How far they step for a guest that was saved at `saved_at_ns`, at `now_ns`. A wall clock that went back meanwhile makes no step:
    /// the guest's must not go back. None if the snapshot does not say when it was made and that is to be known.
    #[must_use]
    pub const fn step(self, saved_at_ns: Option<u64>, now_ns: u64) -> Option<Duration> {
        match (self, saved_at_ns) {
            (GuestClocks::GoOn, _) => Some(Duration::ZERO),
            (GuestClocks::CatchUp, Some(saved_at_ns)) => Some(Duration::from_nanos(now_ns.saturating_sub(saved_at_ns))),
            (GuestClocks::CatchUp, None) => None,
        }
    }
}

/// The wall clock, in nanoseconds since 1970.
pub(crate) fn wall_clock_ns() -> u64 {
    // Before 1970 or after 2554 the host's clock is wrong, and no guest steps by it.
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_step_by_what_has_passed_and_never_back() {
        let step = |clocks: GuestClocks, saved, now| clocks.step(saved, now).map(|step| step.as_nanos());
        assert_eq!(step(GuestClocks::CatchUp, Some(1_000), 4_500), Some(3_500));
        assert_eq!(step(GuestClocks::CatchUp, Some(4_500), 1_000), Some(0));
        assert_eq!(step(GuestClocks::CatchUp, Some(0), u64::MAX), Some(u64::MAX.into()));
        assert_eq!(step(GuestClocks::CatchUp, None, 1), None);
        for saved in [None, Some(0), Some(u64::MAX)] {
            assert_eq!(step(GuestClocks::GoOn, saved, 1_000), Some(0));
        }
    }
}
