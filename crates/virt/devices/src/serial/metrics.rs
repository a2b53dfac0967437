//! What a serial port counts.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use vm_superio::serial::SerialEvents;

use crate::event::Event;

/// Counters of one serial port.
#[derive(Debug, Default)]
pub struct SerialMetrics {
    /// Bytes that the guest wrote and the console took.
    pub written: AtomicU64,
    /// Bytes that the guest wrote and that were lost.
    pub lost: AtomicU64,
    /// Bytes that the guest read.
    pub read: AtomicU64,
}

/// What the port tells while it is being used.
#[derive(Debug)]
pub(super) struct Observer {
    pub(super) metrics: Arc<SerialMetrics>,
    /// There is room for input again.
    pub(super) room: Arc<Event>,
    /// There is output that the console has not taken.
    pub(super) waiting: Arc<Event>,
    /// Somebody waits for that. Without it, each byte that the guest reads would wake the VMM's thread.
    is_awaited: AtomicBool,
}

impl Observer {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Observer {
            metrics: Arc::default(),
            room: Arc::new(Event::new()?),
            waiting: Arc::new(Event::new()?),
            is_awaited: AtomicBool::new(false),
        })
    }

    pub(super) fn wait_for_room(&self) {
        self.is_awaited.store(true, Ordering::SeqCst);
    }

    pub(super) fn tell_room(&self) {
        if self.is_awaited.swap(false, Ordering::SeqCst) {
            self.room.signal();
        }
    }
}

impl SerialEvents for Observer {
    fn buffer_read(&self) {
        self.metrics.read.fetch_add(1, Ordering::Relaxed);
    }

    fn out_byte(&self) {}

    fn tx_lost_byte(&self) {}

    fn in_buffer_empty(&self) {
        self.tell_room();
    }
}
