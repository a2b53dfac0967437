//! What keeps a command from being run.

use std::io;

use ringwall_layer::CreateCaptureError;
use ringwall_types::{SandboxName, Tier};
use thiserror::Error;

use crate::plan::PlanError;
use crate::state::OpenStateError;

/// A run that did not start, or whose keeper failed.
#[derive(Debug, Error)]
pub enum RunError {
    /// The request can't be met as asked.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The state directory can't be used.
    #[error(transparent)]
    State(#[from] OpenStateError),
    /// The layer for captured writes can't be made.
    #[error("can't prepare the layer for captured writes")]
    Layer(#[from] CreateCaptureError),
    /// The sandbox's first process failed before the command ran.
    #[error("can't start the command: {0}")]
    Setup(String),
    /// The tier can't be had on this machine.
    #[error("the {tier} tier is not available here: {why}")]
    Unavailable {
        /// The tier.
        tier: Tier,
        /// Why.
        why: String,
    },
    /// No tier that is acceptable can be had.
    #[error("no acceptable tier is available: {first}; and {second}")]
    NoTier {
        /// Why not the strongest.
        first: Box<RunError>,
        /// Why not the next.
        second: Box<RunError>,
    },
    /// The name's changes belong elsewhere or are in the middle of something.
    #[error("can't continue in {name}: {why}")]
    Continue {
        /// The name.
        name: SandboxName,
        /// Why.
        why: String,
    },
    /// A system call of the keeper failed.
    #[error("can't {step}")]
    Keeper {
        /// What was being done.
        step: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

/// Wraps an error with what was being done.
pub(crate) fn keeper(step: &'static str) -> impl FnOnce(io::Error) -> RunError {
    move |source| RunError::Keeper { step, source }
}
