//! What a snapshot knows of a transport, and the checks that a saved state must pass: the snapshot may be anybody's.

use ringwall_arch::GuestRam;
use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_queue::{Queue, QueueState};

use super::status;
use crate::virtio::device::RestoreError;
use crate::virtio::queue::check_rings;

/// One queue: how the driver configured it, and how far both rings have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueueRecord {
    /// The largest size that the device offers.
    pub max_size: u16,
    /// The size that the driver chose.
    pub size: u16,
    /// The driver has made it ready.
    pub ready: bool,
    /// Guest-physical address of the descriptor table.
    pub descriptors: u64,
    /// Guest-physical address of the available ring.
    pub available: u64,
    /// Guest-physical address of the used ring.
    pub used: u64,
    /// The next element of the available ring to be taken.
    pub next_available: u16,
    /// The next element of the used ring to be written.
    pub next_used: u16,
}

/// A transport and its device at rest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MmioState {
    /// The virtio device id.
    pub device_id: u32,
    /// The status register.
    pub status: u32,
    /// Which half of the device's features is shown.
    pub device_features_select: u32,
    /// Which half of the driver's features is written.
    pub driver_features_select: u32,
    /// Features that the driver has asked for.
    pub driver_features: u64,
    /// The queue that the queue registers are about.
    pub queue_select: u32,
    /// Interrupts that are not acknowledged.
    pub interrupt_status: u32,
    /// Changes of the configuration space.
    pub config_generation: u32,
    /// The queues, in order.
    pub queues: Vec<QueueRecord>,
    /// What the device itself has saved.
    pub device: serde_json::Value,
}

impl QueueRecord {
    pub(super) fn of(state: &QueueState) -> Self {
        QueueRecord {
            max_size: state.max_size,
            size: state.size,
            ready: state.ready,
            descriptors: state.desc_table,
            available: state.avail_ring,
            used: state.used_ring,
            next_available: state.next_avail,
            next_used: state.next_used,
        }
    }

    /// Makes the queue again.
    pub(super) fn to_queue(self, number: usize, max_size: u16, memory: &GuestRam) -> Result<Queue, RestoreError> {
        let unfit = |what: &str| RestoreError::Unfit {
            what: format!("queue {number}: {what}"),
        };
        if self.max_size != max_size {
            return Err(unfit("its largest size is another"));
        }
        let queue = Queue::try_from(QueueState {
            max_size,
            next_avail: self.next_available,
            next_used: self.next_used,
            event_idx_enabled: false,
            size: self.size,
            ready: self.ready,
            desc_table: self.descriptors,
            avail_ring: self.available,
            used_ring: self.used,
        });
        let queue = queue.map_err(|_| unfit("its size or the rings' alignment is not legal"))?;
        if self.ready && check_rings(&queue, memory).is_err() {
            return Err(unfit("its rings are not in memory"));
        }
        if self.next_available.wrapping_sub(self.next_used) > self.size {
            return Err(unfit("it has more chains in flight than places"));
        }
        Ok(queue)
    }
}

impl MmioState {
    /// Checks what needs no queue to be made.
    pub(super) fn check(&self, device_id: u32, queues: usize, offered: u64) -> Result<(), RestoreError> {
        let unfit = |what: String| Err(RestoreError::Unfit { what });
        if self.device_id != device_id {
            return unfit(format!("it is of device {}, not {device_id}", self.device_id));
        }
        if self.queues.len() != queues {
            return unfit(format!("it has {} queues, not {queues}", self.queues.len()));
        }
        if !status::is_consistent(self.status) {
            return unfit(format!("its status {:#x} can't be", self.status));
        }
        let agreed = self.status & status::FEATURES_OK != 0;
        if agreed && self.driver_features & !offered != 0 {
            let missing = self.driver_features & !offered;
            return unfit(format!("features {missing:#x} are in use and not on offer"));
        }
        if agreed && self.driver_features >> VIRTIO_F_VERSION_1 & 1 == 0 {
            return unfit("features are in use without VIRTIO_F_VERSION_1".to_owned());
        }
        Ok(())
    }
}
