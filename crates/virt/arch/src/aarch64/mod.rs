//! aarch64.

pub mod layout;

mod boot_tables;
mod fdt;
mod gic;
mod image;
mod kernel;
mod registers;

#[cfg(target_arch = "aarch64")]
mod kvm;

pub use boot_tables::{BootInfo, write_boot_tables};
pub use kernel::{LoadedKernel, load_initrd, load_kernel};
#[cfg(target_arch = "aarch64")]
pub use kvm::*;
