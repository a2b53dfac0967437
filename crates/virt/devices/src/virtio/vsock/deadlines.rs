//! What must have happened by when.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

/// How long things may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// A client's `CONNECT` line. Somebody may be typing it.
    pub greeting: Duration,
    /// The guest's answer to a connection of the host. Firecracker gives two seconds; a guest inside of an emulator needs more.
    pub request: Duration,
    /// The guest's reset after a complete shutdown, as long as Linux gives (`VSOCK_CLOSE_TIMEOUT`,
    /// net/vmw_vsock/virtio_transport_common.c).
    pub close: Duration,
    /// For the host to take what the guest sent before it went.
    pub linger: Duration,
    /// Until the listener is tried again when descriptors have run out.
    pub retry: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            greeting: Duration::from_secs(30),
            request: Duration::from_secs(10),
            close: Duration::from_secs(8),
            linger: Duration::from_secs(30),
            retry: Duration::from_millis(100),
        }
    }
}

/// At most one deadline for each number.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    order: BTreeSet<(Instant, u64)>,
    by_id: HashMap<u64, Instant>,
}

impl Deadlines {
    /// Sets, or moves, the deadline of `id`.
    pub(super) fn set(&mut self, id: u64, wait: Duration) {
        self.clear(id);
        // One so far away that the clock can't hold it never comes.
        if let Some(at) = Instant::now().checked_add(wait) {
            self.order.insert((at, id));
            self.by_id.insert(id, at);
        }
    }

    /// There is none any more.
    pub(super) fn clear(&mut self, id: u64) {
        if let Some(at) = self.by_id.remove(&id) {
            self.order.remove(&(at, id));
        }
    }

    /// The next one.
    pub(super) fn next(&self) -> Option<Instant> {
        self.order.first().map(|(at, _)| *at)
    }

    /// Takes one that has passed.
    pub(super) fn pop(&mut self, now: Instant) -> Option<u64> {
        let &(at, id) = self.order.first()?;
        if at > now {
            return None;
        }
        self.clear(id);
        Some(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_come_in_order_and_once() {
        let mut deadlines = Deadlines::default();
        deadlines.set(1, Duration::from_secs(100));
        deadlines.set(2, Duration::from_secs(200));
        deadlines.set(3, Duration::from_secs(300));
        deadlines.set(1, Duration::from_secs(250));
        deadlines.set(4, Duration::MAX);
        deadlines.clear(3);
        deadlines.clear(9);
        let now = Instant::now();
        assert_eq!(deadlines.pop(now), None);
        let later = now + Duration::from_secs(1000);
        assert_eq!(deadlines.pop(later), Some(2));
        assert_eq!(deadlines.pop(later), Some(1));
        assert_eq!(deadlines.pop(later), None);
        assert_eq!(deadlines.next(), None);
    }
}
