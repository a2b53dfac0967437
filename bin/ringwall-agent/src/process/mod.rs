//! The service `process.Process`: commands and terminals.
//!
//! `rpc` reads requests, `start` decides what to run, `spawn` runs it, `live` is a running process with those who listen, `pump` carries
//! its output, `table` knows them all.

mod ending;
mod input;
mod live;
pub(crate) mod oom;
mod pump;
pub(crate) mod rpc;
mod spawn;
mod start;
pub(crate) mod table;
