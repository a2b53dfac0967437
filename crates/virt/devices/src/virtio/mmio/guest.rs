//! What the guest causes: the registers, the status and the queues as the driver configures them.

use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_queue::{Queue, QueueT as _};
use vm_memory::GuestAddress;

use super::metrics::TransportMetrics;
use super::register::{CONFIGURATION_OFFSET, MAGIC, Readable, Ring, VENDOR, VERSION, Writable};
use super::status::{self, DRIVER, DRIVER_OK, FAILED, FEATURES_OK, NEEDS_RESET, Request};
use super::transport::{MmioTransport, fresh_queues, notify};
use crate::bus::BusDevice;
use crate::guest_warn;
use crate::virtio::queue::{VirtQueue, check_rings};

impl MmioTransport {
    fn reset(&mut self) {
        self.device.reset();
        let was_up = self.session.take().is_some();
        match fresh_queues(&*self.device) {
            Ok(queues) => self.queues = queues,
            // The same sizes were accepted when the transport was made.
            Err(_) => self.queues.clear(),
        }
        self.status = 0;
        self.device_features_select = 0;
        self.driver_features_select = 0;
        self.driver_features = 0;
        self.queue_select = 0;
        self.interrupt.acknowledge(u32::MAX);
        for event in &*self.queue_events {
            // A notification of before the reset is nothing to the next driver.
            let _empty = event.read();
        }
        if was_up {
            TransportMetrics::count(&self.metrics.resets);
            self.tell_change();
        }
    }

    fn write_status(&mut self, value: u32) {
        match status::decide(self.status, value) {
            Request::Reset => self.reset(),
            Request::Ignore => {}
            Request::Set(bits) => self.set_status(bits),
        }
    }

    fn set_status(&mut self, mut bits: u32) {
        if bits & FEATURES_OK != 0 && !self.features_are_acceptable() {
            // The driver reads the status back and sees that the bit is not set (§3.1.1); what would come after it is not set either.
            bits &= !(FEATURES_OK | DRIVER_OK);
        }
        self.status |= bits;
        if bits & DRIVER_OK != 0 && self.status & (NEEDS_RESET | FAILED) == 0 {
            self.activate();
        }
        if bits & FAILED != 0 && self.session.is_some() {
            // The driver has given up on its memory too: nothing may touch it any more.
            self.device.reset();
            self.tell_change();
        }
    }

    fn features_are_acceptable(&self) -> bool {
        let wanted = self.driver_features;
        wanted & !self.offered_features() == 0 && wanted >> VIRTIO_F_VERSION_1 & 1 == 1
    }

    fn half(features: u64, select: u32) -> u32 {
        let [a, b, c, d, e, f, g, h] = features.to_le_bytes();
        match select {
            0 => u32::from_le_bytes([a, b, c, d]),
            1 => u32::from_le_bytes([e, f, g, h]),
            _ => 0,
        }
    }

    fn read_register(&self, register: Readable) -> u32 {
        match register {
            Readable::Magic => MAGIC,
            Readable::Version => VERSION,
            Readable::DeviceId => self.device.id(),
            Readable::Vendor => VENDOR,
            Readable::DeviceFeatures => Self::half(self.offered_features(), self.device_features_select),
            Readable::QueueSizeMax => {
                let sizes = self.device.queue_sizes();
                self.selected()
                    .and_then(|queue| sizes.get(queue))
                    .copied()
                    .map_or(0, u32::from)
            }
            Readable::QueueReady => u32::from(self.selected().is_some_and(|queue| self.queue_is_ready(queue))),
            Readable::InterruptStatus => self.interrupt.status(),
            Readable::Status => self.status,
            Readable::SharedMemory => u32::MAX,
            Readable::ConfigurationGeneration => self.interrupt.generation(),
        }
    }

    fn selected(&self) -> Option<usize> {
        usize::try_from(self.queue_select).ok()
    }

    fn queue_is_ready(&self, queue: usize) -> bool {
        match &self.session {
            Some(session) => session.queues.get(queue).is_some_and(VirtQueue::is_ready),
            None => self.queues.get(queue).is_some_and(Queue::ready),
        }
    }

    /// The selected queue, if it may be configured now: features are agreed on, the device is not up, the queue is not ready (§4.2.2.2).
    fn configurable(&mut self) -> Option<&mut Queue> {
        let legal = self.status & (FEATURES_OK | DRIVER_OK | FAILED) == FEATURES_OK;
        let selected = self.selected()?;
        self.queues.get_mut(selected).filter(|queue| legal && !queue.ready())
    }

