//! A token bucket: arithmetic only, no clock and no descriptor.
//!
//! ```text
//! burst (never refilled) --+
//!                          +--> take(n) --> granted, or how long to wait
//! level <-- size tokens per refill time, never above size
//! ```
//!
//! A request larger than the whole bucket is granted when the bucket is full; it leaves a debt, which is paid before anything else is
//! granted. So nothing waits for ever, and over time no more passes than the rate allows.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Largest bucket, in tokens. With [`MAX_REFILL_MS`] it keeps all products below 2^127.
const MAX_SIZE: u64 = 1 << 62;
/// Longest refill time, in milliseconds: about 557 years; in nanoseconds it is below 2^64.
const MAX_REFILL_MS: u64 = 1 << 44;
/// Nanoseconds in a millisecond.
const NANOS_PER_MS: u64 = 1_000_000;

/// How a bucket is to behave, with the names of Firecracker's `TokenBucket` object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketSpec {
    /// Tokens in the full bucket.
    pub size: u64,
    /// Tokens that may be used once beyond that, and before that; never refilled.
    #[serde(default)]
    pub one_time_burst: u64,
    /// How long the empty bucket takes to fill, in milliseconds.
    #[serde(rename = "refill_time")]
    pub refill_time_ms: u64,
}

/// What is in a bucket, to be saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketState {
    /// How it behaves.
    pub spec: BucketSpec,
    /// Tokens that are left of the burst.
    pub burst: u64,
    /// Whole tokens in the bucket.
    pub level: u64,
    /// Tokens that are owed.
    pub debt: u64,
}

/// Why there can't be such a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BucketError {
    /// The size is too large to count with.
    #[error("a bucket of {size} tokens is larger than {MAX_SIZE}")]
    Size {
        /// As wanted.
        size: u64,
    },
    /// The refill time is too long to count with.
    #[error("a refill time of {refill_time_ms} ms is longer than {MAX_REFILL_MS}")]
    RefillTime {
        /// As wanted.
        refill_time_ms: u64,
    },
    /// A saved bucket holds more than it can.
    #[error("a saved bucket holds {tokens} tokens, but at most {most} fit")]
    Overfull {
        /// As saved.
        tokens: u64,
        /// What fits.
        most: u64,
    },
}

/// A bucket that limits something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bucket {
    spec: BucketSpec,
    burst: u64,
    /// Tokens times the refill time in nanoseconds, so that no time is lost by rounding; negative: owed.
    level: i128,
    /// When `level` was true, in nanoseconds of the caller's clock.
    at_ns: u64,
}

impl Bucket {
    /// Makes a full bucket, or none if the specification limits nothing (a size or refill time of zero, as in Firecracker).
    ///
    /// # Errors
    /// See [`BucketError`].
    pub(super) fn new(spec: BucketSpec, now_ns: u64) -> Result<Option<Self>, BucketError> {
        if spec.size == 0 || spec.refill_time_ms == 0 {
            return Ok(None);
        }
        if spec.size > MAX_SIZE {
            return Err(BucketError::Size { size: spec.size });
        }
        if spec.refill_time_ms > MAX_REFILL_MS {
            return Err(BucketError::RefillTime {
                refill_time_ms: spec.refill_time_ms,
            });
        }
        let mut bucket = Bucket {
            spec,
            burst: spec.one_time_burst,
            level: 0,
            at_ns: now_ns,
        };
        bucket.level = bucket.scaled(spec.size);
        Ok(Some(bucket))
    }

    /// Makes a bucket as it was saved; the time in between does not count.
    ///
    /// # Errors
    /// See [`BucketError`].
    pub(super) fn restore(state: BucketState, now_ns: u64) -> Result<Option<Self>, BucketError> {
        let Some(mut bucket) = Bucket::new(state.spec, now_ns)? else {
            return Ok(None);
        };
        let check = |tokens: u64, most: u64| {
            if tokens > most {
                return Err(BucketError::Overfull { tokens, most });
            }
            Ok(())
        };
        check(state.burst, state.spec.one_time_burst)?;
        check(state.level, state.spec.size)?;
        // A debt is at most one request; a larger one would be a device that never works again.
        check(state.debt, MAX_SIZE)?;
        bucket.burst = state.burst;
        bucket.level = bucket.scaled(state.level).saturating_sub(bucket.scaled(state.debt));
        Ok(Some(bucket))
    }

    /// What is in the bucket. Fractions of a token are not saved.
    pub(super) fn save(&self, now_ns: u64) -> BucketState {
        let mut now = self.clone();
        now.refill(now_ns);
        let tokens = |scaled: i128| u64::try_from(scaled / now.refill_ns()).unwrap_or(0);
        let debt = now.level.min(0).saturating_neg();
        let rounded_up = debt.saturating_add(now.refill_ns().saturating_sub(1));
        BucketState {
            spec: now.spec,
            burst: now.burst,
            level: tokens(now.level.max(0)),
            debt: tokens(rounded_up).min(MAX_SIZE),
        }
    }

