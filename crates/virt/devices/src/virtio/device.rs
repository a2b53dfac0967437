//! What a virtio device is to its transport.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use ringwall_arch::GuestRam;
use thiserror::Error;

use super::chain::ChainError;
use super::queue::VirtQueue;
use crate::interrupt::{Cause, Interrupt};

/// A descriptor that the VMM's event loop waits on for a device, from activation to reset.
///
/// The list of a device is fixed; one that has a changing number of descriptors (vsock) has an epoll descriptor of its own and names that.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// Waited on until it is readable.
    pub descriptor: BorrowedFd<'a>,
    /// Handed back to [`VirtioDevice::ready`].
    pub token: u32,
}

/// What an activated device works with. The transport owns it, lends it for each call, and saves and restores its queues.
#[derive(Debug)]
pub struct Session {
    /// The guest's memory.
    pub memory: GuestRam,
    /// The device's queues, as many as [`VirtioDevice::queue_sizes`]; a queue that the driver left unready gives no chains.
    pub queues: Vec<VirtQueue>,
    /// Features that both sides have agreed on.
    pub features: u64,
    /// How the guest is told.
    pub interrupt: Arc<dyn Interrupt>,
}

impl Session {
    /// Whether a feature bit (its number) has been agreed on.
    #[must_use]
    pub fn has(&self, bit: u32) -> bool {
        self.features >> bit & 1 == 1
    }

    /// Interrupts the guest for a queue if it wants to be (event index and flags are looked at).
    ///
    /// # Errors
    /// A malformed ring.
    pub fn signal(&mut self, queue: u16) -> Result<(), DeviceError> {
        let Some(ring) = self.queues.get_mut(usize::from(queue)) else {
            return Ok(());
        };
        if ring.needs_interrupt(&self.memory)? {
            // The counter of an irqfd is full only if the host's kernel does not read it; the guest polls then.
            let _full = self.interrupt.trigger(Cause::Queue(queue));
        }
        Ok(())
    }

    /// Tells the guest to read the configuration space again.
    pub fn signal_configuration(&self) {
        let _full = self.interrupt.trigger(Cause::Configuration);
    }
}

/// A fault of the guest's driver: it broke the protocol. The transport then sets `DEVICE_NEEDS_RESET` (VIRTIO 1.2 §2.1.2) and the
/// device is not called again until it is reset.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Fault {
    /// A ring or a chain is malformed.
    #[error("queue {queue}: {source}")]
    Chain {
        /// Which queue.
        queue: u16,
        /// What is wrong with it.
        source: ChainError,
    },
    /// A request that can't be answered in the protocol.
    #[error("queue {queue}: {what}")]
    Request {
        /// Which queue.
        queue: u16,
        /// What is wrong with it.
        what: &'static str,
    },
}

/// Why a device stopped working.
#[derive(Debug, Error)]
pub enum DeviceError {
    /// The guest's fault.
    #[error(transparent)]
    Guest(#[from] Fault),
    /// The host's: a descriptor or thread that failed.
    #[error("{what}")]
    Host {
        /// What was being done.
        what: &'static str,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

/// Why a device can't be activated.
#[derive(Debug, Error)]
#[error("{what}")]
pub struct ActivateError {
    /// What was being done.
    pub what: &'static str,
    /// What the system said.
    #[source]
    pub source: Option<std::io::Error>,
}

/// Why a saved state does not fit a device.
#[derive(Debug, Error)]
pub enum RestoreError {
    /// It is not this device's state.
    #[error("the saved state is not readable")]
    Malformed(#[from] serde_json::Error),
    /// A value is out of bounds, or the device was made otherwise than the saved one.
    #[error("the saved state does not fit: {what}")]
    Unfit {
        /// What does not.
        what: String,
    },
}

/// A virtio device, as its transport sees it. All calls come under the transport's lock: `read_config` and `write_config` from vCPU
/// threads, everything else from the VMM's thread or from a vCPU thread that writes the status register.
///
/// `Any`, so that a change by the API reaches the device behind its transport.
pub trait VirtioDevice: Send + std::fmt::Debug + std::any::Any {
    /// The device id (VIRTIO 1.2 §5).
    fn id(&self) -> u32;
    /// For logs, metrics and errors: "block rootfs".
    fn name(&self) -> &str;
    /// The largest size of each queue: powers of two, at most 32,768.
    fn queue_sizes(&self) -> &[u16];
    /// Features on offer. The transport adds `VIRTIO_F_VERSION_1` and `VIRTIO_F_RING_EVENT_IDX` itself.
    fn features(&self) -> u64;
    /// Reads the configuration space; what is outside reads as zero.
    fn read_config(&self, offset: u64, data: &mut [u8]);
    /// Writes the configuration space; what is not writable is ignored.
    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}
    /// Begins to work: the driver has set DRIVER_OK. Also called after a restore, on a device that [`VirtioDevice::restore`] was called on.
    ///
    /// # Errors
    /// The transport then sets `DEVICE_NEEDS_RESET`.
    fn activate(&mut self, session: &mut Session) -> Result<(), ActivateError>;
    /// Forgets everything about the driver. When it returns, nothing touches the guest's memory any more.
    fn reset(&mut self);
    /// What the event loop waits on while the device is active. By default only the queues' notifications, which the transport has.
    fn sources(&self) -> Vec<Source<'_>> {
        Vec::new()
    }
    /// The driver has notified a queue. May be called without reason.
    ///
    /// # Errors
    /// See [`DeviceError`].
    fn notified(&mut self, queue: u16, session: &mut Session) -> Result<(), DeviceError>;
    /// One of [`VirtioDevice::sources`] is readable.
    ///
    /// # Errors
    /// See [`DeviceError`].
    fn ready(&mut self, _token: u32, _session: &mut Session) -> Result<(), DeviceError> {
        Ok(())
    }
    /// Comes to rest before a snapshot: what is in flight is finished and used, or recorded by `save`. vCPUs are paused already.
    ///
    /// # Errors
    /// See [`DeviceError`].
    fn quiesce(&mut self, _session: &mut Session) -> Result<(), DeviceError> {
        Ok(())
    }
    /// What a snapshot must know beyond the queues and negotiated features, which the transport saves.
    fn save(&self) -> serde_json::Value;
    /// Takes a saved state, before activation. Untrusted: the snapshot may be anybody's.
    ///
    /// # Errors
    /// See [`RestoreError`].
    fn restore(&mut self, state: serde_json::Value) -> Result<(), RestoreError>;
}
