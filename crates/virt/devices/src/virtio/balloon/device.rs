//! The balloon as a virtio device.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use rustix::param::page_size;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use super::metrics::BalloonMetrics;
use super::pages::PAGE_BYTES;
use super::state::{BalloonState, BalloonSummary, SetBalloonError};
use super::statistics::BalloonStatistics;
use crate::event::Event;
use crate::virtio::{ActivateError, DeviceError, RestoreError, Session, Source, VirtioDevice};

/// `VIRTIO_ID_BALLOON` (VIRTIO 1.2 §5).
const DEVICE_ID: u32 = 5;
/// Places of a queue: a driver has one request in flight on each.
const QUEUE_SIZE: u16 = 128;
/// Features (§5.5.3).
pub(super) const STATISTICS: u32 = 1;
const DEFLATE_ON_OOM: u32 = 2;
pub(super) const PAGE_REPORTING: u32 = 5;
/// The configuration space (§5.5.4): what is asked for, and what the guest says it gave.
const ACTUAL_OFFSET: u64 = 4;
/// Tokens of the sources.
const MORE: u32 = 0;
const TIMER: u32 = 1;

/// How a balloon is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BalloonOptions {
    /// What the guest is asked to give at first.
    pub target_mib: u64,
    /// The guest takes pages back rather than killing a process.
    pub deflate_on_oom: bool,
    /// Seconds between statistics; 0 for none.
    pub statistics_interval_s: u16,
    /// The guest reports free pages.
    pub reporting: bool,
}

/// The balloon device.
#[derive(Debug)]
pub struct Balloon {
    options: BalloonOptions,
    queue_sizes: Vec<u16>,
    memory_bytes: u64,
    target_pages: u32,
    actual_pages: u32,
    pub(super) statistics: BalloonStatistics,
    /// The guest's buffer for statistics, kept until they are wanted.
    pub(super) statistics_chain: Option<u16>,
    /// More requests wait than one turn answers.
    pub(super) more: Event,
    timer: OwnedFd,
    pub(super) host_page_bytes: u64,
    pub(super) metrics: Arc<BalloonMetrics>,
}

impl Balloon {
    /// A balloon for a guest of so much memory.
    ///
    /// # Errors
    /// The target is too large, or what `eventfd2(2)` and `timerfd_create(2)` say.
    pub fn new(options: BalloonOptions, memory_bytes: u64) -> io::Result<Self> {
        let queues = 2 + usize::from(options.statistics_interval_s > 0) + usize::from(options.reporting);
        let target_pages = pages_of(options.target_mib, memory_bytes).map_err(io::Error::other)?;
        Ok(Balloon {
            options,
            queue_sizes: vec![QUEUE_SIZE; queues],
            memory_bytes,
            target_pages,
            actual_pages: 0,
            statistics: BalloonStatistics::default(),
            statistics_chain: None,
            more: Event::new()?,
            timer: timerfd_create(
                TimerfdClockId::Monotonic,
                TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC,
            )?,
            host_page_bytes: u64::try_from(page_size()).unwrap_or(PAGE_BYTES).max(PAGE_BYTES),
            metrics: Arc::default(),
        })
    }

    /// What it counts.
    #[must_use]
    pub fn metrics(&self) -> &Arc<BalloonMetrics> {
        &self.metrics
    }

    /// How it was made, with its target and interval as they are now.
    #[must_use]
    pub fn options(&self) -> BalloonOptions {
        BalloonOptions {
            target_mib: mib(self.target_pages),
            ..self.options
        }
    }

    /// The balloon at this moment.
    #[must_use]
    pub fn summary(&self) -> BalloonSummary {
        BalloonSummary {
            target_pages: self.target_pages,
            actual_pages: self.actual_pages,
            statistics: self.statistics,
        }
    }

    /// Asks the guest for so much memory (by a [`Session`], if it is up).
    ///
    /// # Errors
    /// [`SetBalloonError::TooLarge`].
    pub fn set_target(&mut self, target_mib: u64, session: Option<&Session>) -> Result<(), SetBalloonError> {
        self.target_pages = pages_of(target_mib, self.memory_bytes)?;
        if let Some(session) = session {
            session.signal_configuration();
        }
        Ok(())
    }

    /// Sets how often the guest is asked for statistics.
    ///
    /// # Errors
    /// [`SetBalloonError::StatisticsFixed`]: from or to 0.
    pub fn set_statistics_interval(&mut self, seconds: u16, session: Option<&Session>) -> Result<(), SetBalloonError> {
        if (seconds == 0) != (self.options.statistics_interval_s == 0) {
            return Err(SetBalloonError::StatisticsFixed);
        }
        self.options.statistics_interval_s = seconds;
        if session.is_some_and(|session| session.has(STATISTICS)) {
            self.set_timer(seconds).map_err(SetBalloonError::Timer)?;
        }
        Ok(())
    }

