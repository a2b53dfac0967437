//! The metadata service of a virtual machine (Firecracker's MMDS), as the guest sees it: a web server at a link-local address behind its
//! network card, which is not on any network.
//!
//! ```text
//! guest's frame -> Detour::send -- for the address? -- no --> the card's real back end
//!                                   | yes: frame.rs
//!                                   v
//!                      Stack (ARP, IPv4, TCP) -> Connection -> Request -> Service -> Response -> frames
//!                                                                            |          |
//!                                               metadata, tokens <-----------+          v
//!                              the card <- Detour::receive <- frames wait here, before those of the real back end
//! ```
//!
//! Everything that a guest can make this crate keep is bounded: connections, their buffers, frames that wait, answers that are not taken,
//! and the time that a connection may take for each step. Nothing is logged for what a guest does.
#![cfg_attr(not(test), warn(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

mod alarm;
mod connection;
mod detour;
mod frame;
#[cfg(any(test, feature = "testing"))]
pub mod fuzzing;
mod link;
mod request;
mod response;
mod service;
mod stack;
#[cfg(test)]
mod tests;
mod token;

pub use detour::{Detour, MakeDetourError};
pub use service::Service;
