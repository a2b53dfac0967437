//! The HTTP server over a real socket, with a thread that stands for the VMM and succeeds in everything.
#![expect(clippy::unwrap_used, reason = "a test that can't go on has failed")]

#[path = "server/clients.rs"]
mod clients;
#[path = "server/fake.rs"]
mod fake;
#[path = "server/hostile.rs"]
mod hostile;
#[path = "server/listening.rs"]
mod listening;
#[path = "server/talk.rs"]
mod talk;
