//! Loading a kernel and its initrd.

use std::ops::Range;

use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

use crate::GuestRam;
use crate::aarch64::image;
use crate::aarch64::layout::{RAM_START, device_tree};
use crate::load::{KernelFile, LoadInitrdError, LoadKernelError, Source, initrd_into};

/// A kernel in guest memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedKernel {
    /// The guest-physical address of its first instruction.
    pub entry: u64,
    /// The lowest guest-physical address that it occupies.
    pub start: u64,
    /// The first guest-physical address past what it occupies.
    pub end: u64,
}

/// Loads a kernel from a file of `length` bytes: an arm64 Image, or one compressed with gzip.
///
/// Guest memory must be fresh (zero): what the kernel has beyond its bytes in the file is not written.
///
/// # Errors
/// The file is not a kernel for this architecture, is malformed, or does not fit into RAM.
pub fn load_kernel(ram: &GuestRam, file: &mut impl KernelFile, length: u64) -> Result<LoadedKernel, LoadKernelError> {
    image::load(ram, &mut Source::new(file, length))
}

/// Loads an initrd of `length` bytes right below the place of the device tree, and says where it is.
///
/// # Errors
/// It is empty, can't be read, or does not fit between the kernel and the device tree.
pub fn load_initrd(
    ram: &GuestRam,
    file: &mut impl KernelFile,
    length: u64,
    kernel: &LoadedKernel,
) -> Result<Range<u64>, LoadInitrdError> {
    let end = device_tree(ram_bytes(ram)).map_or(kernel.end, |tree| tree.start);
    initrd_into(ram, file, length, kernel.end..end)
}

/// How much RAM there is, in bytes.
fn ram_bytes(ram: &GuestRam) -> u64 {
    ram.iter()
        .find(|region| region.start_addr().0 == RAM_START)
        .map_or(0, GuestMemoryRegion::len)
}
