//! How much entropy a guest may have in a time. The device knows only this much of a rate limiter.

use std::fmt::Debug;
use std::os::fd::BorrowedFd;

use crate::rate_limiter::{RateLimiter, RateLimiterState};
use crate::virtio::RestoreError;

/// A limit of requests and bytes in a time.
pub trait Allowance: Debug + Send + 'static {
    /// Takes one request of so many bytes, or nothing. If it refuses, its descriptor becomes readable when it is time to try again.
    fn take(&mut self, bytes: u64) -> bool;
    /// Waited on while the device is active.
    fn descriptor(&self) -> BorrowedFd<'_>;
    /// Makes the descriptor unreadable.
    fn acknowledge(&mut self);
    /// Forgets that anybody waits.
    fn reset(&mut self);
    /// What a snapshot must know.
    fn save(&self) -> serde_json::Value;
    /// Takes a saved state. Untrusted.
    ///
    /// # Errors
    /// See [`RestoreError`].
    fn restore(&mut self, state: serde_json::Value) -> Result<(), RestoreError>;
}

impl Allowance for RateLimiter {
    fn take(&mut self, bytes: u64) -> bool {
        RateLimiter::take(self, bytes)
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        RateLimiter::descriptor(self)
    }

    fn acknowledge(&mut self) {
        RateLimiter::acknowledge(self);
    }

    fn reset(&mut self) {
        RateLimiter::reset(self);
    }

    fn save(&self) -> serde_json::Value {
        serde_json::json!(RateLimiter::save(self))
    }

    fn restore(&mut self, state: serde_json::Value) -> Result<(), RestoreError> {
        let state: RateLimiterState = serde_json::from_value(state)?;
        RateLimiter::restore(self, state).map_err(|error| RestoreError::Unfit {
            what: format!("entropy: {error}"),
        })
    }
}
