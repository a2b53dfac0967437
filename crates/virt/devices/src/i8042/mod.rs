//! The keyboard controller of PCs (Intel 8042), as far as a guest without a keyboard needs it: it resets the machine, and it can press
//! control, alt and delete, by which a Linux guest is asked to shut down.
//!
//! ```text
//! port 0x60: data     guest -> controller's parameter, or the keyboard (which acknowledges)
//! port 0x64: write: command (0xfe: reset -> SystemEvent::Reboot); read: status
//! API -> press_control_alt_delete -> output buffer -> interrupt 1
//! ```

mod controller;
mod keyboard;
mod state;

#[cfg(test)]
mod tests;

pub use controller::I8042;
pub use state::{I8042State, PressError};

/// Ports that the controller takes, from 0x60 on. Those between data and command read as zero.
pub const WINDOW_PORTS: u64 = 5;
