//! What a disk has done, counted.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of one disk. They only grow.
#[derive(Debug, Default)]
pub struct BlockMetrics {
    /// Requests that read, and were done.
    pub reads: AtomicU64,
    /// Bytes that they read.
    pub read_bytes: AtomicU64,
    /// Requests that wrote, and were done.
    pub writes: AtomicU64,
    /// Bytes that they wrote.
    pub written_bytes: AtomicU64,
    /// Flushes that were done.
    pub flushes: AtomicU64,
    /// Discards that were done.
    pub discards: AtomicU64,
    /// Writes of zeros that were done.
    pub zeroes: AtomicU64,
    /// Requests that the guest got wrong: malformed, beyond the end, not on offer.
    pub refused: AtomicU64,
    /// Requests that the host failed to do.
    pub failed: AtomicU64,
    /// How often a request had to wait for the rate limiter.
    pub throttled: AtomicU64,
    /// How often the disk's file was replaced.
    pub replacements: AtomicU64,
}

/// Counts; nobody orders anything by it.
pub(super) fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}
