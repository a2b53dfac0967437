//! The port: registers to the guest, output to a console, input from the VMM.

use std::io::{self, Write};
use std::mem;
use std::sync::Arc;

use vm_superio::serial::Error;
use vmm_sys_util::eventfd::EventFd;

use super::metrics::{Observer, SerialMetrics};
use super::output::Output;
use super::state::{RestoreSerialError, SerialState};
use crate::bus::BusDevice;
use crate::event::Event;
use crate::guest_warn;
use crate::interrupt::InterruptLine;

/// Bits of the interrupt enable register (16550 data sheet): received data, transmitter empty.
const RECEIVED_DATA: u8 = 1;
const TRANSMITTER_EMPTY: u8 = 2;
/// Bits of interrupt identification: none is pending; the same two.
const NOTHING_PENDING: u8 = 1;
const RECEIVED_DATA_PENDING: u8 = 4;
const TRANSMITTER_EMPTY_PENDING: u8 = 2;

/// Bit of the modem control register: what is sent is received.
const LOOP: u8 = 0x10;
/// Offset of the modem control register.
const MODEM_CONTROL: u8 = 4;
/// Bits of the line status register: data is there; the transmitter has nothing to do.
const DATA_READY: u8 = 1;
const TRANSMITTER_IDLE: u8 = 0x60;

type Port = vm_superio::Serial<Line, Arc<Observer>, Output>;

/// The port's handle on the line, which outlives the port: a restore makes a new one.
#[derive(Debug, Clone)]
struct Line(Arc<InterruptLine>);

impl vm_superio::Trigger for Line {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.pulse()
    }
}

/// A serial port.
#[derive(Debug)]
pub struct Serial {
    port: Port,
    line: Line,
    observer: Arc<Observer>,
}

impl Serial {
    /// A port that writes to `sink`, which should not wait (see [`Output`]).
    ///
    /// # Errors
    /// What `eventfd2(2)` says.
    pub fn new(sink: Box<dyn Write + Send>) -> io::Result<Self> {
        let line = Line(Arc::new(InterruptLine::new()?));
        let observer = Arc::new(Observer::new()?);
        let output = Output::new(sink, observer.metrics.clone(), observer.waiting.clone());
        Ok(Serial {
            port: Port::with_events(line.clone(), observer.clone(), output),
            line,
            observer,
        })
    }

    /// The event of the interrupt line, for `KVM_IRQFD`.
    #[must_use]
    pub fn interrupt_event(&self) -> &EventFd {
        self.line.0.event()
    }

    /// What it counts.
    #[must_use]
    pub fn metrics(&self) -> &Arc<SerialMetrics> {
        &self.observer.metrics
    }

    /// Signalled when there is room again after [`Serial::push_input`] could not take everything or [`Serial::room`] was 0. The VMM then
    /// takes it and reads its input again; meanwhile it must not wait on the input.
    #[must_use]
    pub fn room_event(&self) -> Arc<Event> {
        self.observer.room.clone()
    }

    /// How many bytes of input fit now.
    #[must_use]
    pub fn room(&self) -> usize {
        let room = if self.is_looped() { 0 } else { self.port.fifo_capacity() };
        if room == 0 {
            self.observer.wait_for_room();
        }
        room
    }

    /// Gives the guest input and returns how many bytes of it were taken.
    pub fn push_input(&mut self, bytes: &[u8]) -> usize {
        let taken = if bytes.is_empty() || self.room() == 0 {
            0
        } else {
            match self.port.enqueue_raw_bytes(bytes) {
                Ok(taken) => taken,
                // The bytes are in the FIFO; only the pulse failed.
                Err(Error::Trigger(error)) => {
                    guest_warn!(%error, "the serial port cannot interrupt");
                    bytes.len()
                }
                Err(_) => 0,
            }
        };
        if taken < bytes.len() {
            self.observer.wait_for_room();
        }
        taken
    }

    /// Signalled when there begins to be output that the console has not taken. The VMM then takes it, waits until the console is writable,
    /// and calls [`Serial::drain_output`] until there is none.
    #[must_use]
    pub fn waiting_event(&self) -> Arc<Event> {
        self.observer.waiting.clone()
    }

    /// Bytes that the console has not taken yet.
    #[must_use]
    pub fn pending_output(&self) -> usize {
        self.port.writer().pending()
    }

    /// Gives the console what it has not taken.
    pub fn drain_output(&mut self) {
        self.port.writer_mut().drain();
    }

    fn is_looped(&self) -> bool {
        self.port.state().modem_control & LOOP != 0
    }

    /// What a snapshot must know.
    #[must_use]
    pub fn save(&self) -> SerialState {
        self.port.state().into()
    }

    /// Takes a saved state. The line is pulsed if the guest waits for anything: a pulse that was on its way at the time of the snapshot
    /// is not in it, and the guest would wait for ever.
    ///
    /// # Errors
    /// See [`RestoreSerialError`]; the port is then unusable.
    pub fn restore(&mut self, mut state: SerialState) -> Result<(), RestoreSerialError> {
        let bytes = state.input.len();
        // Derived, not believed: the FIFO decides what is pending.
        let has_input = bytes > 0;
        state.line_status = state.line_status & !DATA_READY | TRANSMITTER_IDLE | u8::from(has_input);
        let mut pending = 0;
        if has_input && state.interrupt_enable & RECEIVED_DATA != 0 {
            pending |= RECEIVED_DATA_PENDING;
        }
        if state.interrupt_enable & TRANSMITTER_EMPTY != 0 {
            pending |= TRANSMITTER_EMPTY_PENDING;
        }
        state.interrupt_identification = if pending == 0 { NOTHING_PENDING } else { pending };
        let nowhere = Output::new(
            Box::new(io::sink()),
            self.observer.metrics.clone(),
            self.observer.waiting.clone(),
        );
        let spare = Port::with_events(self.line.clone(), self.observer.clone(), nowhere);
        let output = mem::replace(&mut self.port, spare).into_writer();
        let port = Port::from_state(&state.into(), self.line.clone(), self.observer.clone(), output);
        self.port = port.map_err(|error| match error {
            Error::Trigger(source) | Error::IOError(source) => RestoreSerialError::Interrupt(source),
            Error::FullFifo => RestoreSerialError::TooMuchInput { bytes },
        })?;
        self.observer.room.signal();
        Ok(())
    }
}

impl BusDevice for Serial {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        // Registers are bytes.
        if let (Ok(offset), [byte]) = (u8::try_from(offset), data) {
            *byte = self.port.read(offset);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let (Ok(offset), [byte]) = (u8::try_from(offset), data) else {
            return;
        };
        if let Err(Error::Trigger(error)) = self.port.write(offset, *byte) {
            guest_warn!(%error, "the serial port cannot interrupt");
        }
        if offset == MODEM_CONTROL && byte & LOOP == 0 {
            self.observer.tell_room();
        }
    }
}
