//! virtio-vsock: streams between the guest and Unix sockets of the host, in Firecracker's way.
//!
//! ```text
//! host -> guest: connect to the VMM's socket, send "CONNECT <port>\n", read "OK <host's port>\n", then talk
//! guest -> host: connect to port P of context id 2; the VMM connects to the socket "<path>_<P>"
//! ```
//! Everything that the guest sends comes in by [`device`]'s parse step; behind it there are only owned headers and copied data.
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

mod accepting;
mod client;
mod connection;
mod connector;
mod credit;
mod deadlines;
mod device;
pub mod fuzzing;
mod metrics;
mod muxer;
mod packet;
mod poller;
mod segments;
mod state;
mod stream;
#[cfg(test)]
mod tests;

pub use connector::{Connector, NoConnector, PathConnector, listen_at};
pub use deadlines::Timeouts;
pub use device::{CreateVsockError, Vsock};
pub use metrics::Metrics;
