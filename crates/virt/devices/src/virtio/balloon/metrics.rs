//! What the balloon counts.

use std::sync::atomic::AtomicU64;

/// Counters of one balloon.
#[derive(Debug, Default)]
pub struct BalloonMetrics {
    /// Requests to inflate.
    pub inflations: AtomicU64,
    /// Requests to deflate.
    pub deflations: AtomicU64,
    /// Pages (of 4 KiB) that the guest gave by inflating.
    pub inflated_pages: AtomicU64,
    /// Pages (of 4 KiB) that the guest took back.
    pub deflated_pages: AtomicU64,
    /// Bytes that were discarded on the host, for inflation and reports together.
    pub discarded_bytes: AtomicU64,
    /// Free ranges that the guest reported.
    pub reported_ranges: AtomicU64,
    /// Page numbers that are not memory, or that were more than a request may have.
    pub refused_pages: AtomicU64,
    /// Ranges that the host's kernel would not discard.
    pub discard_failures: AtomicU64,
    /// Statistics that the guest sent.
    pub statistics: AtomicU64,
}
