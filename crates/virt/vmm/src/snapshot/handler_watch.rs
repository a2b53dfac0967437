//! The dead-man's switch of memory that a page fault handler fills: if the handler goes, the process ends.
//!
//! ```text
//! handler's end closed ------------+
//! load not done at its deadline ---+--> last words (bounded) --> _exit(EXIT_HANDLER_LOST)
//! a page fault too old ------------+                                          (see `fault_clock.rs`)
//! the machine is gone --> the thread ends
//! ```
//!
//! A thread that waits for a page of a handler that is gone waits for ever: a vCPU inside `KVM_RUN`, a disk's worker inside `pread`, the
//! VMM's own thread inside a device. None of them can be asked to stop, so nothing here is tidied up. The guest must not go on either: its
//! pages are lost. The watching thread touches no guest memory, takes no lock and writes nowhere: a log that nobody reads would stop it.
//! So the last words are spoken by a second thread, which it does not wait for longer than `LAST_WORDS`.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use ringwall_sys::process::exit_now;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};
use thiserror::Error;

/// The process's exit code when the page fault handler is lost; beside the codes of `ringwall-vmm` (0, 2, 3, 4, 125).
pub const EXIT_HANDLER_LOST: i32 = 5;

/// How long a load may take. Far above what a handler needs that fetches each page from another machine; a load touches some tens of pages.
pub const LOAD_DEADLINE: Duration = Duration::from_secs(30);

/// Longest wait for the last words to be written; the VM is stuck already, and those who wait for its end are told within a second.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// Why a page fault handler is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum HandlerLost {
    /// It has died, or has closed its connection.
    #[error("the page fault handler is gone: the guest's memory is lost, so the VM ends")]
    Gone,
    /// The snapshot isn't loaded at the deadline.
    #[error("the page fault handler has not let the snapshot be loaded within {} s: the VM ends", LOAD_DEADLINE.as_secs())]
    Stalled,
    /// It is there, and does not answer a page fault.
    #[error(
        "the page fault handler has not answered a page fault for {seconds} s: the guest can't go on, so the VM ends"
    )]
    Unanswered {
        /// How long it may take.
        seconds: u64,
    },
}

/// Looks at the page faults at times.
pub(super) struct Looks {
    /// How long a page fault may take.
    pub(super) patience: Duration,
    /// The time between two looks.
    pub(super) period: Duration,
    /// Whether a page fault is older than that.
    pub(super) is_late: Box<dyn FnMut() -> bool + Send>,
}

/// Says why the process ends.
pub type LastWords = Box<dyn FnOnce(HandlerLost) + Send>;

/// Ends the process when the handler is lost, for as long as this lives.
#[derive(Debug)]
pub struct HandlerWatch {
    is_loaded: Arc<AtomicBool>,
    is_released: Arc<AtomicBool>,
    /// Closed by drop, which ends the thread.
    _alive: OwnedFd,
}

impl HandlerWatch {
    /// Begins to watch. The load's time begins too.
    ///
    /// # Errors
    /// No pipe or no threads.
    pub(super) fn start(connection: UnixStream, looks: Option<Looks>, last_words: LastWords) -> io::Result<Self> {
        let speaker = speaker(last_words)?;
        Self::start_with(connection, LOAD_DEADLINE, looks, move |lost| {
            speak(&speaker, lost);
            exit_now(EXIT_HANDLER_LOST);
        })
    }

    fn start_with(
        connection: UnixStream,
        deadline: Duration,
        looks: Option<Looks>,
        end: impl FnOnce(HandlerLost) + Send + 'static,
    ) -> io::Result<Self> {
        let (ended, alive) = pipe_with(PipeFlags::CLOEXEC)?;
        let is_loaded = Arc::new(AtomicBool::new(false));
        let is_released = Arc::new(AtomicBool::new(false));
        let (watched, released) = (is_loaded.clone(), is_released.clone());
        thread::Builder::new().name("fault-watch".to_owned()).spawn(move || {
            if let Some(lost) = watch(&connection, &ended, Instant::now() + deadline, looks, &watched)
                && !released.load(Ordering::Acquire)
            {
                end(lost);
            }
        })?;
        Ok(HandlerWatch {
            is_loaded,
            is_released,
            _alive: alive,
        })
    }

    /// Says that the snapshot is loaded: from now on the handler may take its time.
    pub fn loaded(&self) {
        self.is_loaded.store(true, Ordering::Release);
    }

    /// Says that the VM ends by itself, and no longer by the handler's going.
    pub fn release(&self) {
        self.is_released.store(true, Ordering::Release);
    }
}

