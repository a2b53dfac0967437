//! ACPI tables (ACPI 6.5): a board without the fixed hardware of PCs ("hardware-reduced"), whose devices are all in the DSDT.

mod devices;

#[cfg(test)]
mod tests;

use acpi_tables::Aml;
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;

use crate::board::{Board, BootTablesError, Reachable};
use crate::x86_64::layout::{ACPI_SLEEP_CONTROL, ACPI_SLEEP_STATUS, I8042, IO_APIC, LOCAL_APIC, system_control};

/// Who made the tables, and for what.
const OEM: [u8; 6] = *b"RNGWLL";
const OEM_TABLE: [u8; 8] = *b"RINGWALL";
const OEM_REVISION: u32 = 1;
/// The DSDT's revision from which on integers have 64 bits (ACPI 6.5 §5.2.11.1).
const DSDT_REVISION: u8 = 2;
/// Bytes of a table's header.
const HEADER_BYTES: u32 = 36;
/// Tables begin at multiples of this; the RSDP must (§5.2.5.1).
const ALIGNMENT: usize = 16;

/// FADT, IA-PC boot flags (§5.2.9.3): a keyboard controller is there; no VGA; no CMOS clock.
const BOOT_8042: u16 = 1 << 1;
const BOOT_NO_VGA: u16 = 1 << 2;
const BOOT_NO_CMOS_CLOCK: u16 = 1 << 5;
/// The keyboard controller's command port, and its command that resets the machine.
const RESET_PORT: u16 = I8042.base + 4;
const RESET_VALUE: u8 = 0xfe;

/// All tables as they go to `address`, which must be a multiple of 16: the RSDP is first.
pub(crate) fn tables(board: &Board<'_>, address: u64) -> Result<Vec<u8>, BootTablesError> {
    // The root points to all others, so its place is kept and it is written last.
    let mut out = Tables {
        address,
        bytes: vec![0; Rsdp::len()],
    };
    let mut dsdt = Sdt::new(*b"DSDT", HEADER_BYTES, DSDT_REVISION, OEM, OEM_TABLE, OEM_REVISION);
    dsdt.append_slice(&devices::aml(board)?);
    let dsdt = out.add(&dsdt);
    let fadt = out.add(&fadt(board, dsdt));
    let madt = out.add(&madt(board.vcpus));
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = out.add(&xsdt);
    let mut root = Vec::new();
    Rsdp::new(OEM, xsdt).to_aml_bytes(&mut root);
    out.bytes.splice(..root.len(), root);
    Ok(out.bytes)
}

struct Tables {
    address: u64,
    bytes: Vec<u8>,
}

impl Tables {
    /// Appends a table and says where it is.
    fn add(&mut self, table: &dyn Aml) -> u64 {
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
        let address = self.address.saturating_add(self.bytes.len() as u64);
        table.to_aml_bytes(&mut self.bytes);
        address
    }
}

fn fadt(board: &Board<'_>, dsdt: u64) -> acpi_tables::fadt::FADT {
    let mut fadt = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::Wbinvd)
        .flag(Flags::PwrButton) // set: there is no fixed button
        .flag(Flags::SlpButton)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Headless)
        .flag(Flags::HwReducedAcpi);
    let keyboard = if board.keyboard { BOOT_8042 } else { 0 };
    fadt.iapc_boot_arch = (keyboard | BOOT_NO_VGA | BOOT_NO_CMOS_CLOCK).into();
    fadt.reset_reg = port(RESET_PORT);
    fadt.reset_value = RESET_VALUE;
    if let Reachable::Port(control) = system_control() {
        fadt.sleep_control_reg = port(control.base + ACPI_SLEEP_CONTROL);
        fadt.sleep_status_reg = port(control.base + ACPI_SLEEP_STATUS);
    }
    fadt.hypervisor_vendor_identity = u64::from_le_bytes(OEM_TABLE).into();
    fadt.finalize()
}

/// A register of one byte among the ports.
fn port(port: u16) -> GAS {
    GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, port.into())
}

/// The local APICs, whose ids are the vCPUs' indices, and the IOAPIC, whose pins are the GSIs.
fn madt(vcpus: u8) -> MADT {
    let mut madt = MADT::new(
        OEM,
        OEM_TABLE,
        OEM_REVISION,
        LocalInterruptController::Address(LOCAL_APIC),
    );
    for index in 0..vcpus {
        madt.add_structure(ProcessorLocalApic::new(index, index, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(0, IO_APIC, 0));
    madt
}
