//! Writes everything that a kernel finds in memory beside itself.

use vm_memory::{Bytes, GuestAddress};

use crate::GuestRam;
use crate::board::{Board, BootTablesError, MAX_VCPUS};
use crate::load::in_ram;
use crate::x86_64::gdt::{FLAT_32, FLAT_64};
use crate::x86_64::kernel::{BootProtocol, LoadedKernel, memory_map};
use crate::x86_64::layout::{ACPI_BYTES, ACPI_TABLES, PAGE_TABLES, ZERO_PAGE};
use crate::x86_64::layout::{COMMAND_LINE, COMMAND_LINE_BYTES, GDT, IDT, PVH_MEMORY_MAP, PVH_MODULES, PVH_START_INFO};
use crate::x86_64::registers::{BootRegisters, boot_registers};
use crate::x86_64::{acpi, page_tables, pvh, zero_page};

/// What `set_boot_registers` needs to start a guest whose tables are written.
#[derive(Debug, Clone)]
pub struct BootInfo {
    pub(crate) registers: BootRegisters,
}

/// Writes the tables that the kernel's protocol wants, and ACPI's, to guest memory. The board's RAM must be `ram`.
///
/// # Errors
/// The board can't be described: see [`BootTablesError`].
pub fn write_boot_tables(
    ram: &GuestRam,
    board: &Board<'_>,
    kernel: &LoadedKernel,
) -> Result<BootInfo, BootTablesError> {
    check(ram, board, kernel)?;
    let rsdp = write_acpi(ram, board)?;
    write_command_line(ram, board.command_line)?;
    let segments = if kernel.protocol == BootProtocol::Pvh {
        FLAT_32
    } else {
        FLAT_64
    };
    let table: Vec<u8> = segments
        .table()
        .iter()
        .flat_map(|descriptor| descriptor.to_le_bytes())
        .collect();
    write(ram, "GDT", GDT, &table)?;
    write(ram, "IDT", IDT, &[0; 8])?;
    match &kernel.protocol {
        BootProtocol::Pvh => write_pvh(ram, board, rsdp)?,
        BootProtocol::Linux64 { setup } => {
            let page = zero_page::boot_params(
                setup.as_deref(),
                &memory_map(board.ram_bytes),
                board.initrd.as_ref(),
                rsdp,
            );
            write(ram, "boot_params", ZERO_PAGE, &page)?;
            write(ram, "page tables", PAGE_TABLES, &page_tables::identity())?;
        }
    }
    Ok(BootInfo {
        registers: boot_registers(kernel),
    })
}

fn check(ram: &GuestRam, board: &Board<'_>, kernel: &LoadedKernel) -> Result<(), BootTablesError> {
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
    if let Some(initrd) = &board.initrd {
        let bytes = initrd.end.checked_sub(initrd.start);
        if bytes.is_none_or(|bytes| !in_ram(ram, initrd.start, bytes, kernel.end)) {
            return Err(BootTablesError::InitrdMisplaced {
                initrd: initrd.clone(),
                kernel_end: kernel.end,
            });
        }
    }
    Ok(())
}

fn write_command_line(ram: &GuestRam, command_line: &str) -> Result<(), BootTablesError> {
    let mut bytes = command_line.as_bytes().to_vec();
    bytes.push(0);
    write(ram, "command line", COMMAND_LINE, &bytes)
}

/// Writes the ACPI tables and says where their root is.
fn write_acpi(ram: &GuestRam, board: &Board<'_>) -> Result<u64, BootTablesError> {
    let tables = acpi::tables(board, ACPI_TABLES)?;
    if tables.len() > ACPI_BYTES {
        return Err(BootTablesError::TooLarge {
            table: "ACPI tables",
            bytes: tables.len(),
            most: ACPI_BYTES,
        });
    }
    write(ram, "ACPI tables", ACPI_TABLES, &tables)?;
    Ok(ACPI_TABLES)
}

fn write_pvh(ram: &GuestRam, board: &Board<'_>, rsdp: u64) -> Result<(), BootTablesError> {
    let map = memory_map(board.ram_bytes);
    let entries = u32::try_from(map.len()).unwrap_or(0); // three or four
    write(
        ram,
        "PVH start info",
        PVH_START_INFO,
        &pvh::start_info(board.initrd.is_some(), entries, rsdp),
    )?;
    write(ram, "PVH memory map", PVH_MEMORY_MAP, &pvh::memory_map(&map))?;
    if let Some(initrd) = &board.initrd {
        write(ram, "PVH modules", PVH_MODULES, &pvh::module(initrd))?;
    }
    Ok(())
}

/// Writes a table.
pub(crate) fn write(ram: &GuestRam, table: &'static str, address: u64, bytes: &[u8]) -> Result<(), BootTablesError> {
    ram.write_slice(bytes, GuestAddress(address))
        .map_err(|source| BootTablesError::NoRam { table, address, source })
}

#[cfg(test)]
mod tests;
