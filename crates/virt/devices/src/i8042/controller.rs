//! The controller's two ports.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use super::keyboard::{CONTROL_ALT_DELETE, PARAMETER_ANSWER, answer};
use super::state::{I8042State, PressError};
use crate::bus::BusDevice;
use crate::guest_warn;
use crate::interrupt::InterruptLine;
use crate::system_control::{SystemEvent, SystemEvents};

/// Offsets of the ports.
const DATA: u64 = 0;
const COMMAND: u64 = 4;
/// Most bytes that wait for the guest, as in a keyboard's own buffer.
const MAX_OUTPUT: usize = 16;
/// Bits of the status (IBM PC/AT technical reference, 8042): output waits, self test passed, keyboard not locked.
const OUTPUT_FULL: u8 = 0x01;
const SYSTEM_FLAG: u8 = 0x04;
const UNLOCKED: u8 = 0x10;
/// Bits of the control register: keyboard interrupt, self test passed, keyboard off, second port's interrupt and off, translation.
const KEYBOARD_INTERRUPT: u8 = 0x01;
const KEYBOARD_OFF: u8 = 0x10;
const SECOND_PORT: u8 = 0x22;
const TRANSLATE: u8 = 0x40;
/// The answer to a test of the second port: its clock line is stuck low.
const SECOND_PORT_STUCK: u8 = 0x01;
/// Bits of the output port: not resetting, A20 open.
const OUTPUT_PORT: u8 = 0x03;

/// The keyboard controller.
#[derive(Debug)]
pub struct I8042 {
    line: InterruptLine,
    events: Arc<SystemEvents>,
    control: u8,
    command: Option<u8>,
    keyboard_parameter: bool,
    output: VecDeque<u8>,
}

impl I8042 {
    /// A controller that tells of resets by these events.
    ///
    /// # Errors
    /// What `eventfd2(2)` says.
    pub fn new(events: Arc<SystemEvents>) -> io::Result<Self> {
        Ok(I8042 {
            line: InterruptLine::new()?,
            events,
            control: KEYBOARD_INTERRUPT | SYSTEM_FLAG,
            command: None,
            keyboard_parameter: false,
            output: VecDeque::with_capacity(MAX_OUTPUT),
        })
    }

    /// The event of the interrupt line (1 on PCs), for `KVM_IRQFD`.
    #[must_use]
    pub fn interrupt_event(&self) -> &EventFd {
        self.line.event()
    }

    /// Presses control, alt and delete.
    ///
    /// # Errors
    /// See [`PressError`]; then nothing was pressed.
    pub fn press_control_alt_delete(&mut self) -> Result<(), PressError> {
        if self.control & KEYBOARD_INTERRUPT == 0 || self.control & KEYBOARD_OFF != 0 {
            return Err(PressError::Deaf);
        }
        if MAX_OUTPUT.saturating_sub(self.output.len()) < CONTROL_ALT_DELETE.len() {
            return Err(PressError::Full);
        }
        self.put(&CONTROL_ALT_DELETE);
        Ok(())
    }

    /// Gives the guest bytes; what has no room is lost, as with a real one.
    fn put(&mut self, bytes: &[u8]) {
        let room = MAX_OUTPUT.saturating_sub(self.output.len());
        let was_empty = self.output.is_empty();
        self.output.extend(bytes.iter().take(room));
        if was_empty {
            self.interrupt();
        }
    }

    /// Answers a command of the controller's own. There is one byte of it in a real one, which the answer replaces.
    fn reply(&mut self, byte: u8) {
        self.output.clear();
        self.put(&[byte]);
    }

    fn interrupt(&self) {
        if self.control & KEYBOARD_INTERRUPT == 0 || self.output.is_empty() {
            return;
        }
        if let Err(error) = self.line.pulse() {
            guest_warn!(%error, "the keyboard controller cannot interrupt");
        }
    }

    fn take(&mut self) -> u8 {
        let byte = self.output.pop_front().unwrap_or(0);
        // One interrupt for each byte.
        self.interrupt();
        byte
    }

    fn reset_machine(&self) {
        self.events.post(SystemEvent::Reboot);
    }

    fn run(&mut self, command: u8) {
        self.command = None;
        match command {
            0x20 => self.reply(self.control),
            // Their parameter comes by the data port: control register, output port, and what would go to a second port.
            0x60 | 0xd1 | 0xd2 | 0xd3 | 0xd4 => self.command = Some(command),
            // A test of the second port: its clock line is stuck, so that there is none. Without an answer Linux waits half a second for it
            // (`i8042_check_aux`, drivers/input/serio/i8042.c).
            0xa9 => self.reply(SECOND_PORT_STUCK),
            0xaa => self.reply(0x55),
            0xab => self.reply(0x00),
            0xad => self.control |= KEYBOARD_OFF,
            0xae => self.control &= !KEYBOARD_OFF,
            0xd0 => self.reply(OUTPUT_PORT),
            // Pulses the output lines whose bit is clear; line 0 is the CPU's reset.
            0xf0..=0xff if command & 1 == 0 => self.reset_machine(),
            _ => {}
        }
    }

    fn take_data(&mut self, value: u8) {
        match self.command.take() {
            // There is no second port, and no translation to set 1.
            Some(0x60) => self.control = value & !(SECOND_PORT | TRANSLATE),
            Some(0xd1) if value & 1 == 0 => self.reset_machine(),
            // As if the keyboard, or the second port, had sent it; but it does not come out as the second port's, which Linux sees at once.
            Some(0xd2 | 0xd3) => self.reply(value),
            Some(_) => {}
            None if self.keyboard_parameter => {
                self.keyboard_parameter = false;
                self.put(PARAMETER_ANSWER);
            }
            None => {
                let (bytes, has_parameter) = answer(value);
                self.keyboard_parameter = has_parameter;
                self.put(bytes);
            }
        }
    }

    /// What a snapshot must know.
    #[must_use]
    pub fn save(&self) -> I8042State {
        I8042State {
            control: self.control,
            command: self.command,
            keyboard_parameter: self.keyboard_parameter,
            output: self.output.iter().copied().collect(),
        }
    }

    /// Takes a saved state; what can't be in it is left out. The line is pulsed if the guest has something to read: a pulse that was on
    /// its way at the time of the snapshot is not in it.
    pub fn restore(&mut self, state: &I8042State) {
        self.control = state.control & !(SECOND_PORT | TRANSLATE);
        self.command = state.command;
        self.keyboard_parameter = state.keyboard_parameter;
        self.output = state.output.iter().copied().take(MAX_OUTPUT).collect();
        self.interrupt();
    }
}

impl BusDevice for I8042 {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if let [byte] = data {
            *byte = match offset {
                DATA => self.take(),
                COMMAND if self.output.is_empty() => SYSTEM_FLAG | UNLOCKED,
                COMMAND => SYSTEM_FLAG | UNLOCKED | OUTPUT_FULL,
                _ => 0,
            };
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        match (offset, data) {
            (DATA, [value]) => self.take_data(*value),
            (COMMAND, [value]) => self.run(*value),
            _ => {}
        }
    }
}
