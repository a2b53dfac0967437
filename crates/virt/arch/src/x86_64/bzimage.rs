//! bzImage kernels (Documentation/arch/x86/boot.rst): the protected-mode part is loaded where the kernel prefers to be, and entered at
//! its 64-bit entry. It unpacks itself, so it needs more room than its bytes.

use crate::GuestRam;
use crate::load::{KernelFile, LoadKernelError, Source, le_u16, le_u32, le_u64, require_ram};
use crate::x86_64::kernel::{BootProtocol, LoadedKernel};
use crate::x86_64::layout::{COMMAND_LINE_BYTES, HIGH_MEMORY};
use crate::x86_64::zero_page::{SETUP_HEADER, SETUP_HEADER_END};

/// Offset of the header's magic, "HdrS".
pub(crate) const MAGIC_AT: u64 = 0x202;
/// Where the header ends is told by the jump before the magic, counted from here.
const JUMP_FROM: usize = 0x202;
pub(crate) const MAGIC: [u8; 4] = *b"HdrS";

/// The first protocol with `xloadflags` (Linux 3.8): older kernels have no 64-bit entry that is told.
const OLDEST_VERSION: u16 = 0x020c;
/// `XLF_KERNEL_64`: there is a 64-bit entry, 0x200 past the beginning.
const KERNEL_64: u16 = 1;
const ENTRY_OFFSET: u64 = 0x200;
/// `LOADED_HIGH`: it wants to be at 1 MiB or above, as every bzImage does.
const LOADED_HIGH: u8 = 1;
/// The boot sector's flag.
const BOOT_FLAG: u16 = 0xaa55;
/// A sector, the unit of `setup_sects`.
const SECTOR_BYTES: u64 = 512;
/// What `setup_sects` of 0 means.
const DEFAULT_SETUP_SECTORS: u8 = 4;

/// Header fields, by their offset in the file.
const SETUP_SECTS: usize = 0x1f1;
const BOOT_FLAG_AT: usize = 0x1fe;
const JUMP: usize = 0x201;
const VERSION: usize = 0x206;
const LOADFLAGS: usize = 0x211;
const INITRD_ADDR_MAX: usize = 0x22c;
const KERNEL_ALIGNMENT: usize = 0x230;
const RELOCATABLE: usize = 0x234;
const XLOADFLAGS: usize = 0x236;
const CMDLINE_SIZE: usize = 0x238;
const PREF_ADDRESS: usize = 0x258;
const INIT_SIZE: usize = 0x260;

/// Loads a bzImage.
pub(crate) fn load<F: KernelFile>(ram: &GuestRam, source: &mut Source<'_, F>) -> Result<LoadedKernel, LoadKernelError> {
    let head: [u8; SETUP_HEADER_END] = source.array("setup header", 0)?;
    check(&head)?;
    let sectors = match head.get(SETUP_SECTS).copied().unwrap_or(0) {
        0 => DEFAULT_SETUP_SECTORS,
        sectors => sectors,
    };
    let offset = (u64::from(sectors) + 1) * SECTOR_BYTES;
    let bytes = source
        .length()
        .checked_sub(offset)
        .filter(|bytes| *bytes > ENTRY_OFFSET)
        .ok_or(LoadKernelError::Truncated {
            part: "protected-mode kernel",
            offset,
            wanted: ENTRY_OFFSET,
            length: source.length(),
        })?;
    // What it needs from its address on until it has unpacked itself, its own bytes included.
    let needed = u64::from(le_u32(&head, INIT_SIZE)).max(bytes);
    let address = address(ram, &head, needed)?;
    require_ram(ram, "bzImage", address, needed, HIGH_MEMORY)?;
    source.copy("protected-mode kernel", offset, bytes, ram, address)?;
    Ok(LoadedKernel {
        entry: address.saturating_add(ENTRY_OFFSET),
        start: address,
        end: address.saturating_add(needed),
        protocol: BootProtocol::Linux64 {
            setup: Some(header(&head)),
        },
        initrd_end: Some(u64::from(le_u32(&head, INITRD_ADDR_MAX)).saturating_add(1)),
    })
}

/// Where the kernel goes: where it prefers to be, or, if it can be moved and there is no RAM, as low as its alignment lets it.
fn address(ram: &GuestRam, head: &[u8; SETUP_HEADER_END], needed: u64) -> Result<u64, LoadKernelError> {
    let preferred = le_u64(head, PREF_ADDRESS);
    let relocatable = head.get(RELOCATABLE).is_some_and(|flag| *flag != 0);
    if !relocatable || crate::load::in_ram(ram, preferred, needed, HIGH_MEMORY) {
        return Ok(preferred);
    }
    let alignment = le_u32(head, KERNEL_ALIGNMENT);
    if !alignment.is_power_of_two() {
        return Err(LoadKernelError::BadField {
            field: "kernel_alignment",
            value: alignment.into(),
            reason: "not a power of two",
        });
    }
    Ok(HIGH_MEMORY.next_multiple_of(alignment.into()))
}

fn check(head: &[u8; SETUP_HEADER_END]) -> Result<(), LoadKernelError> {
    let bad = |field, value: u64, reason| Err(LoadKernelError::BadField { field, value, reason });
    let flag = le_u16(head, BOOT_FLAG_AT);
    if flag != BOOT_FLAG {
        return bad("boot_flag", flag.into(), "not 0xaa55");
    }
    let version = le_u16(head, VERSION);
    if version < OLDEST_VERSION {
        return bad("version", version.into(), "older than 2.12 (Linux 3.8)");
    }
    let loadflags = head.get(LOADFLAGS).copied().unwrap_or(0);
    if loadflags & LOADED_HIGH == 0 {
        return bad("loadflags", loadflags.into(), "a zImage");
    }
    let xloadflags = le_u16(head, XLOADFLAGS);
    if xloadflags & KERNEL_64 == 0 {
        return bad("xloadflags", xloadflags.into(), "no 64-bit entry");
    }
    let command_line = le_u32(head, CMDLINE_SIZE);
    if u64::from(command_line) + 1 < COMMAND_LINE_BYTES as u64 {
        return bad("cmdline_size", command_line.into(), "shorter than 2047");
    }
    Ok(())
}

/// The setup header as the kernel wants it back: from `setup_sects` to where its jump says that it ends.
fn header(head: &[u8; SETUP_HEADER_END]) -> Vec<u8> {
    let end = JUMP_FROM + usize::from(head.get(JUMP).copied().unwrap_or(0));
    head.get(SETUP_HEADER..end.min(SETUP_HEADER_END))
        .unwrap_or_default()
        .to_vec()
}

#[cfg(test)]
mod tests;
