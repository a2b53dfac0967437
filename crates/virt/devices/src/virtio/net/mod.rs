//! virtio-net: a network card for the guest (VIRTIO 1.2 §5.1), in front of anything that takes and gives frames.
//!
//! ```text
//! transmit queue -> copied once, header checked -> rate limiter -> Backend::send
//! Backend::receive -> header checked -> rate limiter -> one or more buffers of the receive queue
//!    ^ the back end's descriptor is waited on only while the guest has room: see `receive.rs`
//! ```

mod backend;
mod config;
mod device;
mod header;
mod metrics;
mod receive;
mod state;
mod tap;
#[cfg(test)]
mod tests;
mod transmit;

pub use backend::{Backend, MAX_PACKET_BYTES, Offloads, PACKET_HEADER_BYTES, Segmentation};
pub use config::MacAddress;
pub use device::{MakeNetError, Net, NetOptions};
pub use header::{BadHeader, GsoKind, PacketHeader};
pub use metrics::NetMetrics;
pub use tap::{OpenTapError, Tap};
