//! Writes what a kernel finds in memory beside itself: the device tree.

use vm_memory::{Bytes, GuestAddress};

use crate::GuestRam;
use crate::aarch64::fdt;
use crate::aarch64::kernel::LoadedKernel;
use crate::aarch64::layout::{DEVICE_TREE_BYTES, device_tree};
use crate::board::{Board, BootTablesError, MAX_VCPUS};
use crate::load::in_ram;

/// Longest command line with its zero, in bytes: `COMMAND_LINE_SIZE` in arch/arm64/include/uapi/asm/setup.h.
const COMMAND_LINE_BYTES: usize = 2048;

/// What `set_boot_registers` needs to start a guest whose tables are written.
#[derive(Debug, Clone)]
pub struct BootInfo {
    /// The guest-physical address of the kernel's first instruction.
    pub(crate) entry: u64,
    /// The guest-physical address of the device tree.
    pub(crate) device_tree: u64,
}

impl BootInfo {
    /// The boot vCPU's registers, by their numbers in KVM's interface.
    #[must_use]
    pub const fn registers(&self) -> [(u64, u64); 3] {
        crate::aarch64::registers::boot_registers(self.entry, self.device_tree)
    }
}

/// Writes the device tree to guest memory. The board's RAM must be `ram`.
///
/// # Errors
/// The board can't be described: see [`BootTablesError`].
pub fn write_boot_tables(
    ram: &GuestRam,
    board: &Board<'_>,
    kernel: &LoadedKernel,
) -> Result<BootInfo, BootTablesError> {
    if board.vcpus == 0 || board.vcpus > MAX_VCPUS {
        return Err(BootTablesError::Vcpus { wanted: board.vcpus });
    }
    if board.command_line.len() >= COMMAND_LINE_BYTES {
        return Err(BootTablesError::CommandLineTooLong {
            bytes: board.command_line.len(),
            most: COMMAND_LINE_BYTES - 1,
        });
    }
    if board.command_line.contains('\0') {
        return Err(BootTablesError::CommandLineZero);
    }
    let place = device_tree(board.ram_bytes)
        .filter(|place| place.start >= kernel.end)
        .ok_or(BootTablesError::NoRoom {
            table: "device tree",
            ram_bytes: board.ram_bytes,
            kernel_end: kernel.end,
        })?;
    if let Some(initrd) = &board.initrd {
        let bytes = initrd.end.checked_sub(initrd.start);
        if initrd.end > place.start || bytes.is_none_or(|bytes| !in_ram(ram, initrd.start, bytes, kernel.end)) {
            return Err(BootTablesError::InitrdMisplaced {
                initrd: initrd.clone(),
                kernel_end: kernel.end,
            });
        }
    }
    let tree = fdt::device_tree(board)?;
    if tree.len() as u64 > DEVICE_TREE_BYTES {
        let most = usize::try_from(DEVICE_TREE_BYTES).unwrap_or(0);
        return Err(BootTablesError::TooLarge {
            table: "device tree",
            bytes: tree.len(),
            most,
        });
    }
    ram.write_slice(&tree, GuestAddress(place.start))
        .map_err(|source| BootTablesError::NoRam {
            table: "device tree",
            address: place.start,
            source,
        })?;
    Ok(BootInfo {
        entry: kernel.entry,
        device_tree: place.start,
    })
}
