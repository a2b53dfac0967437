//! The sandboxes of one machine as a service.
//!
//! A request goes: [`Node`] (the trait's methods) -> `lifecycle` (one file for each family of transitions) -> `store` (the transition is
//! written down) -> `keeper` (processes) and `layers` (files). `recover` runs the same transitions to their end after a crash. The node
//! never enters a sandbox: a keeper process holds each one, outlives the node, and is found again by its name's lock.
#![forbid(unsafe_code)]

mod agent;
mod agent_process;
mod base;
mod build;
mod clock;
mod config;
mod ids;
mod images;
mod keeper;
mod layers;
mod lifecycle;
mod live;
mod logs;
mod metrics;
mod node;
mod pool;
mod record;
mod recover;
mod store;
mod templates;
mod timer;

pub use config::{Config, StartNodeError};
pub use keeper::run_keeper;
pub use node::{KeyInfo, Keys, Node};
