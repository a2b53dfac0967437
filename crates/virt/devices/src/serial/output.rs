//! Where the guest's bytes go, without a vCPU ever waiting for a reader.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::metrics::SerialMetrics;
use crate::event::Event;
use crate::guest_warn;

/// Most bytes kept for a console that does not take them: a screen's worth of a boot, not a reason to grow.
const MAX_PENDING_BYTES: usize = 64 * 1024;

/// A console, with what it has not taken yet. If it waits, so does the guest: give it a descriptor that does not.
pub struct Output {
    sink: Box<dyn Write + Send>,
    pending: VecDeque<u8>,
    metrics: Arc<SerialMetrics>,
    /// Signalled when there begins to be something that it has not taken.
    waiting: Arc<Event>,
    /// It is full, and that was said.
    is_losing: bool,
    /// It has failed for good (its reader is gone): nothing is kept for it.
    is_gone: bool,
}

impl fmt::Debug for Output {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Output")
            .field("pending", &self.pending.len())
            .field("is_gone", &self.is_gone)
            .finish_non_exhaustive()
    }
}

impl Output {
    pub(super) fn new(sink: Box<dyn Write + Send>, metrics: Arc<SerialMetrics>, waiting: Arc<Event>) -> Self {
        Output {
            sink,
            pending: VecDeque::new(),
            metrics,
            waiting,
            is_losing: false,
            is_gone: false,
        }
    }

    /// How many bytes the console has not taken.
    pub(super) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Gives the console what it has not taken, as far as it takes it.
    pub(super) fn drain(&mut self) {
        while !self.pending.is_empty() && !self.is_gone {
            let (front, _) = self.pending.as_slices();
            match self.sink.write(front) {
                Ok(taken) if taken > 0 => {
                    let taken = taken.min(front.len());
                    self.pending.drain(..taken);
                    self.count(&self.metrics.written, taken);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Ok(_) | Err(_) => self.give_up(),
            }
        }
        self.is_losing = false;
    }

    fn lose(&mut self, bytes: usize) {
        self.count(&self.metrics.lost, bytes);
        if !self.is_gone && !self.is_losing {
            self.is_losing = true;
            guest_warn!("nobody reads the console: what the guest writes is lost until somebody does");
        }
    }

    fn give_up(&mut self) {
        self.is_gone = true;
        self.count(&self.metrics.lost, self.pending.len());
        self.pending.clear();
    }

    fn count(&self, counter: &std::sync::atomic::AtomicU64, bytes: usize) {
        counter.fetch_add(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

impl Write for Output {
    /// Takes all bytes, always: a full or broken console is no error of the port's.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let has_waited = !self.pending.is_empty();
        let room = MAX_PENDING_BYTES.saturating_sub(self.pending.len());
        let kept = if self.is_gone { 0 } else { bytes.len().min(room) };
        self.pending.extend(bytes.iter().take(kept));
        if kept < bytes.len() {
            self.lose(bytes.len().saturating_sub(kept));
        }
        // What waits goes when there is room, not at each byte of the guest's.
        if !has_waited {
            self.drain();
            if !self.pending.is_empty() {
                self.waiting.signal();
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.sink.flush() {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => self.give_up(),
            _ => {}
        }
        Ok(())
    }
}
