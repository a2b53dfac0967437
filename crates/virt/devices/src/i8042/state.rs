//! What a snapshot knows of the controller, and why a key can't be pressed.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The registers, and what the guest has not read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct I8042State {
    /// The control register ("controller configuration byte").
    pub control: u8,
    /// The command whose parameter comes next.
    pub command: Option<u8>,
    /// The keyboard's command has a parameter, which comes next.
    pub keyboard_parameter: bool,
    /// Bytes that the guest has not read.
    pub output: Vec<u8>,
}

/// Why keys can't be pressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PressError {
    /// No driver has switched the keyboard's interrupt on.
    #[error("the guest does not listen to its keyboard")]
    Deaf,
    /// The guest has not read what was pressed before.
    #[error("the guest has not read its keyboard's last bytes")]
    Full,
}
