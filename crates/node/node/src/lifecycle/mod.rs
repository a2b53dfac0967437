//! The transitions of a sandbox, a file for each family.

pub(crate) mod compare;
pub(crate) mod create;
pub(crate) mod kill;
pub(crate) mod list;
pub(crate) mod open;
pub(crate) mod pause;
pub(crate) mod snapshot;
pub(crate) mod start;
mod start_command;
