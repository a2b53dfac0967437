//! The last steps before exec, in the order in which each still can be done.

use std::io;

use ringwall_sys::privilege;
use ringwall_sys::process::{Rlimit, set_rlimit};
use thiserror::Error;

/// A step of locking down that failed; the program must not start.
#[derive(Debug, Error)]
#[error("can't {step}")]
pub struct LockdownError {
    /// What was being done.
    pub step: &'static str,
    /// Why it failed.
    #[source]
    pub source: io::Error,
}

/// Wraps an error with the step it came from.
pub fn failed(step: &'static str) -> impl FnOnce(io::Error) -> LockdownError {
    move |source| LockdownError { step, source }
}

/// Drops every capability and sets `no_new_privs`, then makes sure of it: what the kernel says is believed, not what was asked.
///
/// # Errors
/// The step that failed, or the capabilities that are still there.
pub fn drop_privileges() -> Result<(), LockdownError> {
    privilege::no_new_privileges().map_err(failed("set no_new_privs"))?;
    privilege::drop_all_capabilities().map_err(failed("drop capabilities"))?;
    match privilege::has_any_capability() {
        Ok(false) => Ok(()),
        Ok(true) => Err(failed("drop capabilities")(io::Error::other("some are still held"))),
        Err(error) => Err(failed("read capabilities")(error)),
    }
}

/// Sets the resource limits given; core dumps are always off.
///
/// # Errors
/// The limit that could not be set.
pub fn apply_rlimits(limits: &[(Rlimit, u64)]) -> Result<(), LockdownError> {
    set_rlimit(Rlimit::Core, 0).map_err(failed("limit core dumps"))?;
    for &(resource, value) in limits {
        set_rlimit(resource, value).map_err(failed("set a resource limit"))?;
    }
    Ok(())
}
