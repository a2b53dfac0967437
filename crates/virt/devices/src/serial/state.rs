//! What a snapshot knows of a serial port.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The registers and the input that the guest has not read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SerialState {
    /// Divisor latch, low byte.
    pub divisor_low: u8,
    /// Divisor latch, high byte.
    pub divisor_high: u8,
    /// Interrupt enable register.
    pub interrupt_enable: u8,
    /// Interrupt identification register.
    pub interrupt_identification: u8,
    /// Line control register.
    pub line_control: u8,
    /// Line status register.
    pub line_status: u8,
    /// Modem control register.
    pub modem_control: u8,
    /// Modem status register.
    pub modem_status: u8,
    /// Scratch register.
    pub scratch: u8,
    /// The receiver's FIFO.
    pub input: Vec<u8>,
}

/// Why a saved serial port can't be restored.
#[derive(Debug, Error)]
pub enum RestoreSerialError {
    /// More input than the FIFO holds.
    #[error("the saved serial port has {bytes} bytes of input, more than its FIFO holds")]
    TooMuchInput {
        /// How many.
        bytes: usize,
    },
    /// The interrupt line.
    #[error("cannot interrupt")]
    Interrupt(#[source] std::io::Error),
}

impl From<vm_superio::SerialState> for SerialState {
    fn from(state: vm_superio::SerialState) -> Self {
        SerialState {
            divisor_low: state.baud_divisor_low,
            divisor_high: state.baud_divisor_high,
            interrupt_enable: state.interrupt_enable,
            interrupt_identification: state.interrupt_identification,
            line_control: state.line_control,
            line_status: state.line_status,
            modem_control: state.modem_control,
            modem_status: state.modem_status,
            scratch: state.scratch,
            input: state.in_buffer,
        }
    }
}

impl From<SerialState> for vm_superio::SerialState {
    fn from(state: SerialState) -> Self {
        vm_superio::SerialState {
            baud_divisor_low: state.divisor_low,
            baud_divisor_high: state.divisor_high,
            interrupt_enable: state.interrupt_enable,
            interrupt_identification: state.interrupt_identification,
            line_control: state.line_control,
            line_status: state.line_status,
            modem_control: state.modem_control,
            modem_status: state.modem_status,
            scratch: state.scratch,
            in_buffer: state.input,
        }
    }
}
