//! A timer that is readable from the time it is set to, until it is set anew; never read.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use ringwall_devices::event::timespec;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime};

/// Added to every wait, so that the time is over when the timer says so: both clocks are the same, but one was read earlier.
const SLACK: Duration = Duration::from_millis(1);

/// When an alarm goes off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    /// Never.
    Never,
    /// It does already.
    Now,
    /// Then.
    At(Instant),
}

/// The timer.
#[derive(Debug)]
pub(crate) struct Alarm {
    timer: OwnedFd,
    set: When,
}

impl Alarm {
    pub(crate) fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        Ok(Self {
            timer: timerfd_create(TimerfdClockId::Monotonic, flags)?,
            set: When::Never,
        })
    }

    /// Whether it has gone off.
    pub(crate) fn is_due(&self, now: impl FnOnce() -> Instant) -> bool {
        match self.set {
            When::Never => false,
            When::Now => true,
            When::At(then) => then <= now(),
        }
    }

    /// Sets it, if it isn't set so already.
    pub(crate) fn set(&mut self, when: When, now: Instant) {
        if when == self.set {
            return;
        }
        let wait = match when {
            When::Never => Duration::ZERO,
            When::Now => Duration::from_nanos(1),
            When::At(then) => then.saturating_duration_since(now).saturating_add(SLACK),
        };
        let spec = Itimerspec {
            it_interval: timespec(Duration::ZERO),
            // Nothing switches it off.
            it_value: timespec(wait),
        };
        // It fails only for times that can't be (timerfd_settime(2)); were it so, it is tried again at the next frame.
        if timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &spec).is_ok() {
            self.set = when;
        }
    }
}

impl AsFd for Alarm {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, PollFlags, poll};

    use super::*;

    fn goes_off(alarm: &Alarm, within: Duration) -> bool {
        let mut fds = [PollFd::new(alarm, PollFlags::IN)];
        poll(&mut fds, Some(&timespec(within))).unwrap() == 1
    }

    #[test]
    fn it_is_readable_until_it_is_set_anew() {
        let mut alarm = Alarm::new().unwrap();
        let now = Instant::now();
        assert!(!goes_off(&alarm, Duration::ZERO));
        alarm.set(When::Now, now);
        assert!(goes_off(&alarm, Duration::from_secs(5)));
        assert!(goes_off(&alarm, Duration::ZERO), "it stays so");
        alarm.set(When::At(now + Duration::from_secs(600)), now);
        assert!(!goes_off(&alarm, Duration::ZERO));
        let then = Instant::now() + Duration::from_millis(2);
        alarm.set(When::At(then), Instant::now());
        assert!(goes_off(&alarm, Duration::from_secs(5)));
        assert!(alarm.is_due(Instant::now), "what is readable is due");
        alarm.set(When::Never, now);
        assert!(!goes_off(&alarm, Duration::from_millis(3)));
        assert!(!alarm.is_due(|| panic!("the clock is read only if it matters")));
    }
}
