//! What happened to the VM, for clients of `GET /events`: a line of JSON for each event, from the first on, so that nobody who comes late misses
//! one.
//!
//! ```text
//! VMM's thread ---post--> EventLog --(eventfd)--> server's thread: each follower's connection
//!        '------finish--> over: the last lines, then the end of each answer --> delivered, or not in time
//! ```
//!
//! An extension of ours: Firecracker has no such path. The list is bounded, because only being ready can happen twice, and only the first
//! [`MOST_READY`] times are told. So what is kept for a follower is too.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use serde_json::{Value, json};

/// How often a guest is heard saying that it is ready.
const MOST_READY: usize = 32;

/// Something that happened to the VM. All but [`Event::Ready`] are its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The guest says that it is up.
    Ready,
    /// The guest switched itself off.
    Shutdown {
        /// What it gave with that, by the system-control device; else 0.
        argument: u32,
    },
    /// The guest wants to be started again.
    Reboot,
    /// The guest's kernel panicked and said so.
    Panic {
        /// What it gave with that.
        argument: u32,
    },
    /// The guest has reset its machine.
    Reset,
    /// The VMM, or a vCPU, can't go on.
    Failed {
        /// Why.
        reason: String,
    },
    /// The page fault handler of a restored VM is gone, or does not answer.
    PageFaultHandlerLost {
        /// Which of them.
        reason: String,
    },
}

impl Event {
    fn line(&self, at: Duration) -> String {
        let at_us = u64::try_from(at.as_micros()).unwrap_or(u64::MAX);
        let (name, more): (_, Option<(&str, Value)>) = match self {
            Event::Ready => ("ready", None),
            Event::Shutdown { argument } => ("shutdown", Some(("argument", json!(argument)))),
            Event::Reboot => ("reboot", None),
            Event::Panic { argument } => ("panic", Some(("argument", json!(argument)))),
            Event::Reset => ("reset", None),
            Event::Failed { reason } => ("failed", Some(("reason", json!(reason)))),
            Event::PageFaultHandlerLost { reason } => ("page-fault-handler-lost", Some(("reason", json!(reason)))),
        };
        let mut line = json!({"event": name, "at_us": at_us});
        if let (Some((key, value)), Some(fields)) = (more, line.as_object_mut()) {
            fields.insert(key.to_owned(), value);
        }
        format!("{line}\n")
    }
}

#[derive(Debug, Default)]
struct State {
    lines: Vec<String>,
    ready: usize,
    has_ended: bool,
    is_over: bool,
    is_delivered: bool,
}

#[derive(Debug)]
struct Shared {
    begun: Instant,
    state: Mutex<State>,
    delivered: Condvar,
    /// Readable when there is something new.
    changed: OwnedFd,
}

/// What happened so far; a cheap clone, for any thread. Nobody waits for its lock longer than a copy of some lines takes.
#[derive(Debug, Clone)]
pub struct EventLog(Arc<Shared>);

impl EventLog {
    /// Nothing happened yet; times count from now.
    ///
    /// # Errors
    /// What eventfd2(2) says.
    pub fn new() -> io::Result<Self> {
        Ok(EventLog(Arc::new(Shared {
            begun: Instant::now(),
            state: Mutex::default(),
            delivered: Condvar::new(),
            changed: eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?,
        })))
    }

    /// Says what happened; whether that is told. Nothing is after the end, of which there is one.
    pub fn post(&self, event: &Event) -> bool {
        let mut state = self.state();
        let is_ready = *event == Event::Ready;
        if state.has_ended || state.is_over || is_ready && state.ready >= MOST_READY {
            return false;
        }
        state.ready = state.ready.saturating_add(usize::from(is_ready));
        state.has_ended = !is_ready;
        state.lines.push(event.line(self.0.begun.elapsed()));
        drop(state);
        self.signal();
        true
    }

    /// Says that nothing will happen any more, and waits until every follower has been sent that, or for as long as it may take; which of them.
    pub fn finish(&self, within: Duration) -> bool {
        let mut state = self.state();
        state.is_over = true;
        self.signal();
        let waited = self
            .0
            .delivered
            .wait_timeout_while(state, within, |state| !state.is_delivered);
        waited.unwrap_or_else(PoisonError::into_inner).0.is_delivered
    }

    /// Whether nothing will happen any more.
    pub(crate) fn is_over(&self) -> bool {
        self.state().is_over
    }

    /// The lines from number `first` on, and whether they are the last.
    pub(crate) fn lines(&self, first: usize) -> (Vec<String>, bool) {
        let state = self.state();
        let lines = state.lines.get(first..).unwrap_or_default().to_vec();
        (lines, state.is_over)
    }

    /// Makes it unreadable until something new happens.
    pub(crate) fn take(&self) {
        let _empty = rustix::io::read(&self.0.changed, &mut [0_u8; 8]);
    }

    /// Says that all followers have all lines.
    pub(crate) fn tell_delivered(&self) {
        self.state().is_delivered = true;
        self.0.delivered.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn signal(&self) {
        // It fails only if the counter is full, and then it is readable.
        let _full = rustix::io::write(&self.0.changed, &1_u64.to_ne_bytes());
    }
}

impl AsFd for EventLog {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.changed.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_is_ready_for_ever_fills_nothing_and_hides_nothing() {
        let log = EventLog::new().unwrap();
        for _ in 0..10_000 {
            log.post(&Event::Ready);
        }
        assert!(log.post(&Event::Panic { argument: 7 }));
        assert!(!log.post(&Event::Reset), "a second end");
        assert!(!log.finish(Duration::ZERO));
        log.post(&Event::Reboot);
        let (lines, is_over) = log.lines(0);
        assert!(is_over);
        assert_eq!(lines.len(), MOST_READY + 1);
        let last: Value = serde_json::from_str(&lines[MOST_READY]).unwrap();
        assert_eq!((&last["event"], &last["argument"]), (&json!("panic"), &json!(7)));
        assert_eq!(log.lines(MOST_READY + 2).0.len(), 0);
    }

    #[test]
    fn the_end_is_waited_for_until_it_is_delivered() {
        let log = EventLog::new().unwrap();
        let server = log.clone();
        let waiting = std::thread::spawn(move || log.finish(Duration::from_secs(60)));
        while !server.is_over() {
            std::thread::yield_now();
        }
        server.tell_delivered();
        assert!(waiting.join().unwrap());
    }
}
