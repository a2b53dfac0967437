//! What a snapshot knows of a disk. Nothing is in flight when it is taken.

use serde::{Deserialize, Serialize};

use super::disk::CacheType;
use crate::rate_limiter::RateLimiterState;

/// A disk as saved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct BlockState {
    /// The capacity that the guest knows, in units of 512 bytes.
    pub(super) sectors: u64,
    /// Bytes of a block.
    pub(super) block_bytes: u32,
    /// Whether the guest knows the disk as read-only.
    pub(super) is_read_only: bool,
    /// Whether the guest was offered flushes.
    pub(super) cache: CacheType,
    /// The name that the guest knows; it stays, whatever file is behind the disk now.
    pub(super) id: [u8; 20],
    /// The rate limiter.
    pub(super) limiter: RateLimiterState,
}
