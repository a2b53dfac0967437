//! Virtio devices on the board: each with its place, its interrupt line and its notifications, and the descriptors that the VMM waits on for it.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvm_ioctls::{IoEventAddress, VmFd};
use ringwall_arch::native::layout;
use ringwall_arch::{GuestRam, MmioSlot};
use ringwall_devices::bus::{Bus, InsertError};
use ringwall_devices::virtio::VirtioDevice;
use ringwall_devices::virtio::mmio::{MmioTransport, MmioWindow, NOTIFY_OFFSET, NewTransportError};
use thiserror::Error;

use crate::event_loop::{EventLoop, Key, borrowed};

/// A device that can't be put on the board.
#[derive(Debug, Error)]
pub enum AttachError {
    /// There are only so many places.
    #[error("no place for device {0}: the board has {max} places", max = layout::VIRTIO_SLOTS)]
    Full(String),
    /// The device's registers.
    #[error("device {id} can't be made")]
    Transport {
        /// Which device.
        id: String,
        /// Why.
        #[source]
        source: NewTransportError,
    },
    /// Two devices in one place; a defect of ours.
    #[error("device {id} has no place of its own")]
    Place {
        /// Which device.
        id: String,
        /// Why.
        #[source]
        source: InsertError,
    },
    /// A call to KVM failed.
    #[error("{what} of device {id}")]
    Kvm {
        /// Which device.
        id: String,
        /// What was being done.
        what: &'static str,
        /// What the kernel said.
        #[source]
        source: kvm_ioctls::Error,
    },
    /// A descriptor can't be waited on.
    #[error("device {id} can't be waited on")]
    Wait {
        /// Which device.
        id: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// A device in its place.
#[derive(Debug)]
pub struct Attached {
    /// How the configuration names it.
    pub id: String,
    /// Where it is.
    pub slot: MmioSlot,
    transport: Arc<Mutex<MmioTransport>>,
    /// Duplicates of the descriptors that are being waited on: the device may close its own whenever it likes.
    waited: Vec<OwnedFd>,
}

impl Attached {
    /// The device behind its registers. Short: vCPUs wait for it.
    pub fn transport(&self) -> MutexGuard<'_, MmioTransport> {
        self.transport.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits on what the device wants to be waited on now.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn follow(&mut self, events: &EventLoop, device: u16) -> io::Result<()> {
        for descriptor in self.waited.drain(..) {
            events.remove(&descriptor)?;
        }
        let mut transport = self.transport.lock().unwrap_or_else(PoisonError::into_inner);
        transport.take_change();
        for source in transport.sources() {
            let descriptor = source.descriptor.try_clone_to_owned()?;
            let token = source.token;
            events.add(&descriptor, Key::Source { device, token })?;
            self.waited.push(descriptor);
        }
        Ok(())
    }
}

/// Puts a device on the board at the next free place, as number `index` of all.
///
/// # Errors
/// See [`AttachError`].
pub fn attach(
    vm: &VmFd,
    memory: &GuestRam,
    bus: &mut Bus,
    events: &EventLoop,
    index: u16,
    id: &str,
    device: Box<dyn VirtioDevice>,
) -> Result<Attached, AttachError> {
    let slot = layout::virtio_mmio(usize::from(index)).ok_or_else(|| AttachError::Full(id.to_owned()))?;
    let kvm_error = |what| {
        move |source| AttachError::Kvm {
            id: id.to_owned(),
            what,
            source,
        }
    };
    let wait_error = |source| AttachError::Wait {
        id: id.to_owned(),
        source,
    };
    let transport = MmioTransport::new(device, memory.clone()).map_err(|source| AttachError::Transport {
        id: id.to_owned(),
        source,
    })?;
    vm.register_irqfd(transport.interrupt_event(), slot.gsi)
        .map_err(kvm_error("no interrupt for the line"))?;
    let notify = IoEventAddress::Mmio(slot.base + NOTIFY_OFFSET);
    for (number, event) in (0_u16..).zip(transport.queue_events()) {
        vm.register_ioevent(event, &notify, u32::from(number))
            .map_err(kvm_error("no notification for a queue"))?;
        let key = Key::Queue {
            device: index,
            queue: number,
        };
        events.add(borrowed(event), key).map_err(wait_error)?;
    }
    events
        .add(borrowed(transport.change_event()), Key::Changed { device: index })
        .map_err(wait_error)?;
    let transport = Arc::new(Mutex::new(transport));
    bus.insert_shared(slot.base, slot.bytes, Arc::new(MmioWindow::new(&transport)))
        .map_err(|source| AttachError::Place {
            id: id.to_owned(),
            source,
        })?;
    Ok(Attached {
        id: id.to_owned(),
        slot,
        transport,
        waited: Vec::new(),
    })
}