    /// Lets the timer tick so often, or not at all.
    fn set_timer(&self, seconds: u16) -> Result<(), rustix::io::Errno> {
        let interval = Timespec {
            tv_sec: seconds.into(),
            tv_nsec: 0,
        };
        let setting = Itimerspec {
            it_interval: interval,
            it_value: interval,
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &setting).map(drop)
    }
}

/// Pages of 4 KiB in so many MiB, if a guest of so many bytes has them.
fn pages_of(target_mib: u64, memory_bytes: u64) -> Result<u32, SetBalloonError> {
    let memory_mib = memory_bytes >> 20;
    let too_large = SetBalloonError::TooLarge {
        wanted_mib: target_mib,
        memory_mib,
    };
    // Compared before it is multiplied: a wrapped product would pass.
    if target_mib > memory_mib {
        return Err(too_large);
    }
    let pages = target_mib.checked_mul((1 << 20) / PAGE_BYTES).map(u32::try_from);
    pages.and_then(Result::ok).ok_or(too_large)
}

fn mib(pages: u32) -> u64 {
    u64::from(pages) / ((1 << 20) / PAGE_BYTES)
}

impl VirtioDevice for Balloon {
    fn id(&self) -> u32 {
        DEVICE_ID
    }

    fn name(&self) -> &str {
        "balloon"
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn features(&self) -> u64 {
        u64::from(self.options.statistics_interval_s > 0) << STATISTICS
            | u64::from(self.options.deflate_on_oom) << DEFLATE_ON_OOM
            | u64::from(self.options.reporting) << PAGE_REPORTING
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let [a, b, c, d] = self.target_pages.to_le_bytes();
        let [e, f, g, h] = self.actual_pages.to_le_bytes();
        let space = [a, b, c, d, e, f, g, h];
        for (place, byte) in (offset..).zip(data) {
            let own = usize::try_from(place).ok().and_then(|place| space.get(place));
            *byte = own.copied().unwrap_or(0);
        }
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        if let (ACTUAL_OFFSET, Ok(raw)) = (offset, data.try_into()) {
            self.actual_pages = u32::from_le_bytes(raw);
        }
    }

    fn activate(&mut self, session: &mut Session) -> Result<(), ActivateError> {
        if session.has(STATISTICS) {
            let set = self.set_timer(self.options.statistics_interval_s);
            set.map_err(|error| ActivateError {
                what: "setting the balloon's timer",
                source: Some(error.into()),
            })?;
        }
        Ok(())
    }

    fn reset(&mut self) {
        self.statistics_chain = None;
        self.actual_pages = 0;
        self.statistics = BalloonStatistics::default();
        self.more.take();
        // A timer that goes on would find no chain to give back; its setting can't fail on our own descriptor.
        let _unset = self.set_timer(0);
    }

    fn sources(&self) -> Vec<Source<'_>> {
        vec![
            Source {
                descriptor: self.more.as_fd(),
                token: MORE,
            },
            Source {
                descriptor: self.timer.as_fd(),
                token: TIMER,
            },
        ]
    }

    fn notified(&mut self, queue: u16, session: &mut Session) -> Result<(), DeviceError> {
        self.serve(queue, session)
    }

    fn ready(&mut self, token: u32, session: &mut Session) -> Result<(), DeviceError> {
        if token == TIMER {
            let mut ticks = [0_u8; 8];
            return match rustix::io::read(&self.timer, &mut ticks) {
                Ok(_) => self.ask_for_statistics(session),
                Err(_) => Ok(()),
            };
        }
        self.more.take();
        for queue in 0..4 {
            self.serve(queue, session)?;
        }
        Ok(())
    }

    fn save(&self) -> serde_json::Value {
        serde_json::json!(BalloonState {
            deflate_on_oom: self.options.deflate_on_oom,
            reporting: self.options.reporting,
            interval_s: self.options.statistics_interval_s,
            target_pages: self.target_pages,
            actual_pages: self.actual_pages,
            statistics: self.statistics,
            statistics_chain: self.statistics_chain,
        })
    }

    fn restore(&mut self, state: serde_json::Value) -> Result<(), RestoreError> {
        let state: BalloonState = serde_json::from_value(state)?;
        let unfit = |what: &str| RestoreError::Unfit {
            what: format!("balloon: {what}"),
        };
        let own = self.options;
        let same = own.deflate_on_oom == state.deflate_on_oom && own.reporting == state.reporting;
        if !same || (own.statistics_interval_s > 0) != (state.interval_s > 0) {
            return Err(unfit("it was made otherwise"));
        }
        if u64::from(state.target_pages) > self.memory_bytes / PAGE_BYTES {
            return Err(unfit("its target is more than the memory"));
        }
        if state
            .statistics_chain
            .is_some_and(|head| head >= QUEUE_SIZE || state.interval_s == 0)
        {
            return Err(unfit("the chain of its statistics is not one"));
        }
        self.options.statistics_interval_s = state.interval_s;
        self.target_pages = state.target_pages;
        self.actual_pages = state.actual_pages;
        self.statistics = state.statistics;
        self.statistics_chain = state.statistics_chain;
        Ok(())
    }
}
