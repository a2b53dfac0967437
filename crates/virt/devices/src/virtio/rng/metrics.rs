//! What the entropy device counts.

use std::sync::atomic::AtomicU64;

/// Counters of one entropy device.
#[derive(Debug, Default)]
pub struct RngMetrics {
    /// Requests that were answered.
    pub requests: AtomicU64,
    /// Bytes of entropy that were given.
    pub bytes: AtomicU64,
    /// Requests that asked for more than one request gets.
    pub capped: AtomicU64,
    /// Times that a request had to wait for the allowance.
    pub throttled: AtomicU64,
    /// Times that the host's source failed.
    pub host_failures: AtomicU64,
}
