//! What a vsock device counts. Only ever added to; read at any time from any thread.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters of a vsock device.
        #[derive(Debug, Default)]
        pub struct Metrics {
            $($(#[$doc])* pub $name: AtomicU64,)*
        }
    };
}

counters! {
    /// Packets to the guest.
    rx_packets,
    /// Bytes of data to the guest.
    rx_bytes,
    /// Packets from the guest.
    tx_packets,
    /// Bytes of data from the guest.
    tx_bytes,
    /// Connections that were opened, by either side.
    opened,
    /// Connections that are gone again.
    closed,
    /// Connections that were refused: too many, nobody listens, or of another kind than a stream.
    refused,
    /// Connections that were ended because an answer did not come in time.
    timed_out,
    /// Packets of the guest that were passed over: no whole header, or not between this guest and the host.
    malformed,
    /// Connections that were ended because the guest broke the protocol.
    violations,
    /// Clients of the host's socket that were sent away: no `CONNECT` line, not in time, or too many.
    clients_dropped,
    /// Times that packets waited because the guest gave no buffers.
    rx_starved,
}

/// Adds to a counter.
pub(super) fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}
