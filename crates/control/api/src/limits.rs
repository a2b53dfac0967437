//! How much is borne: requests of a key over time, and requests at once.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::{Semaphore, SemaphorePermit};

/// Bytes of all bodies kept in memory at once.
const MAX_HELD_BYTES: usize = 256 << 20;
/// Seconds' worth of requests that may come at once.
const BURST_S: f64 = 2.0;
/// Most keys remembered; the least used are forgotten, which only gives them a full bucket.
const MAX_BUCKETS: usize = 10_000;

/// The limits.
#[derive(Debug)]
pub(crate) struct Limits {
    at_once: Semaphore,
    /// Bytes of bodies that may still be kept in memory.
    body_bytes: Semaphore,
    per_second: f64,
    buckets: Mutex<HashMap<String, Bucket>>,
}

/// Requests a key has left.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    left: f64,
    since: Instant,
}

impl Limits {
    pub(crate) fn new(max_requests: usize, per_second: u32) -> Self {
        Limits {
            at_once: Semaphore::new(max_requests.max(1)),
            body_bytes: Semaphore::new(MAX_HELD_BYTES),
            per_second: f64::from(per_second.max(1)),
            buckets: Mutex::default(),
        }
    }

    /// Takes a place among the requests worked on; `None` when all are taken.
    pub(crate) fn enter(&self) -> Option<SemaphorePermit<'_>> {
        self.at_once.try_acquire().ok()
    }

    /// Takes room for a body of at most `bytes`; `None` when there is none.
    pub(crate) fn hold(&self, bytes: u64) -> Option<SemaphorePermit<'_>> {
        self.body_bytes.try_acquire_many(u32::try_from(bytes).ok()?).ok()
    }

    /// Counts one request of `key`; if that is too much, returns after how many seconds to try again.
    pub(crate) fn take(&self, key: &str) -> Result<(), u32> {
        self.take_at(key, Instant::now())
    }

    fn take_at(&self, key: &str, now: Instant) -> Result<(), u32> {
        let full = self.per_second * BURST_S;
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= MAX_BUCKETS && !buckets.contains_key(key) {
            buckets.clear();
        }
        let bucket = buckets
            .entry(key.to_owned())
            .or_insert(Bucket { left: full, since: now });
        let passed = now.saturating_duration_since(bucket.since).as_secs_f64();
        bucket.left = (bucket.left + passed * self.per_second).min(full);
        bucket.since = now;
        if bucket.left >= 1.0 {
            bucket.left -= 1.0;
            Ok(())
        } else {
            // The next token is at most a second away, for at least one comes each second.
            Err(1)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_key_that_is_too_fast_waits_and_others_do_not() {
        let limits = Limits::new(1, 10);
        let now = Instant::now();
        for _ in 0..20 {
            assert!(limits.take_at("a", now).is_ok());
        }
        assert_eq!(limits.take_at("a", now), Err(1));
        assert!(limits.take_at("b", now).is_ok());
        assert!(limits.take_at("a", now + Duration::from_secs(1)).is_ok());
    }

    #[test]
    fn places_are_given_back() {
        let limits = Limits::new(1, 1);
        let place = limits.enter();
        assert!(place.is_some());
        assert!(limits.enter().is_none());
        drop(place);
        assert!(limits.enter().is_some());
    }
}
