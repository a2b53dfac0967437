//! The registers.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::events::{SystemEvent, SystemEvents};
use super::{MAGIC, VERSION};
use crate::bus::BusDevice;

/// Offsets; see the module's table.
const MAGIC_OFFSET: u64 = 0x0;
const VERSION_OFFSET: u64 = 0x4;
const COMMAND_OFFSET: u64 = 0x8;
const ARGUMENT_OFFSET: u64 = 0xc;

/// The system-control device.
#[derive(Debug)]
pub struct SystemControl {
    events: Arc<SystemEvents>,
    argument: u32,
}

/// What a snapshot must know of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SystemControlState {
    /// The argument register.
    pub argument: u32,
}

impl SystemControl {
    /// A device that tells these events.
    #[must_use]
    pub fn new(events: Arc<SystemEvents>) -> Self {
        SystemControl { events, argument: 0 }
    }

    /// What a snapshot must know.
    #[must_use]
    pub fn save(&self) -> SystemControlState {
        SystemControlState {
            argument: self.argument,
        }
    }

    /// Takes a saved state; any is valid.
    pub fn restore(&mut self, state: SystemControlState) {
        self.argument = state.argument;
    }
}

/// The value of a register access, if it has a register's width.
fn value(data: &[u8]) -> Option<u32> {
    match *data {
        [a] => Some(a.into()),
        [a, b] => Some(u16::from_le_bytes([a, b]).into()),
        [a, b, c, d] => Some(u32::from_le_bytes([a, b, c, d])),
        _ => None,
    }
}

impl BusDevice for SystemControl {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let value = match offset {
            MAGIC_OFFSET => MAGIC,
            VERSION_OFFSET => VERSION,
            ARGUMENT_OFFSET => self.argument,
            _ => return,
        };
        if let Ok(data) = <&mut [u8; 4]>::try_from(data) {
            *data = value.to_le_bytes();
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        match (offset, value(data)) {
            (ARGUMENT_OFFSET, Some(value)) => self.argument = value,
            (COMMAND_OFFSET, Some(1)) => self.events.post(SystemEvent::Ready),
            (COMMAND_OFFSET, Some(2)) => self.events.post(SystemEvent::Shutdown { code: self.argument }),
            (COMMAND_OFFSET, Some(3)) => self.events.post(SystemEvent::Reboot),
            (COMMAND_OFFSET, Some(4)) => self.events.post(SystemEvent::Panic { reason: self.argument }),
            _ => {}
        }
    }
}
