//! What a snapshot knows of a network card. A frame that waits for the guest's buffers is lost, as frames may be.

use serde::{Deserialize, Serialize};

use super::config::MacAddress;
use crate::rate_limiter::RateLimiterState;

/// A card as saved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct NetState {
    /// The address that the guest knows.
    pub(super) mac: Option<MacAddress>,
    /// The largest packet that the guest knows.
    pub(super) mtu: Option<u16>,
    /// The rate limiter of frames for the guest.
    pub(super) receive_limiter: RateLimiterState,
    /// The rate limiter of frames of the guest.
    pub(super) transmit_limiter: RateLimiterState,
}