    /// Writes a register and returns whether that was legal.
    fn write_register(&mut self, register: Writable, value: u32) -> bool {
        match register {
            Writable::DeviceFeaturesSelect => self.device_features_select = value,
            Writable::DriverFeaturesSelect => self.driver_features_select = value,
            Writable::DriverFeatures => return self.write_features(value),
            Writable::QueueSelect => self.queue_select = value,
            Writable::QueueSize => {
                let size = u16::try_from(value);
                let queue = self.configurable();
                return queue
                    .zip(size.ok())
                    .is_some_and(|(queue, size)| queue.try_set_size(size).is_ok());
            }
            Writable::QueueReady => return self.write_ready(value),
            Writable::Notify => notify(&self.queue_events, value),
            Writable::InterruptAcknowledge => self.interrupt.acknowledge(value),
            Writable::Status => self.write_status(value),
            Writable::Address { ring, high } => return self.write_address(ring, high, value),
        }
        true
    }

    fn write_features(&mut self, value: u32) -> bool {
        if self.status & (DRIVER | FEATURES_OK | FAILED) != DRIVER {
            return false;
        }
        let [mut low, mut high] = [0, 1].map(|select| Self::half(self.driver_features, select));
        match self.driver_features_select {
            0 => low = value,
            1 => high = value,
            _ => return value == 0,
        }
        self.driver_features = u64::from(high) << 32 | u64::from(low);
        true
    }

    fn write_address(&mut self, ring: Ring, high: bool, value: u32) -> bool {
        let Some(queue) = self.configurable() else {
            return false;
        };
        let before = match ring {
            Ring::Descriptors => queue.desc_table(),
            Ring::Available => queue.avail_ring(),
            Ring::Used => queue.used_ring(),
        };
        let value = u64::from(value);
        let address = GuestAddress(if high {
            value << 32 | before & 0xffff_ffff
        } else {
            before & !0xffff_ffff | value
        });
        let set = match ring {
            Ring::Descriptors => queue.try_set_desc_table_address(address),
            Ring::Available => queue.try_set_avail_ring_address(address),
            Ring::Used => queue.try_set_used_ring_address(address),
        };
        if set.is_err() {
            self.refuse_rings();
        }
        set.is_ok()
    }

    fn write_ready(&mut self, value: u32) -> bool {
        let Some(selected) = self.selected() else {
            return false;
        };
        if value == 0 {
            if let Some(session) = &mut self.session {
                session.queues.get_mut(selected).map(VirtQueue::stop);
            } else if let Some(queue) = self.queues.get_mut(selected) {
                queue.set_ready(false);
            }
            return true;
        }
        if value != 1 {
            return false;
        }
        let memory = self.memory.clone();
        let Some(queue) = self.configurable() else {
            return false;
        };
        if check_rings(queue, &memory).is_ok() {
            queue.set_ready(true);
            return true;
        }
        self.refuse_rings();
        false
    }

    /// The driver would wait for ever for a queue that is only left unready.
    fn refuse_rings(&mut self) {
        let queue = self.queue_select;
        guest_warn!(
            device = self.device.name(),
            queue,
            "a queue's rings are not in memory or not aligned"
        );
        TransportMetrics::count(&self.metrics.guest_faults);
        self.break_down();
    }
}

impl BusDevice for MmioTransport {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some(offset) = offset.checked_sub(CONFIGURATION_OFFSET) {
            self.device.read_config(offset, data);
            return;
        }
        // Registers are 32 bits wide and accessed as such (§4.2.2.2).
        match (Readable::at(offset), <&mut [u8; 4]>::try_from(data)) {
            (Some(register), Ok(data)) => *data = self.read_register(register).to_le_bytes(),
            _ => TransportMetrics::count(&self.metrics.ignored_accesses),
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let legal = if let Some(offset) = offset.checked_sub(CONFIGURATION_OFFSET) {
            let legal = self.status & (DRIVER | FAILED) == DRIVER;
            if legal {
                self.device.write_config(offset, data);
            }
            legal
        } else {
            match (Writable::at(offset), <[u8; 4]>::try_from(data)) {
                (Some(register), Ok(data)) => self.write_register(register, u32::from_le_bytes(data)),
                _ => false,
            }
        };
        if !legal {
            TransportMetrics::count(&self.metrics.ignored_accesses);
        }
    }
}
