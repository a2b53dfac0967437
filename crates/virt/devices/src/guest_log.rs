//! Log lines that a guest can cause, limited for each place in the code: so many in an interval, then only a count of those left out.
//!
//! Everything on a guest's path logs by [`guest_warn!`](crate::guest_warn) and never by `tracing::warn!`: a guest that provokes a line a
//! million times a second must not fill the host's disk.

use std::sync::atomic::{AtomicU64, Ordering};

use rustix::time::{ClockId, clock_gettime};
#[doc(hidden)]
pub use tracing;

/// Lines of one place in one interval.
const LINES: u64 = 5;
/// Seconds of an interval.
const INTERVAL_SECONDS: u64 = 10;
/// Bits of the packed word that count lines; the interval's number is above.
const COUNT_BITS: u32 = 32;

/// The limit of one place.
#[derive(Debug, Default)]
pub struct LogLimit {
    /// The interval's number and the lines asked for in it.
    packed: AtomicU64,
    /// Lines left out since the last that was written.
    suppressed: AtomicU64,
}

impl LogLimit {
    /// A limit that nothing has been counted on.
    #[must_use]
    pub const fn new() -> Self {
        LogLimit {
            packed: AtomicU64::new(0),
            suppressed: AtomicU64::new(0),
        }
    }

    /// Asks to write a line: `None` if it must be left out, otherwise how many were left out before it.
    pub fn permit(&self) -> Option<u64> {
        // A few milliseconds of error are nothing here, and the coarse clock is a read of memory.
        let now = clock_gettime(ClockId::MonotonicCoarse);
        self.permit_at(u64::try_from(now.tv_sec).unwrap_or(0))
    }

    fn permit_at(&self, seconds: u64) -> Option<u64> {
        // The first interval is 1, so that the initial word belongs to none.
        let interval = (seconds / INTERVAL_SECONDS).wrapping_add(1) & u64::from(u32::MAX);
        let next = |packed: u64| {
            if packed >> COUNT_BITS == interval {
                // Stops counting far below an overflow into the interval's bits.
                let counted = packed & u64::from(u32::MAX);
                (counted <= LINES).then_some(packed.wrapping_add(1))
            } else {
                Some(interval << COUNT_BITS | 1)
            }
        };
        let counted = match self.packed.try_update(Ordering::Relaxed, Ordering::Relaxed, next) {
            Ok(before) if before >> COUNT_BITS == interval => before & u64::from(u32::MAX),
            Ok(_) => 0,
            Err(_) => LINES,
        };
        if counted < LINES {
            Some(self.suppressed.swap(0, Ordering::Relaxed))
        } else {
            self.suppressed.fetch_add(1, Ordering::Relaxed);
            None
        }
    }
}

/// Logs a warning that a guest can cause: fields and message as `tracing::warn!` takes them, at most a few lines per place and interval.
#[macro_export]
macro_rules! guest_warn {
    ($($arguments:tt)+) => {{
        static LIMIT: $crate::guest_log::LogLimit = $crate::guest_log::LogLimit::new();
        if let ::core::option::Option::Some(suppressed) = LIMIT.permit() {
            $crate::guest_log::tracing::warn!(suppressed, $($arguments)+);
        }
    }};
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_has_so_many_lines_and_the_next_says_how_many_were_left_out() {
        let limit = LogLimit::new();
        for _ in 0..LINES {
            assert_eq!(limit.permit_at(100), Some(0));
        }
        for _ in 0..1_000 {
            assert_eq!(limit.permit_at(100 + INTERVAL_SECONDS - 1), None);
        }
        assert_eq!(limit.permit_at(100 + INTERVAL_SECONDS), Some(1_000));
        assert_eq!(limit.permit_at(100 + INTERVAL_SECONDS), Some(0));
    }

    #[test]
    fn the_macro_takes_what_tracing_takes() {
        for queue in 0..100_u16 {
            guest_warn!(queue, device = "test", "a test's {}", "warning");
        }
    }
}
