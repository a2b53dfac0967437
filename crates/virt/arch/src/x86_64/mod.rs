//! x86_64.

pub mod layout;

mod boot_tables;
mod cpuid;
mod elf;
mod gdt;
mod kernel;
mod msrs;
mod pvh;
mod registers;

#[cfg(target_arch = "x86_64")]
mod kvm;

pub use boot_tables::{BootInfo, write_boot_tables};
pub use cpuid::CpuidEntry;
pub use kernel::{BootProtocol, LoadedKernel, load_initrd, load_kernel};
#[cfg(target_arch = "x86_64")]
pub use kvm::*;
