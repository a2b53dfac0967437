//! The trait that every tier's implementation has.

use std::error::Error;

use ringwall_types::Tier;

use crate::{Report, RunSpec};

/// Why a tier can't be had for a request on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unavailable {
    /// The tier.
    pub tier: Tier,
    /// Why, and what would help.
    pub why: String,
}

/// Something that can run a command in a tier.
pub trait Backend {
    /// What can go wrong before the command runs.
    type Error: Error;

    /// Returns the tier.
    fn tier(&self) -> Tier;

    /// Runs the command to its end and reports what came of it.
    ///
    /// # Errors
    /// When the command could not be started confined as asked; it has then not run at all.
    fn run(&self, spec: &RunSpec) -> Result<Report, Self::Error>;
}
