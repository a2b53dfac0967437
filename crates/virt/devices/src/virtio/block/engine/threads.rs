//! Operations by a few threads, for hosts without io_uring. The threads live from the first job to the reset:
//! jobs come from the VMM's thread, whose seccomp filter the threads inherit, while an activation may come from a vCPU's.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use rustix::event::EventfdFlags;

use super::{Completion, Job};

/// Threads of one disk: one may wait for a flush while the other goes on.
const THREADS: usize = 2;
/// A thread's stack. The operations need a few hundred bytes, and the debug build some more.
const STACK_BYTES: usize = 128 * 1024;

/// The threads and what they share.
#[derive(Debug)]
pub(in crate::virtio::block) struct Threads {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    work: Mutex<Work>,
    changed: Condvar,
    done: Mutex<Vec<Completion>>,
    event: OwnedFd,
}

#[derive(Debug, Default)]
struct Work {
    jobs: VecDeque<Job>,
    is_ending: bool,
}

impl Threads {
    /// Makes the event descriptor. Threads come with the first job.
    pub(super) fn new() -> io::Result<Self> {
        let event = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Threads {
            shared: Arc::new(Shared {
                work: Mutex::default(),
                changed: Condvar::new(),
                done: Mutex::default(),
                event,
            }),
            threads: Vec::new(),
        })
    }

    /// Starts the threads. If not all can be had, none is left.
    fn begin(&mut self) -> io::Result<()> {
        if !self.threads.is_empty() {
            return Ok(());
        }
        lock(&self.shared.work).is_ending = false;
        for number in 0..THREADS {
            let shared = Arc::clone(&self.shared);
            let started = std::thread::Builder::new()
                .name(format!("block-{number}"))
                .stack_size(STACK_BYTES)
                .spawn(move || shared.work());
            match started {
                Ok(thread) => self.threads.push(thread),
                Err(error) => {
                    self.end();
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.shared.event.as_fd()
    }

    /// Takes a job. If the system has no threads for it, it is done at once and given back: slow is better than an error of the disk.
    pub(super) fn submit(&mut self, job: Job) -> Option<Completion> {
        if self.begin().is_err() {
            return Some(job.run());
        }
        lock(&self.shared.work).jobs.push_back(job);
        self.shared.changed.notify_one();
        None
    }

    pub(super) fn take_completed(&self, into: &mut Vec<Completion>) {
        // First the event, then the list: what comes between them is announced again.
        let mut count = [0_u8; 8];
        let _nothing = rustix::io::read(&self.shared.event, &mut count);
        into.append(&mut lock(&self.shared.done));
    }

    /// Drops what was not begun, waits for the rest, and ends the threads.
    pub(super) fn end(&mut self) {
        {
            let mut work = lock(&self.shared.work);
            work.jobs.clear();
            work.is_ending = true;
        }
        self.shared.changed.notify_all();
        for thread in self.threads.drain(..) {
            // A thread that panicked is gone all the same.
            let _panic = thread.join();
        }
        self.take_completed(&mut Vec::new());
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn work(&self) {
        while let Some(job) = self.next() {
            let completion = job.run();
            lock(&self.done).push(completion);
            // Full only if nobody has read it for 2^64 completions.
            let _full = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
        }
    }

    fn next(&self) -> Option<Job> {
        let mut work = lock(&self.work);
        loop {
            if work.is_ending {
                return None;
            }
            if let Some(job) = work.jobs.pop_front() {
                return Some(job);
            }
            work = self.changed.wait(work).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Nothing panics with one of these locks held, so what they guard is whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
