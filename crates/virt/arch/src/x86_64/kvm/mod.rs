//! The system calls for x86_64: what the pure modules decided, said to KVM.

mod check;
mod platform;
mod probe;
mod restore;
mod save;
mod state;
mod time;
mod vcpu;
mod xsave;

pub use crate::host::{MissingCapability, Warning};
pub use check::check;
pub use platform::{Platform, PlatformError, PlatformOptions};
pub use probe::fingerprint;
pub use restore::tell_of_pause;
pub use state::{PlatformState, VcpuState};
pub use vcpu::{VcpuError, set_boot_registers};
