//! Measures what a sandbox added, as seldom as its limit allows.
//!
//! The next look comes before a fast disk could have filled what is left, but never sooner than ten times the last look took: a
//! sandbox with a million files must not turn its keeper into the load. What slips through is bounded by that.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use ringwall_layer::usage_bytes;
use rustix::fs::{Mode, OFlags};

/// What the fastest writer is taken to write, in bytes per second.
const FASTEST_WRITE: u64 = 2 << 30;
const SHORTEST: Duration = Duration::from_millis(5);
const LONGEST: Duration = Duration::from_millis(500);
/// Most entries looked at; a sandbox that makes more is over any limit.
const MAX_ENTRIES: u64 = 10_000_000;

/// Watches one layer.
#[derive(Debug)]
pub(crate) struct DiskWatch {
    limit: u64,
    upper: Option<OwnedFd>,
    /// When to look next.
    pub(crate) next: Instant,
}

impl DiskWatch {
    pub(crate) fn new(limit: u64, layer: &Path) -> Self {
        let upper = rustix::fs::open(
            layer.join("upper"),
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .ok();
        DiskWatch {
            limit,
            upper,
            next: Instant::now() + Duration::from_millis(20),
        }
    }

    /// Looks, and sets when to look next. A layer that can't be looked at counts as over: the limit would hold no more.
    pub(crate) fn is_over(&mut self) -> bool {
        let Some(upper) = &self.upper else { return true };
        let begun = Instant::now();
        let usage = usage_bytes(upper.as_fd(), MAX_ENTRIES);
        let Some(left) = self.limit.checked_sub(usage.bytes) else {
            return true;
        };
        if !usage.is_complete {
            return true;
        }
        let until_full = Duration::from_millis(left / (FASTEST_WRITE / 1000));
        let pause = until_full.min(LONGEST).max(begun.elapsed() * 10).max(SHORTEST);
        self.next = Instant::now() + pause;
        false
    }
}
