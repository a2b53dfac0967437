//! x86_64.

pub mod layout;

mod acpi;
mod boot_tables;
mod bzimage;
mod cpuid;
mod elf;
mod features;
mod gdt;
mod kernel;
mod msrs;
mod page_tables;
mod pvh;
mod registers;
mod zero_page;

#[cfg(target_arch = "x86_64")]
mod kvm;

pub use boot_tables::{BootInfo, write_boot_tables};
pub use cpuid::CpuidEntry;
pub use kernel::{BootProtocol, LoadedKernel, load_initrd, load_kernel};
#[cfg(target_arch = "x86_64")]
pub use kvm::*;
