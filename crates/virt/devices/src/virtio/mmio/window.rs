//! A transport as the bus sees it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::EventFd;

use super::interrupt::MmioInterrupt;
use super::register::{Readable, Writable};
use super::transport::{MmioTransport, notify};
use crate::bus::{BusDevice as _, SharedBusDevice};

/// The registers, for a bus. What every interrupt needs (its status, and the acknowledgement) is answered without the transport's lock,
/// so that a vCPU does not wait for a device that is at work on the VMM's thread; so is a notification that is not an ioeventfd.
#[derive(Debug)]
pub struct MmioWindow {
    transport: Arc<Mutex<MmioTransport>>,
    interrupt: Arc<MmioInterrupt>,
    queue_events: Arc<[EventFd]>,
}

impl MmioWindow {
    /// The window of a transport.
    #[must_use]
    pub fn new(transport: &Arc<Mutex<MmioTransport>>) -> Self {
        let locked = transport.lock().unwrap_or_else(PoisonError::into_inner);
        MmioWindow {
            interrupt: locked.interrupt().clone(),
            queue_events: locked.shared_queue_events(),
            transport: transport.clone(),
        }
    }

    fn transport(&self) -> MutexGuard<'_, MmioTransport> {
        self.transport.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SharedBusDevice for MmioWindow {
    fn read(&self, offset: u64, data: &mut [u8]) {
        if Readable::at(offset) == Some(Readable::InterruptStatus) && data.len() == 4 {
            data.copy_from_slice(&self.interrupt.status().to_le_bytes());
        } else {
            self.transport().read(offset, data);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let Ok(raw) = <[u8; 4]>::try_from(data) {
            let value = u32::from_le_bytes(raw);
            match Writable::at(offset) {
                Some(Writable::InterruptAcknowledge) => return self.interrupt.acknowledge(value),
                Some(Writable::Notify) => return notify(&self.queue_events, value),
                _ => {}
            }
        }
        self.transport().write(offset, data);
    }
}
