//! The system calls for x86_64: what the pure modules decided, said to KVM.

mod check;
mod platform;
mod vcpu;

pub use check::{MissingCapability, check};
pub use platform::{Platform, PlatformError, PlatformOptions};
pub use vcpu::{VcpuError, Warning, set_boot_registers};
