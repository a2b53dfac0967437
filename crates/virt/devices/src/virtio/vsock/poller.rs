//! The one descriptor that the event loop waits on: an epoll of the listener, every socket, a timer, and a way to be called again.
//!
//! Sockets are edge-triggered: an event is remembered by the connection, so that one whose guest takes no data makes no noise.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::io::Errno;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime};

/// Most events of one turn; the rest keep the epoll descriptor readable.
const MOST_EVENTS: usize = 64;
const LISTENER: u64 = 0;
const KICK: u64 = 1;
const TIMER: u64 = 2;
/// The first number of a socket.
pub(super) const FIRST_ID: u64 = 16;

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Happened {
    /// Somebody wants to be accepted.
    Client,
    /// A deadline has passed.
    Deadline,
    /// A socket.
    Socket {
        /// The number that it was added under.
        id: u64,
        /// It may be read: data, or the end.
        readable: bool,
        /// It may be written.
        writable: bool,
        /// Its other end is closed, or both directions are.
        gone: bool,
    },
}

/// See the module.
#[derive(Debug)]
pub(super) struct Poller {
    epoll: OwnedFd,
    kick: OwnedFd,
    timer: OwnedFd,
    armed: Option<Instant>,
}

impl Poller {
    /// Makes the descriptors.
    pub(super) fn new() -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let kick = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        epoll::add(&epoll, &kick, EventData::new_u64(KICK), EventFlags::IN)?;
        epoll::add(&epoll, &timer, EventData::new_u64(TIMER), EventFlags::IN)?;
        Ok(Poller {
            epoll,
            kick,
            timer,
            armed: None,
        })
    }

    /// What the event loop waits on.
    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    /// Waits on the listener from now on.
    pub(super) fn add_listener(&self, listener: &OwnedFd) -> io::Result<()> {
        match epoll::add(&self.epoll, listener, EventData::new_u64(LISTENER), EventFlags::IN) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits on a socket. What it is ready for already counts as an event.
    pub(super) fn add(&self, id: u64, socket: &OwnedFd) -> io::Result<()> {
        Ok(epoll::add(
            &self.epoll,
            socket,
            EventData::new_u64(id),
            interest(false),
        )?)
    }

    /// Waits also until a socket is writable, or no longer. What it is ready for already counts as an event.
    pub(super) fn modify(&self, id: u64, socket: &OwnedFd, writable: bool) -> io::Result<()> {
        Ok(epoll::modify(
            &self.epoll,
            socket,
            EventData::new_u64(id),
            interest(writable),
        )?)
    }

    /// Waits on a socket, or the listener, no more. Closing alone is not enough: somebody else may have a copy of the descriptor.
    pub(super) fn remove(&self, socket: &OwnedFd) {
        let _was_not_there = epoll::delete(&self.epoll, socket);
    }

    /// Makes the event loop call again soon.
    pub(super) fn kick(&self) {
        let _full = rustix::io::write(&self.kick, &1_u64.to_ne_bytes());
    }

    /// Sees to it that `Deadline` happens at `at`.
    pub(super) fn arm(&mut self, at: Option<Instant>) -> io::Result<()> {
        if at == self.armed {
            return Ok(());
        }
        // Zero would disarm it (timerfd_create(2)), hence the nanosecond.
        let wait = at.map_or(Duration::ZERO, |at| {
            at.saturating_duration_since(Instant::now())
                .max(Duration::from_nanos(1))
        });
        let value = Itimerspec {
            it_interval: Timespec::default(),
            it_value: Timespec {
                tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: wait.subsec_nanos().into(),
            },
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &value)?;
        self.armed = at;
        Ok(())
    }

    /// What has happened, without waiting.
    pub(super) fn take(&mut self) -> io::Result<Vec<Happened>> {
        let mut events: Vec<Event> = Vec::with_capacity(MOST_EVENTS);
        match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&Timespec::default())) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut happened = Vec::with_capacity(events.len());
        for event in &events {
            let (id, flags) = (event.data.u64(), event.flags);
            match id {
                LISTENER => happened.push(Happened::Client),
                KICK => clear(&self.kick),
                TIMER => {
                    clear(&self.timer);
                    self.armed = None;
                    happened.push(Happened::Deadline);
                }
                id => happened.push(Happened::Socket {
                    id,
                    readable: flags.intersects(EventFlags::IN | EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR),
                    writable: flags.intersects(EventFlags::OUT | EventFlags::HUP | EventFlags::ERR),
                    gone: flags.intersects(EventFlags::HUP | EventFlags::ERR),
                }),
            }
        }
        Ok(happened)
    }
}

fn interest(writable: bool) -> EventFlags {
    let flags = EventFlags::IN | EventFlags::RDHUP | EventFlags::ET;
    if writable { flags | EventFlags::OUT } else { flags }
}

/// Reads the counter of an eventfd or timerfd, so that it is not readable any more.
fn clear(descriptor: &OwnedFd) {
    let _empty = rustix::io::read(descriptor, &mut [0_u8; 8]);
}
