//! `/balloon` and `/balloon/statistics`: memory taken back from the guest.

use serde::{Deserialize, Serialize};

use crate::error::ValueError;

/// The body of PUT.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(crate) struct WireBalloon {
    amount_mib: u32,
    deflate_on_oom: bool,
    #[serde(default)]
    stats_polling_interval_s: u16,
    #[serde(default)]
    free_page_hinting: bool,
    #[serde(default)]
    free_page_reporting: bool,
}

/// The body of PATCH /balloon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub struct BalloonUpdate {
    /// Memory to hold, in MiB.
    pub amount_mib: u32,
}

/// The body of PATCH /balloon/statistics. Statistics that were off stay off: the device was made without them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub struct BalloonStatisticsUpdate {
    /// Seconds between two refreshments.
    pub stats_polling_interval_s: u16,
}

/// The balloon device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct BalloonConfig {
    /// Memory to hold, in MiB.
    pub amount_mib: u32,
    /// Whether the guest may take memory back when it has none left.
    pub deflate_on_oom: bool,
    /// Seconds between two refreshments of the statistics; 0 means that there are none.
    pub stats_polling_interval_s: u16,
    /// Always false: hinting isn't offered.
    pub free_page_hinting: bool,
    /// Whether the guest reports pages that it doesn't use.
    pub free_page_reporting: bool,
}

impl TryFrom<WireBalloon> for BalloonConfig {
    type Error = ValueError;

    fn try_from(wire: WireBalloon) -> Result<Self, ValueError> {
        if wire.free_page_hinting {
            return Err(ValueError::FreePageHinting);
        }
        Ok(Self {
            amount_mib: wire.amount_mib,
            deflate_on_oom: wire.deflate_on_oom,
            stats_polling_interval_s: wire.stats_polling_interval_s,
            free_page_hinting: false,
            free_page_reporting: wire.free_page_reporting,
        })
    }
}

/// What the guest says of its memory. Fields that it said nothing of are `None` and left out (VIRTIO 1.2 §5.5.6.3).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct BalloonStatistics {
    /// Pages of 4 KiB that the balloon should hold.
    pub target_pages: u32,
    /// Pages of 4 KiB that it holds.
    pub actual_pages: u32,
    /// MiB that it should hold.
    pub target_mib: u32,
    /// MiB that it holds.
    pub actual_mib: u32,
    /// Bytes swapped in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap_in: Option<u64>,
    /// Bytes swapped out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap_out: Option<u64>,
    /// Page faults that needed a disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub major_faults: Option<u64>,
    /// Page faults that needed none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minor_faults: Option<u64>,
    /// Bytes not used for anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub free_memory: Option<u64>,
    /// Bytes that there are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_memory: Option<u64>,
    /// Bytes that programs could have without swapping.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub available_memory: Option<u64>,
    /// Bytes of caches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_caches: Option<u64>,
    /// Huge pages handed out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hugetlb_allocations: Option<u64>,
    /// Huge pages that couldn't be handed out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hugetlb_failures: Option<u64>,
    /// Programs killed for want of memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_kill: Option<u64>,
    /// Allocations that had to wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alloc_stall: Option<u64>,
    /// Pages looked at in the background.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub async_scan: Option<u64>,
    /// Pages looked at while somebody waited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direct_scan: Option<u64>,
    /// Pages freed in the background.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub async_reclaim: Option<u64>,
    /// Pages freed while somebody waited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direct_reclaim: Option<u64>,
}
