//! Requests as clients send them, and what they are told: exact status and body. The machine behind is one that succeeds in everything.
#![expect(clippy::unwrap_used, reason = "a test that can't go on has failed")]

#[path = "requests/client.rs"]
mod client;
#[path = "requests/config_file.rs"]
mod config_file;
#[path = "requests/hostile.rs"]
mod hostile;
#[path = "requests/never_panics.rs"]
mod never_panics;
#[path = "requests/sequences.rs"]
mod sequences;
#[path = "requests/table.rs"]
mod table;
