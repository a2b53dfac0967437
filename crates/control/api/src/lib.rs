//! The HTTP service. One listener serves both planes: the control plane (E2B's REST API; a key says whose sandboxes it is about) and the
//! data plane (what goes on inside a sandbox; the sandbox's own token is the proof of right).
//!
//! A request goes: [`serve`] (connections, time limits; [`Tls`] where it is on) -> `dispatch` (which plane, which sandbox) -> `routes` (control: parse, ask the
//! [`ringwall_sandbox::service::SandboxService`], answer) or `proxy` (data: a connection into the sandbox, bytes passed on as they come).
#![forbid(unsafe_code)]

mod app;
mod caller;
mod dispatch;
mod dto;
mod error;
mod filter;
pub mod hop;
mod limits;
mod listen;
mod measure;
mod openapi;
mod proxy;
mod routes;
mod scheme;
mod serve;
mod tls;

pub use app::{ApiConfig, App};
#[doc(hidden)]
pub use filter::parse_metadata as fuzz_metadata_filter;
pub use listen::Listener;
pub use openapi::document as openapi_document;
pub use serve::serve;
pub use tls::{LoadTlsError, Tls};
