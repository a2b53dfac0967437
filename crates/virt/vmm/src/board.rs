//! The devices that every board has: serial port, system control, keyboard controller or clock, generation id; and what they tell the VMM.

use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvm_ioctls::VmFd;
use ringwall_arch::native::layout;
use ringwall_arch::{GuestRam, Reachable};
use ringwall_devices::bus::{BusDevice, InsertError};
use ringwall_devices::i8042::{I8042, I8042State, PressError};
use ringwall_devices::rtc::{Rtc, RtcState};
use ringwall_devices::serial::{Serial, SerialState};
use ringwall_devices::system_control::{SystemControl, SystemControlState, SystemEvent, SystemEvents};
use ringwall_devices::vmgenid::{GenerationError, GenerationId};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use vm_memory::GuestAddress;

use crate::event_loop::{EventLoop, Key};
use crate::vcpu::Buses;

/// Why the board's own devices can't be made.
#[derive(Debug, Error)]
pub enum BoardError {
    /// The host gives no descriptors.
    #[error("no event descriptor for the {0}")]
    Event(&'static str, #[source] io::Error),
    /// Two devices in one place; a defect of ours.
    #[error("the {0} has no place of its own")]
    Place(&'static str, #[source] InsertError),
    /// A call to KVM failed.
    #[error("no interrupt for the {0}")]
    Interrupt(&'static str, #[source] kvm_ioctls::Error),
    /// The generation id.
    #[error("no generation id")]
    Generation(#[from] GenerationError),
}

/// Why the board's own devices can't be restored.
#[derive(Debug, Error)]
pub enum RestoreBoardError {
    /// The serial port.
    #[error(transparent)]
    Serial(#[from] ringwall_devices::serial::RestoreSerialError),
    /// The generation id.
    #[error(transparent)]
    Generation(#[from] GenerationError),
}

/// What a snapshot knows of the board's own devices.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BoardState {
    /// The serial port.
    pub serial: SerialState,
    /// The system-control device.
    pub control: SystemControlState,
    /// The keyboard controller, where there is one.
    pub keyboard: Option<I8042State>,
    /// The clock, where there is one.
    pub clock: Option<RtcState>,
}

/// The board's own devices.
#[derive(Debug)]
pub struct Fixed {
    serial: Arc<Mutex<Serial>>,
    control: Arc<Mutex<SystemControl>>,
    events: Arc<SystemEvents>,
    keyboard: Option<Arc<Mutex<I8042>>>,
    clock: Option<Arc<Mutex<Rtc>>>,
    generation: GenerationId,
}

/// ACPI's sleep registers on x86_64 (ACPI 6.5 §4.8.3.7): a write of "off" is a shutdown.
struct AcpiSleep(Arc<SystemEvents>);

impl BusDevice for AcpiSleep {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let (0, Some(&value)) = (offset, data.first())
            && native_sleep::is_power_off(value)
        {
            self.0.post(SystemEvent::Shutdown { code: 0 });
        }
    }
}

/// Where the sleep registers are; only boards with ports have them.
mod native_sleep {
    use ringwall_arch::x86_64::layout;

    pub(super) const OFFSET: u64 = layout::ACPI_SLEEP_CONTROL as u64;
    pub(super) const BYTES: u64 = 2;

    pub(super) const fn is_power_off(value: u8) -> bool {
        value == layout::ACPI_SLEEP_POWER_OFF
    }
}

impl Fixed {
    /// Makes them and puts them on the buses.
    ///
    /// # Errors
    /// See [`BoardError`].
    pub fn place(
        vm: &VmFd,
        memory: &GuestRam,
        buses: &mut Buses,
        events: &EventLoop,
        console: Box<dyn Write + Send>,
    ) -> Result<Self, BoardError> {
        let serial = Serial::new(console).map_err(|error| BoardError::Event("serial port", error))?;
        vm.register_irqfd(serial.interrupt_event(), layout::serial().gsi())
            .map_err(|error| BoardError::Interrupt("serial port", error))?;
        let serial = Arc::new(Mutex::new(serial));
        insert(buses, "serial port", layout::serial(), 0, None, serial.clone())?;
        let told = Arc::new(SystemEvents::new().map_err(|error| BoardError::Event("system control", error))?);
        events
            .add(told.as_fd(), Key::System)
            .map_err(|error| BoardError::Event("system control", error))?;
        let control = Arc::new(Mutex::new(SystemControl::new(told.clone())));
        let window = ringwall_devices::system_control::WINDOW_BYTES;
        insert(
            buses,
            "system control",
            layout::system_control(),
            0,
            Some(window),
            control.clone(),
        )?;
        if let Reachable::Port(_) = layout::system_control() {
            let sleep = Arc::new(Mutex::new(AcpiSleep(told.clone())));
            insert(
                buses,
                "sleep registers",
                layout::system_control(),
                native_sleep::OFFSET,
                Some(native_sleep::BYTES),
                sleep,
            )?;
        }
        let keyboard = match layout::keyboard() {
            None => None,
            Some(slot) => {
                let keyboard =
                    I8042::new(told.clone()).map_err(|error| BoardError::Event("keyboard controller", error))?;
                vm.register_irqfd(keyboard.interrupt_event(), slot.gsi)
                    .map_err(|error| BoardError::Interrupt("keyboard controller", error))?;
                let keyboard = Arc::new(Mutex::new(keyboard));
                let place = Reachable::Port(slot);
                insert(buses, "keyboard controller", place, 0, None, keyboard.clone())?;
                Some(keyboard)
            }
        };
        let clock = match layout::rtc() {
            None => None,
            Some(slot) => {
                let clock = Arc::new(Mutex::new(Rtc::new()));
                insert(buses, "clock", Reachable::Memory(slot), 0, None, clock.clone())?;
                Some(clock)
            }
        };
        let generation = GenerationId::new(memory, GuestAddress(layout::vmgenid().base))?;
        vm.register_irqfd(generation.interrupt_event(), layout::vmgenid().gsi)
            .map_err(|error| BoardError::Interrupt("generation id", error))?;
        Ok(Fixed {
            serial,
            control,
            events: told,
            keyboard,
            clock,
            generation,
        })
    }

    /// Whether there is a keyboard controller.
    #[must_use]
    pub const fn has_keyboard(&self) -> bool {
        self.keyboard.is_some()
    }

    /// Presses control, alt and delete; `None` without keyboard.
    #[must_use]
    pub fn press_control_alt_delete(&self) -> Option<Result<(), PressError>> {
        let mut keyboard = lock(self.keyboard.as_ref()?);
        Some(keyboard.press_control_alt_delete())
    }

    /// The serial port. Short: a vCPU may wait for it.
    pub fn serial(&self) -> MutexGuard<'_, Serial> {
        lock(&self.serial)
    }

    /// Takes what the guest has said by the system-control device.
    #[must_use]
    pub fn told(&self) -> Vec<SystemEvent> {
        self.events.take()
    }

    /// What a snapshot must know.
    #[must_use]
    pub fn save(&self) -> BoardState {
        BoardState {
            serial: self.serial().save(),
            control: lock(&self.control).save(),
            keyboard: self.keyboard.as_ref().map(|keyboard| lock(keyboard).save()),
            clock: self.clock.as_ref().map(|clock| lock(clock).save()),
        }
    }

    /// Takes a saved state, and begins a new generation: the guest is not the one that was saved, there may be many of it.
    ///
    /// # Errors
    /// See [`RestoreBoardError`].
    pub fn restore(&self, state: BoardState, memory: &GuestRam) -> Result<(), RestoreBoardError> {
        self.serial().restore(state.serial)?;
        lock(&self.control).restore(state.control);
        if let (Some(keyboard), Some(state)) = (&self.keyboard, &state.keyboard) {
            lock(keyboard).restore(state);
        }
        if let (Some(clock), Some(state)) = (&self.clock, state.clock) {
            lock(clock).restore(state);
        }
        self.generation.renew(memory)?;
        Ok(())
    }
}

fn lock<T>(device: &Mutex<T>) -> MutexGuard<'_, T> {
    device.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Puts a device on the bus that its place is on, `offset` bytes into it; without `bytes` it gets the whole place.
fn insert(
    buses: &mut Buses,
    name: &'static str,
    place: Reachable,
    offset: u64,
    bytes: Option<u64>,
    device: Arc<Mutex<dyn BusDevice>>,
) -> Result<(), BoardError> {
    let (bus, base, all) = match place {
        Reachable::Port(slot) => (&mut buses.ports, u64::from(slot.base), u64::from(slot.ports)),
        Reachable::Memory(slot) => (&mut buses.mmio, slot.base, slot.bytes),
    };
    bus.insert(base + offset, bytes.unwrap_or(all), device)
        .map_err(|error| BoardError::Place(name, error))
}
