//! Counts the durable steps of an operation, so that a test can end it after any of them as `kill -9` would.

use thiserror::Error;

/// The operation was to end here.
#[derive(Debug, Error)]
#[error("interrupted by a test")]
pub(crate) struct Interrupted;

/// How many more steps may be taken.
#[derive(Debug)]
pub(crate) struct Steps {
    left: Option<usize>,
}

impl Steps {
    /// Allows `limit` steps, or any number.
    pub(crate) fn new(limit: Option<usize>) -> Self {
        Steps { left: limit }
    }

    /// Called before each durable step.
    pub(crate) fn tick(&mut self) -> Result<(), Interrupted> {
        match &mut self.left {
            None => Ok(()),
            Some(0) => Err(Interrupted),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
        }
    }
}
