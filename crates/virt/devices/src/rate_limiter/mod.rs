//! Limits of bytes and operations per time, for one direction of a device: two token buckets, and a timer that tells when to try again.

mod bucket;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::event::timespec;

use bucket::Bucket;
pub use bucket::{BucketError, BucketSpec, BucketState};

/// Longest time until the timer fires; asking again too early is harmless, and a host's clock that jumps can't stall a device for longer.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// What is to be limited, with the names of Firecracker's `RateLimiter` object.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateLimiterSpec {
    /// Bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<BucketSpec>,
    /// Operations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ops: Option<BucketSpec>,
}

/// A limiter as saved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateLimiterState {
    /// The bucket of bytes.
    pub bandwidth: Option<BucketState>,
    /// The bucket of operations.
    pub ops: Option<BucketState>,
}

/// Why there can't be such a limiter.
#[derive(Debug, Error)]
pub enum RateLimiterError {
    /// A bucket is out of bounds.
    #[error(transparent)]
    Bucket(#[from] BucketError),
    /// No timer is to be had.
    #[error("no timer for a rate limiter")]
    Timer(#[source] std::io::Error),
}

/// Limits one direction of a device.
#[derive(Debug)]
pub struct RateLimiter {
    bandwidth: Option<Bucket>,
    ops: Option<Bucket>,
    timer: OwnedFd,
    epoch: Instant,
    /// Somebody was refused and waits for the timer.
    is_waiting: bool,
}

impl RateLimiter {
    /// Makes a limiter with full buckets.
    ///
    /// # Errors
    /// See [`RateLimiterError`].
    pub fn new(spec: RateLimiterSpec) -> Result<Self, RateLimiterError> {
        let timer = rustix::time::timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK,
        )
        .map_err(|error| RateLimiterError::Timer(error.into()))?;
        Ok(RateLimiter {
            bandwidth: make(spec.bandwidth, 0)?,
            ops: make(spec.ops, 0)?,
            timer,
            epoch: Instant::now(),
            is_waiting: false,
        })
    }

    /// Replaces buckets by full ones: `None` leaves one as it is, a specification that limits nothing (size or refill time 0) removes it.
    /// Whoever waits is woken to try again.
    ///
    /// # Errors
    /// See [`BucketError`]; nothing has changed then.
    pub fn update(&mut self, spec: RateLimiterSpec) -> Result<(), BucketError> {
        let now = self.now_ns();
        let bandwidth = make(spec.bandwidth, now)?;
        let ops = make(spec.ops, now)?;
        if spec.bandwidth.is_some() {
            self.bandwidth = bandwidth;
        }
        if spec.ops.is_some() {
            self.ops = ops;
        }
        if self.is_waiting {
            self.wake_after(Duration::ZERO);
        }
        Ok(())
    }

    /// Takes one operation of so many bytes, or nothing. If it refuses, the timer becomes readable when it is time to try again.
    #[must_use]
    pub fn take(&mut self, bytes: u64) -> bool {
        if self.bandwidth.is_none() && self.ops.is_none() {
            return true;
        }
        let now = self.now_ns();
        let ask = |bucket: &mut Option<Bucket>, tokens: u64| bucket.as_mut().map_or(Ok(()), |it| it.check(tokens, now));
        let answers = [ask(&mut self.bandwidth, bytes), ask(&mut self.ops, 1)];
        if let Some(wait) = answers.into_iter().filter_map(Result::err).max() {
            self.is_waiting = true;
            self.wake_after(wait.min(MAX_WAIT));
            return false;
        }
        self.is_waiting = false;
        if let Some(bucket) = &mut self.bandwidth {
            bucket.take(bytes);
        }
        if let Some(bucket) = &mut self.ops {
            bucket.take(1);
        }
        true
    }

    /// The timer: readable when a refused request is worth another try.
    #[must_use]
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }

    /// Makes the timer unreadable after it fired. Call before trying again.
    pub fn acknowledge(&mut self) {
        let mut expirations = [0_u8; 8];
        // Nothing to read: it has not fired, which is as good.
        let _nothing = rustix::io::read(&self.timer, &mut expirations);
    }

