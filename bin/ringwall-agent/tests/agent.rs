//! Drives the real agent over its sockets, as a client would.
#![expect(clippy::unwrap_used, reason = "in helpers of tests a panic is the answer")]

#[path = "agent/access.rs"]
mod access;
#[path = "agent/files.rs"]
mod files;
#[path = "agent/filesystem.rs"]
mod filesystem;
#[path = "agent/framing.rs"]
mod framing;
#[path = "agent/life.rs"]
mod life;
#[path = "agent/ports.rs"]
mod ports;
#[path = "agent/process.rs"]
mod process;
#[path = "agent/sandbox.rs"]
mod sandbox;
#[path = "agent/users.rs"]
mod users;