/// Waits until the handler is lost; `None` when there is nothing to watch any more.
fn watch(
    connection: &UnixStream,
    ended: &OwnedFd,
    deadline: Instant,
    mut looks: Option<Looks>,
    is_loaded: &AtomicBool,
) -> Option<HandlerLost> {
    let mut load = Some(deadline);
    let mut next_look = looks.as_ref().map(|looks| Instant::now() + looks.period);
    loop {
        let now = Instant::now();
        if load.is_some_and(|deadline| deadline <= now) {
            if !is_loaded.load(Ordering::Acquire) {
                return Some(HandlerLost::Stalled);
            }
            load = None;
        }
        if let Some(looks) = looks.as_mut().filter(|_| next_look.is_some_and(|at| at <= now)) {
            if (looks.is_late)() {
                let seconds = looks.patience.as_secs();
                return Some(HandlerLost::Unanswered { seconds });
            }
            next_look = Some(now + looks.period);
        }
        let next = [load, next_look].into_iter().flatten().min();
        let left = next.map(|at| at.saturating_duration_since(now));
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        // Not for input: the protocol has none, and what a handler sends all the same must not keep this thread busy.
        let mut descriptors = [
            PollFd::from_borrowed_fd(connection.as_fd(), PollFlags::RDHUP),
            PollFd::from_borrowed_fd(ended.as_fd(), PollFlags::empty()),
        ];
        match poll(&mut descriptors, timeout.as_ref()) {
            // Only a defect of ours makes poll(2) fail otherwise; a VM without its switch must not go on.
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return Some(HandlerLost::Gone),
            Ok(_) => {
                let [connection, ended] = descriptors.map(|descriptor| descriptor.revents());
                if !ended.is_empty() {
                    return None;
                }
                if !connection.is_empty() {
                    return Some(HandlerLost::Gone);
                }
            }
        }
    }
}

/// What to say, and where to say that it is said.
type Speech = (HandlerLost, Sender<()>);

/// A thread that waits for its words, made beforehand: there may be no new threads at the end.
fn speaker(last_words: LastWords) -> io::Result<Sender<Speech>> {
    let (speech, speeches) = channel::<Speech>();
    thread::Builder::new().name("fault-words".to_owned()).spawn(move || {
        // An error: the watch has ended, and there is nothing to say.
        if let Ok((lost, spoken)) = speeches.recv() {
            last_words(lost);
            let _gone = spoken.send(());
        }
    })?;
    Ok(speech)
}

fn speak(speaker: &Sender<Speech>, lost: HandlerLost) {
    let (spoken, done) = channel();
    if speaker.send((lost, spoken)).is_ok() {
        let _too_late = done.recv_timeout(LAST_WORDS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::net::Shutdown;
    use std::sync::mpsc::RecvTimeoutError;

    const SOON: Duration = Duration::from_secs(20);
    const NOT_YET: Duration = Duration::from_millis(60);

    fn watched(deadline: Duration) -> (HandlerWatch, UnixStream, std::sync::mpsc::Receiver<HandlerLost>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (told, lost) = channel();
        let watch = HandlerWatch::start_with(ours, deadline, None, move |lost| told.send(lost).unwrap()).unwrap();
        (watch, theirs, lost)
    }

    #[test]
    fn a_fault_that_is_late_at_the_third_look_ends_it_also_after_the_load() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let (told, lost) = channel();
        let mut looked = 0;
        let looks = Looks {
            patience: Duration::from_secs(7),
            period: NOT_YET,
            is_late: Box::new(move || {
                looked += 1;
                looked == 3
            }),
        };
        let begun = Instant::now();
        let end = move |lost| told.send(lost).unwrap();
        let watch = HandlerWatch::start_with(ours, NOT_YET, Some(looks), end).unwrap();
        watch.loaded();
        assert_eq!(lost.recv_timeout(SOON), Ok(HandlerLost::Unanswered { seconds: 7 }));
        assert!(begun.elapsed() >= NOT_YET * 3);
    }

    #[test]
    fn a_closed_connection_is_seen_and_input_is_not() {
        let (_watch, mut handler, lost) = watched(SOON);
        handler.write_all(b"hello").unwrap();
        assert_eq!(lost.recv_timeout(NOT_YET), Err(RecvTimeoutError::Timeout));
        drop(handler);
        assert_eq!(lost.recv_timeout(SOON), Ok(HandlerLost::Gone));
    }

    #[test]
    fn a_handler_that_goes_when_the_vm_ends_by_itself_is_not_lost() {
        let (watch, handler, lost) = watched(SOON);
        watch.release();
        drop(handler);
        // The thread ends and drops its end of the channel without a word.
        assert_eq!(lost.recv_timeout(SOON), Err(RecvTimeoutError::Disconnected));
    }

    #[test]
    fn a_half_closed_connection_is_closed() {
        let (_watch, handler, lost) = watched(SOON);
        handler.shutdown(Shutdown::Write).unwrap();
        assert_eq!(lost.recv_timeout(SOON), Ok(HandlerLost::Gone));
    }

    #[test]
    fn a_load_has_a_deadline_and_what_comes_after_has_none() {
        let (_watch, _handler, lost) = watched(NOT_YET);
        assert_eq!(lost.recv_timeout(SOON), Ok(HandlerLost::Stalled));
        let (watch, handler, lost) = watched(NOT_YET);
        watch.loaded();
        assert_eq!(lost.recv_timeout(NOT_YET * 3), Err(RecvTimeoutError::Timeout));
        drop(handler);
        assert_eq!(lost.recv_timeout(SOON), Ok(HandlerLost::Gone));
    }

    #[test]
    fn a_machine_that_is_gone_is_not_watched() {
        let (watch, handler, lost) = watched(SOON);
        drop(watch);
        assert_eq!(lost.recv_timeout(SOON), Err(RecvTimeoutError::Disconnected));
        drop(handler);
    }

    #[test]
    fn words_that_nobody_reads_hold_nothing_up() {
        let (release, held) = channel::<()>();
        let speaker = speaker(Box::new(move |_| assert!(held.recv().is_err()))).unwrap();
        let begun = Instant::now();
        speak(&speaker, HandlerLost::Gone);
        assert!(begun.elapsed() >= LAST_WORDS);
        drop(release);
    }
}
