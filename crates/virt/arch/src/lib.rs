//! What differs between x86_64 and aarch64 in a virtual machine.
//!
//! Both architectures are modules with the same names inside: memory layout, kernel and initrd loaders, the tables that firmware would
//! have left, boot registers. All of that is pure: it is compiled and tested on every host. What needs KVM is in their `kvm` folders and
//! exists only for the host's own architecture; [`native`] picks it, here and nowhere else.
//!
//! How a virtual machine is put together (the same on both):
//!
//! ```text
//! check(kvm) -> create_vm -> Platform::create -> memory slots -> create_vcpu × n -> Platform::prepare_vcpu × n -> Platform::finish
//!   boot:     load_kernel, load_initrd, write_boot_tables -> set_boot_registers (boot vCPU) -> run
//!   restore:  guest memory in place -> Platform::restore_vcpu × n -> Platform::restore -> Platform::restore_time -> run
//!   save:     all vCPUs stopped -> Platform::save_vcpu × n -> Platform::save -> guest memory (aarch64's ITS writes tables into it)
//! ```

mod architecture;
mod board;
#[cfg_attr(
    not(target_arch = "x86_64"),
    allow(dead_code, reason = "each architecture uses a part of it")
)]
mod clock;
mod fingerprint;
mod host;
mod load;
mod memory;
mod state;

// What only system calls of the same architecture use is compiled and tested elsewhere too, and dead there.
#[cfg_attr(
    not(target_arch = "aarch64"),
    allow(dead_code, reason = "used by this architecture's system calls")
)]
pub mod aarch64;
#[cfg_attr(
    not(target_arch = "x86_64"),
    allow(dead_code, reason = "used by this architecture's system calls")
)]
pub mod x86_64;

#[cfg(target_arch = "aarch64")]
pub use aarch64 as native;
#[cfg(target_arch = "x86_64")]
pub use x86_64 as native;

pub use architecture::Architecture;
pub use board::{Board, BootTablesError, GicDescription, GicVersion, MmioSlot, PageSlot, PortSlot, Reachable};
pub use fingerprint::Fingerprint;
pub use host::{MissingCapability, Warning};
pub use load::{KernelFile, LoadInitrdError, LoadKernelError};
pub use memory::{GuestRam, MapMemoryError, anonymous_ram};
