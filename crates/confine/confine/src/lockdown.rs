//! The last steps before exec, in the order in which each still can be done.

use std::io;

use ringwall_sys::capabilities::{self, Capabilities, Sets};
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

/// Drops every capability but `kept` and sets `no_new_privs`. What is kept passes over execs by the ambient set, whatever the user id; nothing
/// else can come back. To be called with all capabilities of a user namespace in hand.
///
/// # Errors
/// The step that failed, or what the kernel says is held in place of what was asked.
pub fn keep_privileges(kept: Capabilities) -> Result<(), LockdownError> {
    privilege::no_new_privileges().map_err(failed("set no_new_privs"))?;
    capabilities::reduce_bounding_set(kept).map_err(failed("reduce the bounding set"))?;
    let held = Sets::of_this_thread().map_err(failed("read capabilities"))?;
    let inheriting = Sets {
        inheritable: kept,
        ..held
    };
    inheriting.apply().map_err(failed("make capabilities inheritable"))?;
    capabilities::clear_ambient().map_err(failed("clear ambient capabilities"))?;
    // Before the securebits, which forbid it; and those before the rest goes, which is needed to set them.
    capabilities::raise_ambient(kept).map_err(failed("make capabilities ambient"))?;
    privilege::lock_securebits().map_err(failed("lock the securebits"))?;
    let wanted = Sets {
        effective: kept,
        permitted: kept,
        inheritable: kept,
    };
    wanted.apply().map_err(failed("drop capabilities"))?;
    let held = Sets::of_this_thread().map_err(failed("read capabilities"))?;
    let ambient = capabilities::ambient().map_err(failed("read ambient capabilities"))?;
    if (held, ambient) == (wanted, kept) {
        Ok(())
    } else {
        Err(failed("drop capabilities")(io::Error::other(
            "others are held than were asked for",
        )))
    }
}

/// Drops every capability but `kept` and sets `no_new_privs`. What is kept is uid 0's alone, over execs too. To be called by uid 0 with all
/// capabilities of a user namespace in hand.
///
/// # Errors
/// The step that failed, or what the kernel says is held in place of what was asked.
pub fn keep_privileges_of_root(kept: Capabilities) -> Result<(), LockdownError> {
    privilege::no_new_privileges().map_err(failed("set no_new_privs"))?;
    capabilities::reduce_bounding_set(kept).map_err(failed("reduce the bounding set"))?;
    capabilities::clear_ambient().map_err(failed("clear ambient capabilities"))?;
    privilege::leave_capabilities_to_root().map_err(failed("lock the securebits"))?;
    let wanted = Sets {
        effective: kept,
        permitted: kept,
        inheritable: Capabilities::NONE,
    };
    wanted.apply().map_err(failed("drop capabilities"))?;
    let held = Sets::of_this_thread().map_err(failed("read capabilities"))?;
    let ambient = capabilities::ambient().map_err(failed("read ambient capabilities"))?;
    if (held, ambient) == (wanted, Capabilities::NONE) {
        Ok(())
    } else {
        Err(failed("drop capabilities")(io::Error::other(
            "others are held than were asked for",
        )))
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
