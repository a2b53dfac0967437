//! The transport: owns the device, its queues and its status.

use std::any::Any;
use std::io;
use std::sync::Arc;

use ringwall_arch::GuestRam;
use thiserror::Error;
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::{Queue, QueueT as _};
use vmm_sys_util::eventfd::EventFd;

use super::interrupt::MmioInterrupt;
use super::metrics::TransportMetrics;
use super::state::{MmioState, QueueRecord};
use super::status::{DRIVER_OK, FAILED, NEEDS_RESET};
use crate::guest_warn;
use crate::interrupt::{Cause, Interrupt as _, event};
use crate::virtio::device::{DeviceError, RestoreError, Session, Source, VirtioDevice};
use crate::virtio::queue::VirtQueue;

/// Features of the transport itself.
const TRANSPORT_FEATURES: u64 = 1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_EVENT_IDX;

/// Why a transport can't be made.
#[derive(Debug, Error)]
pub enum NewTransportError {
    /// An event descriptor.
    #[error("cannot make an event descriptor")]
    Event(#[source] io::Error),
    /// The device wants a queue of a size that is not a power of two up to 32,768.
    #[error("queue {number} of {device} can't have {size} places")]
    QueueSize {
        /// The device's name.
        device: String,
        /// Which queue.
        number: usize,
        /// Its size.
        size: u16,
    },
}

/// A virtio device behind MMIO registers.
#[derive(Debug)]
pub struct MmioTransport {
    pub(super) device: Box<dyn VirtioDevice>,
    pub(super) memory: GuestRam,
    pub(super) interrupt: Arc<MmioInterrupt>,
    pub(super) queue_events: Arc<[EventFd]>,
    pub(super) change_event: EventFd,
    pub(super) metrics: Arc<TransportMetrics>,
    pub(super) status: u32,
    pub(super) device_features_select: u32,
    pub(super) driver_features_select: u32,
    pub(super) driver_features: u64,
    pub(super) queue_select: u32,
    /// The queues as the driver configures them; while there is a session, they are in it.
    pub(super) queues: Vec<Queue>,
    pub(super) session: Option<Session>,
}

/// Makes the VMM's thread look at a queue, if there is such a queue.
pub(super) fn notify(events: &[EventFd], queue: u32) {
    let event = usize::try_from(queue).ok().and_then(|queue| events.get(queue));
    if let Some(event) = event {
        // The counter is full only after 2^64 - 2 notifications that nobody has taken: then it is readable, which is all that matters.
        let _full = event.write(1);
    }
}

impl MmioTransport {
    /// Puts registers in front of a device.
    ///
    /// # Errors
    /// See [`NewTransportError`].
    pub fn new(device: Box<dyn VirtioDevice>, memory: GuestRam) -> Result<Self, NewTransportError> {
        let queues = fresh_queues(&*device)?;
        let events: io::Result<Vec<EventFd>> = queues.iter().map(|_| event()).collect();
        Ok(MmioTransport {
            interrupt: Arc::new(MmioInterrupt::new().map_err(NewTransportError::Event)?),
            queue_events: events.map_err(NewTransportError::Event)?.into(),
            change_event: event().map_err(NewTransportError::Event)?,
            metrics: Arc::default(),
            device,
            memory,
            status: 0,
            device_features_select: 0,
            driver_features_select: 0,
            driver_features: 0,
            queue_select: 0,
            queues,
            session: None,
        })
    }

    // What the VMM connects.

    /// One event for each queue: an ioeventfd at [`super::NOTIFY_OFFSET`], 4 bytes, with the queue's number as datamatch. When one is
    /// readable, call [`MmioTransport::notified`].
    #[must_use]
    pub fn queue_events(&self) -> &[EventFd] {
        &self.queue_events
    }

    pub(super) fn shared_queue_events(&self) -> Arc<[EventFd]> {
        self.queue_events.clone()
    }

    /// The event of the interrupt line, for `KVM_IRQFD`.
    #[must_use]
    pub fn interrupt_event(&self) -> &EventFd {
        self.interrupt.line().event()
    }

    /// What the device interrupts by.
    #[must_use]
    pub fn interrupt(&self) -> &Arc<MmioInterrupt> {
        &self.interrupt
    }

    /// Readable when the device was activated, reset or has failed: then take it by [`MmioTransport::take_change`] and wait on what
    /// [`MmioTransport::sources`] now says.
    #[must_use]
    pub fn change_event(&self) -> &EventFd {
        &self.change_event
    }

