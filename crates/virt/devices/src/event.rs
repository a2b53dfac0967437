//! An event descriptor that a device waits on itself, with a borrowed descriptor as its [`Source`](crate::virtio::Source).
//!
//! Those that KVM signals or listens to are `vmm_sys_util`'s `EventFd`, as `kvm-ioctls` takes them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{EventfdFlags, Timespec, eventfd};

/// An `eventfd(2)`: never waits, closed on exec.
#[derive(Debug)]
pub struct Event(OwnedFd);

impl Event {
    /// Makes one that is not signalled.
    ///
    /// # Errors
    /// What `eventfd2(2)` says.
    pub fn new() -> io::Result<Self> {
        Ok(Event(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?))
    }

    /// Makes it readable.
    pub fn signal(&self) {
        // It fails only if the counter is full, and then it is readable.
        let _full = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }

    /// Makes it unreadable and returns whether it was readable.
    pub fn take(&self) -> bool {
        rustix::io::read(&self.0, &mut [0_u8; 8]).is_ok()
    }
}

impl AsFd for Event {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A time as the kernel has it; the longest that it can say where that is too short.
#[must_use]
pub fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_taken_once() {
        let event = Event::new().unwrap();
        assert!(!event.take());
        event.signal();
        event.signal();
        assert!(event.take());
        assert!(!event.take());
    }
}