    /// Forgets that anybody waits; tokens stay as they are.
    pub fn reset(&mut self) {
        self.is_waiting = false;
        let stopped = Itimerspec {
            it_interval: timespec(Duration::ZERO),
            it_value: timespec(Duration::ZERO),
        };
        // It can only fail for bad arguments (timerfd_settime(2)); a timer that fires for nobody is harmless.
        let _harmless = rustix::time::timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &stopped);
    }

    /// What a snapshot has to know.
    #[must_use]
    pub fn save(&self) -> RateLimiterState {
        let now = self.now_ns();
        RateLimiterState {
            bandwidth: self.bandwidth.as_ref().map(|bucket| bucket.save(now)),
            ops: self.ops.as_ref().map(|bucket| bucket.save(now)),
        }
    }

    /// Takes a saved state with its specification; it replaces the limiter's own. The time in between does not count.
    ///
    /// # Errors
    /// See [`BucketError`].
    pub fn restore(&mut self, state: RateLimiterState) -> Result<(), BucketError> {
        let now = self.now_ns();
        let make = |state: Option<BucketState>| match state {
            Some(state) => Bucket::restore(state, now),
            None => Ok(None),
        };
        let (bandwidth, ops) = (make(state.bandwidth)?, make(state.ops)?);
        self.bandwidth = bandwidth;
        self.ops = ops;
        Ok(())
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn wake_after(&self, wait: Duration) {
        // Zero would stop the timer (timerfd_settime(2)).
        let once = Itimerspec {
            it_interval: timespec(Duration::ZERO),
            it_value: timespec(wait.max(Duration::from_nanos(1))),
        };
        // It can only fail for bad arguments, which these are not.
        let _impossible = rustix::time::timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once);
    }
}

fn make(spec: Option<BucketSpec>, now_ns: u64) -> Result<Option<Bucket>, BucketError> {
    match spec {
        Some(spec) => Bucket::new(spec, now_ns),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, PollFlags};

    use super::*;

    fn spec(size: u64, refill_time_ms: u64) -> Option<BucketSpec> {
        Some(BucketSpec {
            size,
            one_time_burst: 0,
            refill_time_ms,
        })
    }

    fn fires_within(limiter: &RateLimiter, milliseconds: u32) -> bool {
        let timer = limiter.descriptor();
        let mut waited = [PollFd::new(&timer, PollFlags::IN)];
        let most = timespec(Duration::from_millis(milliseconds.into()));
        rustix::event::poll(&mut waited, Some(&most)).unwrap() == 1
    }

    #[test]
    fn without_buckets_everything_passes() {
        let mut limiter = RateLimiter::new(RateLimiterSpec::default()).unwrap();
        for _ in 0..1000 {
            assert!(limiter.take(u64::MAX));
        }
        assert!(!fires_within(&limiter, 0));
        assert_eq!(limiter.save(), RateLimiterState::default());
    }

    #[test]
    fn the_timer_tells_when_to_try_again() {
        let mut limiter = RateLimiter::new(RateLimiterSpec {
            bandwidth: None,
            ops: spec(10, 300),
        })
        .unwrap();
        while limiter.take(0) {}
        assert!(fires_within(&limiter, 2000));
        limiter.acknowledge();
        assert!(!fires_within(&limiter, 0));
        assert!(limiter.take(0));
    }

    #[test]
    fn nothing_is_taken_of_one_bucket_if_the_other_refuses() {
        let mut limiter = RateLimiter::new(RateLimiterSpec {
            bandwidth: spec(100, 10_000_000),
            ops: spec(10, 10_000_000),
        })
        .unwrap();
        assert!(limiter.take(100));
        for _ in 0..5 {
            assert!(!limiter.take(100));
        }
        let state = limiter.save();
        assert_eq!(state.ops.map(|ops| ops.level), Some(9));
        assert_eq!(state.bandwidth.map(|bytes| bytes.level), Some(0));
    }

    #[test]
    fn an_update_wakes_whoever_waits() {
        let mut limiter = RateLimiter::new(RateLimiterSpec {
            bandwidth: spec(1, 1_000_000),
            ops: spec(1000, 1000),
        })
        .unwrap();
        assert!(limiter.take(1));
        assert!(!limiter.take(1));
        assert!(!fires_within(&limiter, 0));
        limiter
            .update(RateLimiterSpec {
                bandwidth: spec(0, 0),
                ops: None,
            })
            .unwrap();
        assert!(fires_within(&limiter, 1000));
        limiter.acknowledge();
        assert!(limiter.take(1_000_000));
        assert!(limiter.save().ops.is_some(), "the other bucket stays");
    }

    #[test]
    fn the_names_are_those_of_the_api() {
        let text = r#"{"bandwidth":{"size":5,"one_time_burst":1,"refill_time":100},"ops":{"size":2,"refill_time":9}}"#;
        let spec: RateLimiterSpec = serde_json::from_str(text).unwrap();
        let bandwidth = BucketSpec {
            size: 5,
            one_time_burst: 1,
            refill_time_ms: 100,
        };
        let ops = BucketSpec {
            size: 2,
            one_time_burst: 0,
            refill_time_ms: 9,
        };
        assert_eq!(
            spec,
            RateLimiterSpec {
                bandwidth: Some(bandwidth),
                ops: Some(ops)
            }
        );
    }
}
