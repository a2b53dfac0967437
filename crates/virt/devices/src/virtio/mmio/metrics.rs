//! What a transport counts.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of one transport.
#[derive(Debug, Default)]
pub struct TransportMetrics {
    /// Times the device was activated.
    pub activations: AtomicU64,
    /// Times the driver reset the device.
    pub resets: AtomicU64,
    /// Faults of the driver that ended in `DEVICE_NEEDS_RESET`.
    pub guest_faults: AtomicU64,
    /// Failures of the host that a device told of.
    pub host_failures: AtomicU64,
    /// Register accesses that were not legal and were ignored.
    pub ignored_accesses: AtomicU64,
    /// Notifications of queues.
    pub notifications: AtomicU64,
}

impl TransportMetrics {
    pub(super) fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}
