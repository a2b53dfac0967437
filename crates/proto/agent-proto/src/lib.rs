//! The envd protocol that E2B clients speak to the agent in a sandbox: messages, framing, errors and URL signatures.
//!
//! Pure: bytes in, owned values out. Both ends use it (the agent, and the server that drives it), so every message can be read and written.
#![cfg_attr(not(test), warn(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

pub mod code;
pub mod disposition;
pub mod envelope;
pub mod filesystem;
mod json;
pub mod process;
pub mod rest;
pub mod signature;

pub use code::{Code, RpcError};
pub use envelope::{Decoder, Envelope, EnvelopeError};

/// Largest message of an RPC in bytes, in either framing.
pub const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;
