//! What a VMM is told and what it says: the public HTTP API of Firecracker (1.10 to 1.13) as checked values.
//!
//! ```text
//! method, path, body --parse--> Request{Action} --Controller::decide--> Answered(Answer)
//!                        |                            |
//!                  RequestError -> Fault <------------+---> Perform(Command) -- the VMM does it --> Controller::settle
//! ```
//!
//! Pure: no I/O, no KVM. Bytes of a client become owned, checked values here and nowhere else; nothing past [`parse()`] sees JSON.
//! The values hold on every architecture; what an architecture lacks is refused by the [`Controller`].
#![cfg_attr(not(test), warn(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

pub mod action;
pub mod answer;
pub mod architecture;
pub mod balloon;
pub mod boot_source;
pub mod config_file;
pub mod controller;
pub mod cpu;
pub mod drive;
pub mod entropy;
pub mod error;
pub mod fault;
pub mod full_config;
pub mod instance;
mod json;
pub mod logger;
pub mod machine;
pub mod metrics;
pub mod mmds;
pub mod mmds_store;
pub mod name;
pub mod network;
pub mod parse;
pub mod path;
pub mod rate_limiter;
pub mod resources;
pub mod serial;
pub mod snapshot;
pub mod state;
pub mod vsock;

pub use action::{Action, Need};
pub use answer::{Answer, Rendered, render};
pub use architecture::Architecture;
pub use balloon::{BalloonConfig, BalloonStatistics, BalloonStatisticsUpdate, BalloonUpdate};
pub use boot_source::BootSource;
pub use config_file::{ConfigFile, ConfigFileError};
pub use controller::{Command, Controller, Decision, RefusedError};
pub use cpu::CpuTemplate;
pub use drive::{CacheType, Drive, DriveUpdate, IoEngine};
pub use entropy::Entropy;
pub use error::{RequestError, ValueError};
pub use fault::{Fault, FaultStatus};
pub use full_config::FullConfig;
pub use instance::{InstanceId, InstanceInfo};
pub use logger::{Level, Logger};
pub use machine::{HugePages, MachineConfig, MachineUpdate, MemoryMib, VcpuCount};
pub use metrics::Metrics;
pub use mmds::{MmdsConfig, MmdsVersion};
pub use mmds_store::MmdsStore;
pub use name::ResourceId;
pub use network::{DeviceName, MacAddress, Mtu, NetworkInterface, NetworkUpdate};
pub use parse::{Method, Request, parse};
pub use path::{HostPath, MAX_DESCRIPTOR, MIN_DESCRIPTOR, Place, SocketPath};
pub use rate_limiter::{BucketUpdate, RateLimiter, TokenBucket};
pub use resources::{ConfigureError, Resources};
pub use serial::Serial;
pub use snapshot::{CreateSnapshot, DriveOverride, LoadSnapshot, MemoryBackend, NetworkOverride, SnapshotKind};
pub use state::VmState;
pub use vsock::Vsock;

/// Largest request body in bytes if nobody says otherwise (Firecracker, `--http-api-max-payload-size`).
pub const DEFAULT_BODY_BYTES: usize = 51_200;

/// The version of Firecracker whose API this is; clients read it from `GET /version` and choose fields by it.
pub const API_VERSION: &str = "1.13.0";
