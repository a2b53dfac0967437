//! What a command failed with, as the user is told: what failed, why, what to do next, and the exit code.

use std::error::Error;

/// Exit code for a wrong command line, policy or name.
pub(crate) const USAGE: u8 = 2;
/// Exit code for Ringwall's own failures, as with `docker run` and `env`.
pub(crate) const OWN: u8 = 125;

/// A failed command.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: Box<dyn Error + Send + Sync>,
    pub(crate) hint: Option<String>,
    pub(crate) code: u8,
}

impl Failure {
    pub(crate) fn usage(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Failure {
            error: error.into(),
            hint: None,
            code: USAGE,
        }
    }

    pub(crate) fn own(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Failure {
            error: error.into(),
            hint: None,
            code: OWN,
        }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}