    /// Whether so many tokens could be taken now; else how long to wait before it is worth asking again.
    pub(super) fn check(&mut self, tokens: u64, now_ns: u64) -> Result<(), Duration> {
        self.refill(now_ns);
        let rest = tokens.saturating_sub(self.burst);
        if rest == 0 {
            return Ok(());
        }
        // A request that never fits waits for the full bucket.
        let needed = self.scaled(rest.min(self.spec.size));
        let missing = needed.saturating_sub(self.level);
        if missing <= 0 {
            return Ok(());
        }
        let size = i128::from(self.spec.size);
        let wait = missing.saturating_add(size.saturating_sub(1)) / size;
        Err(Duration::from_nanos(u64::try_from(wait).unwrap_or(u64::MAX)))
    }

    /// Takes tokens that [`Bucket::check`] has just granted.
    pub(super) fn take(&mut self, tokens: u64) {
        let from_burst = tokens.min(self.burst);
        self.burst = self.burst.saturating_sub(from_burst);
        let rest = tokens.saturating_sub(from_burst).min(MAX_SIZE);
        self.level = self.level.saturating_sub(self.scaled(rest));
    }

    fn refill(&mut self, now_ns: u64) {
        let elapsed = now_ns.saturating_sub(self.at_ns);
        self.at_ns = now_ns.max(self.at_ns);
        let gained = i128::from(elapsed).saturating_mul(i128::from(self.spec.size));
        self.level = self.level.saturating_add(gained).min(self.scaled(self.spec.size));
    }

    fn refill_ns(&self) -> i128 {
        i128::from(self.spec.refill_time_ms.saturating_mul(NANOS_PER_MS)).max(1)
    }

