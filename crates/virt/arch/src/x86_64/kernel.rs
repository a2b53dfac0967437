//! Loading a kernel and its initrd, whichever of the known formats the kernel has.

use std::ops::Range;

use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

use crate::GuestRam;
use crate::load::{KernelFile, LoadInitrdError, LoadKernelError, Source, initrd_into};

use crate::x86_64::layout::{GAP_START, HIGH_MEMORY, LOW_MEMORY_END, ram_regions};
use crate::x86_64::{bzimage, elf};

/// How a kernel is entered and told of its machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BootProtocol {
    /// In 32-bit protected mode with `hvm_start_info` in EBX (Xen's docs/misc/pvh.pandoc).
    Pvh,
    /// In long mode with `boot_params` in RSI (Documentation/arch/x86/boot.rst, "64-bit Boot Protocol").
    Linux64 {
        /// The setup header of a bzImage, from offset 0x1f1 of the file; none for ELF.
        setup: Option<Vec<u8>>,
    },
}

/// A kernel in guest memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedKernel {
    /// The guest-physical address of its first instruction.
    pub entry: u64,
    /// The lowest guest-physical address that it occupies.
    pub start: u64,
    /// The first guest-physical address past what it occupies, including what it needs to unpack itself.
    pub end: u64,
    /// How it is entered.
    pub protocol: BootProtocol,
    /// Below which address the initrd has to end, if the kernel says so.
    pub initrd_end: Option<u64>,
}

/// Loads a kernel from a file of `length` bytes: ELF (by its PVH note, or else by the 64-bit protocol) or bzImage.
///
/// Guest memory must be fresh (zero): what a segment has beyond its bytes in the file is not written.
///
/// # Errors
/// The file is not a kernel for this architecture, is malformed, or does not fit into RAM above 1 MiB.
pub fn load_kernel(ram: &GuestRam, file: &mut impl KernelFile, length: u64) -> Result<LoadedKernel, LoadKernelError> {
    let mut source = Source::new(file, length);
    let magic: [u8; 4] = source.array("magic", 0)?;
    if magic == elf::MAGIC {
        return elf::load(ram, &mut source);
    }
    // A file too short for the header is no bzImage; that is said below.
    if source
        .array("setup header", bzimage::MAGIC_AT)
        .is_ok_and(|magic: [u8; 4]| magic == bzimage::MAGIC)
    {
        return bzimage::load(ram, &mut source);
    }
    let is_arm = source
        .array("Image header", ARM_MAGIC_AT)
        .is_ok_and(|magic: [u8; 4]| magic == ARM_MAGIC);
    Err(LoadKernelError::UnknownFormat {
        architecture: "x86_64",
        found: if is_arm {
            "an Image of aarch64"
        } else {
            describe(&magic)
        },
    })
}

/// Where an arm64 Image has its magic, and which (Documentation/arch/arm64/booting.rst): only to say so.
const ARM_MAGIC_AT: u64 = 56;
/// Likewise.
const ARM_MAGIC: [u8; 4] = *b"ARM\x64";

/// Says what a file without a known magic could be.
const fn describe(magic: &[u8; 4]) -> &'static str {
    match magic {
        [0x1f, 0x8b, ..] => "a gzip file; unpack it first",
        [0x28, 0xb5, 0x2f, 0xfd] => "a zstd file; unpack it first",
        [b'M', b'Z', ..] => "a PE file without Linux's setup header",
        _ => "neither ELF nor bzImage",
    }
}

/// Loads an initrd of `length` bytes to the top of low RAM, and says where it is.
///
/// # Errors
/// It is empty, can't be read, or does not fit between the kernel and the end of low RAM.
pub fn load_initrd(
    ram: &GuestRam,
    file: &mut impl KernelFile,
    length: u64,
    kernel: &LoadedKernel,
) -> Result<Range<u64>, LoadInitrdError> {
    let low_end = low_ram_end(ram);
    let end = kernel.initrd_end.map_or(low_end, |end| end.min(low_end));
    initrd_into(ram, file, length, kernel.end..end)
}

/// Where RAM below the gap ends.
fn low_ram_end(ram: &GuestRam) -> u64 {
    ram.iter()
        .map(|region| region.last_addr().0.saturating_add(1))
        .filter(|end| *end <= GAP_START)
        .max()
        .unwrap_or(0)
}

/// The memory map of a board with this much RAM: `(start, bytes, what for)` in order.
pub(crate) fn memory_map(ram_bytes: u64) -> Vec<(u64, u64, MemoryKind)> {
    let mut map = vec![
        (0, LOW_MEMORY_END, MemoryKind::Ram),
        (LOW_MEMORY_END, HIGH_MEMORY - LOW_MEMORY_END, MemoryKind::Reserved),
    ];
    for (start, bytes) in ram_regions(ram_bytes) {
        let begin = start.0.max(HIGH_MEMORY);
        let end = start.0.saturating_add(bytes);
        if end > begin {
            map.push((begin, end - begin, MemoryKind::Ram));
        }
    }
    map
}

/// What a range of the memory map is for. The numbers are those of BIOS e820 (ACPI 6.5 §15), which PVH uses too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MemoryKind {
    /// Free to use.
    Ram = 1,
    /// Not to be touched unless told to.
    Reserved = 2,
}
