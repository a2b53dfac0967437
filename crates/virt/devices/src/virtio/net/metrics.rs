//! What a network card has done, counted.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of one card. They only grow. Bytes are those of frames, without headers of the device.
#[derive(Debug, Default)]
pub struct NetMetrics {
    /// Frames that the guest sent and the back end took.
    pub sent: AtomicU64,
    /// Their bytes.
    pub sent_bytes: AtomicU64,
    /// Frames of the guest that were malformed, and dropped.
    pub sent_malformed: AtomicU64,
    /// Frames of the guest that the back end did not take, and that were dropped.
    pub sent_failed: AtomicU64,
    /// How often the guest's next frame had to wait for the rate limiter.
    pub sent_throttled: AtomicU64,
    /// Frames that the guest got.
    pub received: AtomicU64,
    /// Their bytes.
    pub received_bytes: AtomicU64,
    /// Frames of the back end that were malformed, or too large for the guest's buffers, and dropped.
    pub received_dropped: AtomicU64,
    /// How often a frame had to wait because the guest had no buffers.
    pub received_no_room: AtomicU64,
    /// How often a frame had to wait for the rate limiter.
    pub received_throttled: AtomicU64,
    /// How often the back end failed to give frames.
    pub receive_failed: AtomicU64,
}

/// Counts; nobody orders anything by it.
pub(super) fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}