    fn scaled(&self, tokens: u64) -> i128 {
        i128::from(tokens).saturating_mul(self.refill_ns())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: u64 = NANOS_PER_MS;

    fn bucket(size: u64, one_time_burst: u64, refill_time_ms: u64) -> Bucket {
        let spec = BucketSpec {
            size,
            one_time_burst,
            refill_time_ms,
        };
        Bucket::new(spec, 0).unwrap().unwrap()
    }

    fn take(bucket: &mut Bucket, tokens: u64, now_ns: u64) -> Result<(), Duration> {
        bucket.check(tokens, now_ns)?;
        bucket.take(tokens);
        Ok(())
    }

    #[test]
    fn tokens_come_back_with_time() {
        let mut bucket = bucket(100, 0, 1000);
        assert_eq!(take(&mut bucket, 100, 0), Ok(()));
        assert_eq!(take(&mut bucket, 1, 0), Err(Duration::from_millis(10)));
        assert_eq!(take(&mut bucket, 1, 10 * MS - 1), Err(Duration::from_nanos(1)));
        assert_eq!(take(&mut bucket, 1, 10 * MS), Ok(()));
        assert_eq!(take(&mut bucket, 50, 20 * MS), Err(Duration::from_millis(490)));
        // Never above its size, however long nobody asks.
        assert_eq!(take(&mut bucket, 100, 10_000_000 * MS), Ok(()));
        assert_eq!(take(&mut bucket, 1, 10_000_000 * MS), Err(Duration::from_millis(10)));
    }

    #[test]
    fn the_burst_is_used_first_and_once() {
        let mut bucket = bucket(10, 25, 100);
        assert_eq!(take(&mut bucket, 20, 0), Ok(()));
        assert_eq!(take(&mut bucket, 15, 0), Ok(()));
        assert_eq!(take(&mut bucket, 1, 0), Err(Duration::from_millis(10)));
        assert_eq!(take(&mut bucket, 10, 100 * MS), Ok(()));
        assert_eq!(take(&mut bucket, 10, 150 * MS), Err(Duration::from_millis(50)));
    }

    #[test]
    fn a_request_larger_than_the_bucket_passes_and_is_paid_for() {
        let mut bucket = bucket(10, 0, 100);
        assert_eq!(take(&mut bucket, 35, 0), Ok(()));
        assert_eq!(take(&mut bucket, 1, 0), Err(Duration::from_millis(260)));
        assert_eq!(take(&mut bucket, 35, 250 * MS), Err(Duration::from_millis(100)));
        assert_eq!(take(&mut bucket, 35, 350 * MS), Ok(()));
    }

    #[test]
    fn what_limits_nothing_is_no_bucket() {
        for (size, refill_time_ms) in [(0, 100), (100, 0), (0, 0)] {
            let spec = BucketSpec {
                size,
                one_time_burst: 7,
                refill_time_ms,
            };
            assert_eq!(Bucket::new(spec, 0), Ok(None));
        }
    }

    #[test]
    fn what_can_not_be_counted_is_refused() {
        let spec = |size, refill_time_ms| BucketSpec {
            size,
            one_time_burst: 0,
            refill_time_ms,
        };
        assert_eq!(
            Bucket::new(spec(u64::MAX, 1), 0),
            Err(BucketError::Size { size: u64::MAX })
        );
        assert_eq!(
            Bucket::new(spec(1, u64::MAX), 0),
            Err(BucketError::RefillTime {
                refill_time_ms: u64::MAX
            })
        );
        let state = BucketState {
            spec: spec(10, 10),
            burst: 0,
            level: 11,
            debt: 0,
        };
        assert_eq!(
            Bucket::restore(state, 0),
            Err(BucketError::Overfull { tokens: 11, most: 10 })
        );
        let state = BucketState {
            burst: 1,
            level: 0,
            ..state
        };
        assert_eq!(
            Bucket::restore(state, 0),
            Err(BucketError::Overfull { tokens: 1, most: 0 })
        );
    }

    #[test]
    fn a_saved_bucket_goes_on_where_it_was() {
        let mut before = bucket(10, 5, 100);
        assert_eq!(take(&mut before, 3, 0), Ok(()));
        assert_eq!(take(&mut before, 8, 0), Ok(()));
        let state = before.save(5 * MS);
        assert_eq!((state.burst, state.level, state.debt), (0, 4, 0));
        let after = Bucket::restore(state, 77 * MS).unwrap().unwrap();
        assert_eq!(after.save(77 * MS), state);
        assert_eq!(take(&mut before, 40, 60 * MS), Ok(()));
        let state = before.save(60 * MS);
        assert_eq!((state.burst, state.level, state.debt), (0, 0, 30));
        assert_eq!(Bucket::restore(state, 0).unwrap().unwrap().save(0), state);
    }

    proptest! {
        /// Over any time, all but the last grant fit into burst, size and rate times time.
        #[test]
        fn never_grants_more_than_allowed(
            size in 1..=MAX_SIZE, burst: u64, refill_ms in 1..=MAX_REFILL_MS,
            steps in prop::collection::vec((any::<u64>(), 0..1_u64 << 56), 1..60),
            small: bool,
        ) {
            let mut bucket = bucket(size, burst, refill_ms);
            let (mut now, mut granted) = (0_u64, 0_u128);
            for (tokens, pause) in steps {
                now = now.saturating_add(pause);
                let tokens = if small { tokens % size } else { tokens % MAX_SIZE };
                let refilled = u128::from(now) * u128::from(size) / u128::from(refill_ms * MS);
                let allowed = u128::from(burst) + u128::from(size) + refilled;
                if take(&mut bucket, tokens, now).is_ok() {
                    if small {
                        prop_assert!(granted + u128::from(tokens) <= allowed);
                    }
                    prop_assert!(tokens == 0 || granted <= allowed);
                    granted += u128::from(tokens);
                }
            }
        }

        /// Whoever waits as long as he is told gets what he asked for.
        #[test]
        fn never_stalls(
            size in 1..=MAX_SIZE, burst: u64, refill_ms in 1..=MAX_REFILL_MS,
            requests in prop::collection::vec(0..=1_u64 << 40, 1..40),
        ) {
            let mut bucket = bucket(size, burst, refill_ms);
            let mut now = 0_u64;
            for tokens in requests {
                if let Err(wait) = take(&mut bucket, tokens, now) {
                    let Ok(wait) = u64::try_from(wait.as_nanos()) else { return Ok(()) };
                    prop_assert!(wait > 0);
                    let Some(then) = now.checked_add(wait) else { return Ok(()) };
                    now = then;
                    prop_assert_eq!(take(&mut bucket, tokens, now), Ok(()));
                }
            }
        }

        /// A saved state is always accepted again, and is never more generous.
        #[test]
        fn survives_saving(
            size in 1..=MAX_SIZE, burst: u64, refill_ms in 1..=MAX_REFILL_MS,
            tokens in prop::collection::vec(0..=MAX_SIZE, 0..10), now: u64,
        ) {
            let mut before = bucket(size, burst, refill_ms);
            for tokens in tokens {
                let _refused = take(&mut before, tokens, 0);
            }
            let state = before.save(now);
            let after = Bucket::restore(state, 5).unwrap().unwrap();
            before.refill(now);
            prop_assert!(after.burst == before.burst);
            prop_assert!(after.level <= before.level || before.level < -after.scaled(MAX_SIZE));
        }
    }
}
