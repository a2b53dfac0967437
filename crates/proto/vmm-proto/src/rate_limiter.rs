//! Rate limits of drives, interfaces and the entropy device: two token buckets, one counting bytes and one operations.

use serde::{Deserialize, Serialize};

use crate::error::ValueError;

/// Longest time to fill a bucket in milliseconds: limiters count nanoseconds in 64 bits.
pub const MAX_REFILL_MS: u64 = u64::MAX / 1_000_000;

/// One bucket, as on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(crate) struct WireBucket {
    size: u64,
    #[serde(default)]
    one_time_burst: Option<u64>,
    refill_time: u64,
}

/// Both buckets, as on the wire.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(crate) struct WireLimiter {
    #[serde(default)]
    bandwidth: Option<WireBucket>,
    #[serde(default)]
    ops: Option<WireBucket>,
}

/// One bucket. It limits nothing if its size or its refill time is zero: that is how clients switch a limit off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct TokenBucket {
    /// Most tokens that it holds.
    pub size: u64,
    /// Tokens that may be used once, before the others.
    pub one_time_burst: Option<u64>,
    /// Time in milliseconds in which an empty bucket fills.
    #[serde(rename = "refill_time")]
    pub refill_time_ms: u64,
}

impl TokenBucket {
    /// Whether it limits anything.
    pub const fn is_limit(&self) -> bool {
        self.size != 0 && self.refill_time_ms != 0
    }
}

impl TryFrom<WireBucket> for TokenBucket {
    type Error = ValueError;

    fn try_from(wire: WireBucket) -> Result<Self, ValueError> {
        let WireBucket {
            size,
            one_time_burst,
            refill_time,
        } = wire;
        if refill_time > MAX_REFILL_MS {
            return Err(ValueError::RefillTime { got: refill_time });
        }
        Ok(Self {
            size,
            one_time_burst,
            refill_time_ms: refill_time,
        })
    }
}

/// Limits of one device in one direction. What is `None` isn't limited; in an update, it stays as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct RateLimiter {
    /// Counts bytes.
    pub bandwidth: Option<TokenBucket>,
    /// Counts operations.
    pub ops: Option<TokenBucket>,
}

/// What an update does to one bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BucketUpdate {
    /// It stays as it is.
    Keep,
    /// It limits no longer.
    Disable,
    /// It is replaced, and full.
    Set(TokenBucket),
}

impl BucketUpdate {
    fn of(bucket: Option<TokenBucket>) -> Self {
        match bucket {
            None => Self::Keep,
            Some(bucket) if bucket.is_limit() => Self::Set(bucket),
            Some(_) => Self::Disable,
        }
    }
}

impl RateLimiter {
    /// What this does to the bytes' bucket as an update.
    pub fn bandwidth_update(&self) -> BucketUpdate {
        BucketUpdate::of(self.bandwidth)
    }

    /// What this does to the operations' bucket as an update.
    pub fn ops_update(&self) -> BucketUpdate {
        BucketUpdate::of(self.ops)
    }

    /// These limits after an update.
    #[must_use]
    pub fn updated(&self, update: &Self) -> Self {
        let merge = |old, new| match BucketUpdate::of(new) {
            BucketUpdate::Keep => old,
            BucketUpdate::Disable => None,
            BucketUpdate::Set(bucket) => Some(bucket),
        };
        Self {
            bandwidth: merge(self.bandwidth, update.bandwidth),
            ops: merge(self.ops, update.ops),
        }
    }

    /// Limits as on the wire to checked ones.
    pub(crate) fn from_wire(wire: Option<WireLimiter>) -> Result<Option<Self>, ValueError> {
        wire.map(|WireLimiter { bandwidth, ops }| {
            Ok(Self {
                bandwidth: bandwidth.map(TokenBucket::try_from).transpose()?,
                ops: ops.map(TokenBucket::try_from).transpose()?,
            })
        })
        .transpose()
    }
}

/// A device's limits after an update that may say nothing of them.
pub(crate) fn merged(old: Option<RateLimiter>, update: Option<RateLimiter>) -> Option<RateLimiter> {
    match update {
        None => old,
        Some(update) => Some(old.unwrap_or_default().updated(&update)).filter(|new| *new != RateLimiter::default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_keeps_replaces_or_disables_each_bucket() {
        let bucket = |size| TokenBucket {
            size,
            one_time_burst: None,
            refill_time_ms: 100,
        };
        let old = RateLimiter {
            bandwidth: Some(bucket(1)),
            ops: Some(bucket(2)),
        };
        let update = RateLimiter {
            bandwidth: Some(bucket(0)),
            ops: None,
        };
        assert_eq!(
            old.updated(&update),
            RateLimiter {
                bandwidth: None,
                ops: Some(bucket(2))
            }
        );
        assert_eq!(merged(Some(old), None), Some(old));
        assert_eq!(merged(None, Some(update)), None);
        assert_eq!(update.bandwidth_update(), BucketUpdate::Disable);
        assert_eq!(update.ops_update(), BucketUpdate::Keep);
        assert_eq!(old.ops_update(), BucketUpdate::Set(bucket(2)));
    }
}
