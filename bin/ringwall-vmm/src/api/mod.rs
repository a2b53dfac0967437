//! The HTTP server on a Unix socket: Firecracker's API as bytes.
//!
//! ```text
//! client --> listener --> connection (bytes to requests) --parse--> link --(channel, eventfd)--> the VMM's thread
//!    ^                                                                |                                 |
//!    '------- connection (answer to bytes) <----------- wait <--------'<------- Result<Answer, Fault> --'
//! ```
//!
//! One thread, one poll loop, no async runtime. Clients are served side by side; what they ask of the VMM is done one at a time, in the order in
//! which requests became complete. A client can make the server wait for nothing: every read and write is non-blocking and has a deadline.

mod connection;
mod events;
pub mod fuzzing;
mod head;
mod link;
mod listener;
mod needs;
mod response;
mod server;

pub use events::{Event, EventLog};
pub use link::{ApiRequest, Link, LinkError};
pub use listener::{ListenError, Listener};
pub use needs::{UnmetNeedError, check_needs};
pub use server::{Limits, Server, ServerHandle, StartServerError, Stopper};