    /// Makes the change event unreadable, and returns whether it was readable.
    pub fn take_change(&mut self) -> bool {
        self.change_event.read().is_ok()
    }

    /// What to wait on for the device beside the queues' events; nothing while it is not active.
    #[must_use]
    pub fn sources(&self) -> Vec<Source<'_>> {
        if self.is_active() {
            self.device.sources()
        } else {
            Vec::new()
        }
    }

    /// Whether the driver has brought the device up and neither of them has failed.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.session.is_some() && self.status & (NEEDS_RESET | FAILED) == 0
    }

    /// The device's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.device.name()
    }

    /// What the transport counts.
    #[must_use]
    pub fn metrics(&self) -> &Arc<TransportMetrics> {
        &self.metrics
    }

    // What the VMM's thread calls.

    /// Takes a queue's event and has the device look at the queue.
    pub fn notified(&mut self, queue: u16) {
        if let Some(event) = self.queue_events.get(usize::from(queue)) {
            // Empty if somebody came first; the device may be called without reason.
            let _empty = event.read();
        }
        TransportMetrics::count(&self.metrics.notifications);
        self.call(|device, session| device.notified(queue, session));
    }

    /// Tells the device that one of its sources is readable.
    pub fn ready(&mut self, token: u32) {
        self.call(|device, session| device.ready(token, session));
    }

    /// Brings the device to rest. Call before [`MmioTransport::save`], with the vCPUs paused.
    ///
    /// # Errors
    /// The host's failures; a fault of the guest becomes the device's status, and is no reason not to save it.
    pub fn quiesce(&mut self) -> Result<(), DeviceError> {
        if !self.is_active() {
            return Ok(());
        }
        let Some(session) = self.session.as_mut() else {
            return Ok(());
        };
        match self.device.quiesce(session) {
            Ok(()) => Ok(()),
            Err(error @ DeviceError::Host { .. }) => Err(error),
            Err(error) => {
                self.settle(Err(error));
                Ok(())
            }
        }
    }

    /// Has every queue looked at and the guest interrupted. Call after a restore, before the vCPUs run: what was in flight at the time
    /// of the snapshot (a notification in an event, a pulse on its way) is in neither memory nor registers.
    pub fn kick_all(&mut self) {
        if self.status & DRIVER_OK == 0 {
            return;
        }
        for (number, queue) in (0_u32..).zip(self.session.iter().flat_map(|session| &session.queues)) {
            if queue.is_ready() {
                notify(&self.queue_events, number);
            }
        }
        // A driver that finds nothing new ignores it.
        let _full = self.interrupt.trigger(Cause::Queue(0));
        if self.status & NEEDS_RESET != 0 {
            let _full = self.interrupt.trigger(Cause::Configuration);
        }
    }

    /// The device, for changes by the API.
    pub fn device_mut(&mut self) -> &mut dyn VirtioDevice {
        &mut *self.device
    }

    /// Whether the device is of this kind.
    #[must_use]
    pub fn is<T: VirtioDevice>(&self) -> bool {
        let device: &dyn Any = &*self.device;
        device.is::<T>()
    }

    /// The device as what it is, with its session while it is active; `None` if it is something else. A fault is treated as if the
    /// guest had notified.
    pub fn with_device<T, R>(
        &mut self,
        change: impl FnOnce(&mut T, Option<&mut Session>) -> Result<R, DeviceError>,
    ) -> Option<Result<R, DeviceError>>
    where
        T: VirtioDevice,
    {
        let is_active = self.is_active();
        let device: &mut dyn Any = &mut *self.device;
        let device = device.downcast_mut::<T>()?;
        let session = self.session.as_mut().filter(|_| is_active);
        let result = change(device, session);
        if let Err(DeviceError::Guest(fault)) = &result {
            self.settle(Err(DeviceError::Guest(fault.clone())));
        }
        Some(result)
    }

    /// What a snapshot must know. Call after [`MmioTransport::quiesce`].
    #[must_use]
    pub fn save(&self) -> MmioState {
        let queues = match &self.session {
            Some(session) => session.queues.iter().map(VirtQueue::state).collect(),
            None => self.queues.iter().map(Queue::state).collect::<Vec<_>>(),
        };
        MmioState {
            device_id: self.device.id(),
            status: self.status,
            device_features_select: self.device_features_select,
            driver_features_select: self.driver_features_select,
            driver_features: self.driver_features,
            queue_select: self.queue_select,
            interrupt_status: self.interrupt.status(),
            config_generation: self.interrupt.generation(),
            queues: queues.iter().map(QueueRecord::of).collect(),
            device: self.device.save(),
        }
    }

    /// Takes a saved state, and activates the device if it was active. Call on a new transport, once guest memory is there; then
    /// [`MmioTransport::kick_all`].
    ///
    /// # Errors
    /// See [`RestoreError`]. The transport must then be thrown away.
    pub fn restore(&mut self, state: MmioState) -> Result<(), RestoreError> {
        if self.status != 0 || self.session.is_some() {
            return Err(RestoreError::Unfit {
                what: format!("{} is in use already", self.device.name()),
            });
        }
        state.check(self.device.id(), self.queues.len(), self.offered_features())?;
        let sizes = self.device.queue_sizes().to_vec();
        let records = state.queues.iter().zip(sizes).enumerate();
        let queues: Result<Vec<Queue>, _> = records
            .map(|(number, (record, size))| record.to_queue(number, size, &self.memory))
            .collect();
        self.queues = queues?;
        self.device.restore(state.device)?;
        self.status = state.status;
        self.device_features_select = state.device_features_select;
        self.driver_features_select = state.driver_features_select;
        self.driver_features = state.driver_features;
        self.queue_select = state.queue_select;
        self.interrupt.restore(state.interrupt_status, state.config_generation);
        if self.status & DRIVER_OK == 0 || self.status & (NEEDS_RESET | FAILED) != 0 {
            return Ok(());
        }
        self.activate();
        if self.is_active() {
            Ok(())
        } else {
            Err(RestoreError::Unfit {
                what: format!("{} can't be activated", self.device.name()),
            })
        }
    }

    // What both cause.

    pub(super) fn offered_features(&self) -> u64 {
        self.device.features() | TRANSPORT_FEATURES
    }

    fn call(&mut self, work: impl FnOnce(&mut dyn VirtioDevice, &mut Session) -> Result<(), DeviceError>) {
        if !self.is_active() {
            return;
        }
        if let Some(session) = self.session.as_mut() {
            let result = work(&mut *self.device, session);
            self.settle(result);
        }
    }

    fn settle(&mut self, result: Result<(), DeviceError>) {
        match result {
            Ok(()) => {}
            Err(DeviceError::Guest(fault)) => {
                guest_warn!(device = self.device.name(), %fault, "the guest's driver broke the protocol; the device waits for its reset");
                TransportMetrics::count(&self.metrics.guest_faults);
                self.break_down();
            }
            Err(DeviceError::Host { what, source }) => {
                guest_warn!(device = self.device.name(), what, error = %source, "a device failed on the host");
                TransportMetrics::count(&self.metrics.host_failures);
            }
        }
    }

    /// Sets `DEVICE_NEEDS_RESET`, and tells the driver if it is up (VIRTIO 1.2 §2.1.2).
    pub(super) fn break_down(&mut self) {
        self.status |= NEEDS_RESET;
        if self.status & DRIVER_OK != 0 {
            let _full = self.interrupt.trigger(Cause::Configuration);
        }
        self.tell_change();
    }

    pub(super) fn tell_change(&self) {
        let _full = self.change_event.write(1);
    }

    pub(super) fn activate(&mut self) {
        let features = self.driver_features;
        let event_index = features >> VIRTIO_RING_F_EVENT_IDX & 1 == 1;
        let queues = (0_u16..)
            .zip(std::mem::take(&mut self.queues))
            .map(|(number, mut queue)| {
                queue.set_event_idx(event_index);
                VirtQueue::new(queue, number)
            });
        let session = self.session.insert(Session {
            memory: self.memory.clone(),
            queues: queues.collect(),
            features,
            interrupt: self.interrupt.clone(),
        });
        match self.device.activate(session) {
            Ok(()) => {
                TransportMetrics::count(&self.metrics.activations);
                self.tell_change();
            }
            Err(error) => {
                guest_warn!(device = self.device.name(), %error, source = ?error.source, "a device can't be activated");
                TransportMetrics::count(&self.metrics.host_failures);
                self.break_down();
            }
        }
    }
}

/// The queues of a device as a driver finds them.
pub(super) fn fresh_queues(device: &dyn VirtioDevice) -> Result<Vec<Queue>, NewTransportError> {
    let sizes = device.queue_sizes().iter().enumerate();
    let queues = sizes.map(|(number, size)| {
        Queue::new(*size).map_err(|_| NewTransportError::QueueSize {
            device: device.name().to_owned(),
            number,
            size: *size,
        })
    });
    queues.collect()
}
