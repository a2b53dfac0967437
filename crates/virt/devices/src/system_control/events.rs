//! What a guest has said about itself as a machine, from any device that can say it (this one, or x86's keyboard controller).

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, PoisonError};

use crate::event::Event;

/// Something that the guest said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SystemEvent {
    /// It is up.
    Ready,
    /// It wants to be switched off.
    Shutdown {
        /// What it gives as its exit code.
        code: u32,
    },
    /// It wants to be started again.
    Reboot,
    /// Its kernel can't go on.
    Panic {
        /// What it gives as its reason.
        reason: u32,
    },
}

/// Kinds of [`SystemEvent`].
const KINDS: usize = 4;

impl SystemEvent {
    /// The place of its kind; also the order in which they are taken.
    fn kind(self) -> usize {
        match self {
            SystemEvent::Ready => 0,
            SystemEvent::Panic { .. } => 1,
            SystemEvent::Shutdown { .. } => 2,
            SystemEvent::Reboot => 3,
        }
    }
}

/// Events that the VMM has not taken yet: the first of each kind. Readable (as a descriptor) while there may be one.
#[derive(Debug)]
pub struct SystemEvents {
    pending: Mutex<[Option<SystemEvent>; KINDS]>,
    event: Event,
}

impl SystemEvents {
    /// None yet.
    ///
    /// # Errors
    /// What `eventfd2(2)` says.
    pub fn new() -> io::Result<Self> {
        Ok(SystemEvents {
            pending: Mutex::default(),
            event: Event::new()?,
        })
    }

    /// Keeps an event, unless one of its kind is kept already.
    pub fn post(&self, event: SystemEvent) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place @ None) = pending.get_mut(event.kind()) {
            *place = Some(event);
            self.event.signal();
        }
    }

    /// Takes what is kept: `Ready` first, then a panic, then shutdown, then reboot.
    pub fn take(&self) -> Vec<SystemEvent> {
        self.event.take();
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        pending.iter_mut().filter_map(Option::take).collect()
    }
}

impl AsFd for SystemEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
