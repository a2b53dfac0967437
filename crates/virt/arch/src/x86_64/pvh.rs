//! What a PVH kernel is told (`struct hvm_start_info` and its parts, xen/include/public/arch-x86/hvm/start_info.h).

use std::ops::Range;

use crate::x86_64::kernel::MemoryKind;
use crate::x86_64::layout::{COMMAND_LINE, PVH_MEMORY_MAP, PVH_MODULES};

/// `XEN_HVM_START_MAGIC_VALUE`.
const MAGIC: u32 = 0x336e_c578;
/// The first version with a memory map.
const VERSION: u32 = 1;

/// `struct hvm_start_info`.
pub(crate) fn start_info(initrd: bool, memory_map_entries: u32, rsdp: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(56);
    bytes.extend(MAGIC.to_le_bytes());
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend(0_u32.to_le_bytes()); // flags
    bytes.extend(u32::from(initrd).to_le_bytes());
    bytes.extend(if initrd { PVH_MODULES } else { 0 }.to_le_bytes());
    bytes.extend(COMMAND_LINE.to_le_bytes());
    bytes.extend(rsdp.to_le_bytes());
    bytes.extend(PVH_MEMORY_MAP.to_le_bytes());
    bytes.extend(memory_map_entries.to_le_bytes());
    bytes.extend(0_u32.to_le_bytes()); // reserved
    bytes
}

/// `struct hvm_modlist_entry` of an initrd.
pub(crate) fn module(initrd: &Range<u64>) -> Vec<u8> {
    [initrd.start, initrd.end.saturating_sub(initrd.start), 0, 0]
        .iter()
        .flat_map(|field| field.to_le_bytes())
        .collect()
}

/// `struct hvm_memmap_table_entry`, an array of them.
pub(crate) fn memory_map(map: &[(u64, u64, MemoryKind)]) -> Vec<u8> {
    map.iter()
        .flat_map(|(start, bytes, kind)| {
            let mut entry = Vec::with_capacity(24);
            entry.extend(start.to_le_bytes());
            entry.extend(bytes.to_le_bytes());
            entry.extend((*kind as u32).to_le_bytes());
            entry.extend(0_u32.to_le_bytes());
            entry
        })
        .collect()
}
