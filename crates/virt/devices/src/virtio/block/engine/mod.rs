//! How a disk's operations are run: at once, by threads, or by io_uring.
//!
//! ```text
//! submit(job) -> done at once, or later: descriptor readable -> take_completed
//! ```

mod threads;
mod uring;

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags};
use serde::{Deserialize, Serialize};

use super::operation::Operation;
use crate::event::timespec;
use threads::Threads;
use uring::Uring;

/// Most operations in flight at once.
pub(super) const DEPTH: u16 = 128;

/// Which engine a disk has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Engine {
    /// io_uring.
    Uring,
    /// Threads of this process.
    Threads,
    /// None: the VMM's thread waits for the disk.
    Sync,
}

/// Which engine is wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum EngineChoice {
    /// io_uring where the system allows it, else threads.
    #[default]
    Auto,
    /// This one, or none.
    Only(Engine),
}

/// An operation on its way.
#[derive(Debug)]
pub(super) struct Job {
    /// Handed back when it is done; below [`DEPTH`], and not used twice at the same time.
    pub(super) tag: u16,
    /// The disk's file at that time.
    pub(super) file: Arc<File>,
    /// What to do.
    pub(super) operation: Operation,
}

impl Job {
    /// Does it, and returns when it is done.
    fn run(self) -> Completion {
        let Job {
            tag,
            file,
            mut operation,
        } = self;
        let result = operation.run(&file);
        Completion { tag, operation, result }
    }
}

/// An operation that has ended.
#[derive(Debug)]
pub(super) struct Completion {
    /// From the job.
    pub(super) tag: u16,
    /// From the job.
    pub(super) operation: Operation,
    /// How it ended.
    pub(super) result: io::Result<()>,
}

/// An engine.
#[derive(Debug)]
pub(super) enum Executor {
    /// See [`Engine::Sync`].
    Sync,
    /// See [`Engine::Threads`].
    Threads(Threads),
    /// See [`Engine::Uring`].
    Uring(Box<Uring>),
}

impl Executor {
    /// Makes an engine.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn new(choice: EngineChoice) -> io::Result<Self> {
        let uring = || Uring::new(DEPTH).map(|uring| Executor::Uring(Box::new(uring)));
        match choice {
            EngineChoice::Only(Engine::Sync) => Ok(Executor::Sync),
            EngineChoice::Only(Engine::Threads) => Ok(Executor::Threads(Threads::new()?)),
            EngineChoice::Only(Engine::Uring) => uring(),
            // No io_uring (ENOSYS), forbidden (EPERM, by sysctl or seccomp), or without an operation: the reported value says so.
            EngineChoice::Auto => uring().or_else(|_unavailable| Ok(Executor::Threads(Threads::new()?))),
        }
    }

    /// Which one it is.
    pub(super) fn engine(&self) -> Engine {
        match self {
            Executor::Sync => Engine::Sync,
            Executor::Threads(_) => Engine::Threads,
            Executor::Uring(_) => Engine::Uring,
        }
    }

    /// Readable when operations have ended.
    pub(super) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Executor::Sync => None,
            Executor::Threads(threads) => Some(threads.descriptor()),
            Executor::Uring(uring) => Some(uring.descriptor()),
        }
    }

    /// Takes a job. Gives it back if it was done at once. At most [`DEPTH`] may be on their way.
    pub(super) fn submit(&mut self, job: Job) -> Option<Completion> {
        match self {
            Executor::Sync => Some(job.run()),
            Executor::Threads(threads) => threads.submit(job),
            Executor::Uring(uring) => uring.submit(job),
        }
    }

    /// Starts what was submitted.
    ///
    /// # Errors
    /// What the system says; nothing is lost, it can be called again.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        match self {
            Executor::Sync | Executor::Threads(_) => Ok(()),
            Executor::Uring(uring) => uring.flush(),
        }
    }

    /// Adds what has ended.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn take_completed(&mut self, into: &mut Vec<Completion>) -> io::Result<()> {
        match self {
            Executor::Sync => Ok(()),
            Executor::Threads(threads) => {
                threads.take_completed(into);
                Ok(())
            }
            Executor::Uring(uring) => uring.take_completed(into),
        }
    }

    /// Waits until something has ended, or until then.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`], or what the system says.
    pub(super) fn wait(&mut self, until: Instant) -> io::Result<()> {
        self.flush()?;
        let Some(descriptor) = self.descriptor() else {
            return Ok(());
        };
        let left = until.saturating_duration_since(Instant::now());
        let mut waited = [PollFd::new(&descriptor, PollFlags::IN)];
        match rustix::event::poll(&mut waited, Some(&timespec(left))) {
            Ok(0) => Err(io::ErrorKind::TimedOut.into()),
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Ends: what was not begun never will be, what was is finished. When it returns, nothing touches a buffer any more.
    pub(super) fn end(&mut self) {
        match self {
            Executor::Sync => {}
            Executor::Threads(threads) => threads.end(),
            Executor::Uring(uring) => uring.end(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn waiting_has_an_end() {
        for engine in [Engine::Threads, Engine::Uring] {
            let mut executor = match Executor::new(EngineChoice::Only(engine)) {
                Ok(executor) => executor,
                Err(error) => {
                    println!("SKIPPED: {engine:?}: {error}");
                    continue;
                }
            };
            let until = Instant::now() + Duration::from_millis(5);
            let error = executor.wait(until).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            assert!(Instant::now() >= until);
        }
    }
}
