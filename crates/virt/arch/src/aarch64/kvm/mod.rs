//! The system calls for aarch64: what the pure modules decided, said to KVM.

mod check;
mod device;
mod gic;
mod gic_state;
mod its_state;
mod platform;
mod probe;
mod state;
mod time;
mod vcpu;

pub use crate::host::{MissingCapability, Warning};
pub use check::check;
pub use platform::{Platform, PlatformError, PlatformOptions};
pub use probe::fingerprint;
pub use state::{PlatformState, VcpuState};
pub use vcpu::{VcpuError, set_boot_registers, tell_of_pause};
