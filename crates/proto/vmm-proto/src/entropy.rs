//! `/entropy`: randomness for the guest.

use serde::{Deserialize, Serialize};

use crate::error::ValueError;
use crate::rate_limiter::{RateLimiter, WireLimiter};

/// The body of PUT.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(crate) struct WireEntropy {
    #[serde(default)]
    rate_limiter: Option<WireLimiter>,
}

/// The entropy device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Entropy {
    /// Its limits.
    pub rate_limiter: Option<RateLimiter>,
}

impl TryFrom<WireEntropy> for Entropy {
    type Error = ValueError;

    fn try_from(wire: WireEntropy) -> Result<Self, ValueError> {
        Ok(Self {
            rate_limiter: RateLimiter::from_wire(wire.rate_limiter)?,
        })
    }
}
