//! What a balloon is asked for, shows, and saves.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::statistics::BalloonStatistics;

/// Why a balloon can't be changed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SetBalloonError {
    /// The target is more than the guest has.
    #[error("a balloon of {wanted_mib} MiB does not fit in a guest of {memory_mib} MiB")]
    TooLarge {
        /// What was asked for.
        wanted_mib: u64,
        /// What there is.
        memory_mib: u64,
    },
    /// Statistics are on or off for the life of the device.
    #[error("statistics can't be switched on or off while the guest runs")]
    StatisticsFixed,
    /// The timer.
    #[error("cannot set the timer of the statistics: {0}")]
    Timer(rustix::io::Errno),
}

/// A balloon at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BalloonSummary {
    /// Pages of 4 KiB that the guest is asked to give.
    pub target_pages: u32,
    /// Pages of 4 KiB that it says it has given.
    pub actual_pages: u32,
    /// What it last said of its memory.
    pub statistics: BalloonStatistics,
}

/// What a snapshot must know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BalloonState {
    pub(super) deflate_on_oom: bool,
    pub(super) reporting: bool,
    pub(super) interval_s: u16,
    pub(super) target_pages: u32,
    pub(super) actual_pages: u32,
    pub(super) statistics: BalloonStatistics,
    /// The chain that the guest waits to get back, to fill it.
    pub(super) statistics_chain: Option<u16>,
}
