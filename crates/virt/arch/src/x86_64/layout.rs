//! Where everything is in an x86_64 guest's physical memory and among its ports.
//!
//! ```text
//! 0x0000_0500  GDT, IDT                      0x000e_0000  ACPI tables, up to 1 MiB (reserved)
//! 0x0000_6000  PVH start info, modules       0x0010_0000  kernel and initrd
//! 0x0000_7000  boot_params ("zero page")     0xc000_0000  end of low RAM; virtio-mmio
//! 0x0000_8000  PVH memory map                0xfec0_0000  IOAPIC
//! 0x0000_9000  page tables                   0xfee0_0000  local APICs
//! 0x0002_0000  command line                  0xfffb_c000  KVM's own: identity map, TSS
//! 0x0009_f000  generation id (reserved)      0x1_0000_0000  the rest of RAM
//! ```

use vm_memory::GuestAddress;

use crate::board::{MmioSlot, PageSlot, PortSlot, Reachable};

/// The first byte that a kernel may be loaded to; below are the boot tables and what PCs keep for firmware.
pub const HIGH_MEMORY: u64 = 0x10_0000;
/// Where low RAM ends at the latest and addresses of devices begin.
pub const GAP_START: u64 = 0xc000_0000;
/// Where the devices' addresses end and RAM goes on.
pub const GAP_END: u64 = 0x1_0000_0000;

/// The end of what is free below 1 MiB. Linux takes this for the beginning of firmware data (`BIOS_START_MAX` in arch/x86/kernel/ebda.c).
pub(crate) const LOW_MEMORY_END: u64 = 0x9_f000;
/// The global descriptor table.
pub(crate) const GDT: u64 = 0x500;
/// An empty interrupt descriptor table.
pub(crate) const IDT: u64 = 0x540;
/// `struct hvm_start_info`.
pub(crate) const PVH_START_INFO: u64 = 0x6000;
/// `struct hvm_modlist_entry`, one: the initrd.
pub(crate) const PVH_MODULES: u64 = 0x6040;
/// `struct boot_params`.
pub(crate) const ZERO_PAGE: u64 = 0x7000;
/// `struct hvm_memmap_table_entry`, a page of them.
pub(crate) const PVH_MEMORY_MAP: u64 = 0x8000;
/// Page tables: one PML4, one page directory pointer table, four page directories.
pub(crate) const PAGE_TABLES: u64 = 0x9000;
/// The kernel's command line.
pub(crate) const COMMAND_LINE: u64 = 0x2_0000;
/// Longest command line with its zero, in bytes: `COMMAND_LINE_SIZE` in arch/x86/include/asm/setup.h.
pub(crate) const COMMAND_LINE_BYTES: usize = 2048;
/// ACPI tables, the RSDP first: where a kernel looks without being told (ACPI 6.5 §5.2.5.1).
pub(crate) const ACPI_TABLES: u64 = 0xe_0000;
/// How much may be filled with ACPI tables.
pub(crate) const ACPI_BYTES: usize = 0x2_0000;

/// The first local APIC address (Intel SDM vol. 3 §11.4.1).
pub(crate) const LOCAL_APIC: u32 = 0xfee0_0000;
/// The IOAPIC that KVM emulates: `IOAPIC_DEFAULT_BASE_ADDRESS` in arch/x86/kvm/ioapic.h.
pub(crate) const IO_APIC: u32 = 0xfec0_0000;
/// A page for KVM's identity map in real mode (Documentation/virt/kvm/api.rst, `KVM_SET_IDENTITY_MAP_ADDR`).
pub(crate) const KVM_IDENTITY_MAP: u64 = 0xfffb_c000;
/// Three pages for KVM's task state segment (same document, `KVM_SET_TSS_ADDR`).
pub(crate) const KVM_TSS: usize = 0xfffb_d000;

/// Where the virtio-mmio devices begin.
const VIRTIO_MMIO: u64 = GAP_START;
/// Registers and configuration space of one virtio-mmio device (VIRTIO 1.2 §4.2.2), rounded up to a page.
const VIRTIO_MMIO_BYTES: u64 = 0x1000;
/// IOAPIC pins for virtio devices: those of no ISA device first. Not used: 0 timer, 1 keyboard, 2 cascade, 3 generation id, 4 serial,
/// 8 clock, 12 mouse (Linux's i8042 driver tries that one even if there is no mouse).
const VIRTIO_PINS: [u32; 17] = [16, 17, 18, 19, 20, 21, 22, 23, 5, 6, 7, 9, 10, 11, 13, 14, 15];

/// How many virtio devices there can be.
pub const VIRTIO_SLOTS: usize = VIRTIO_PINS.len();

/// The ports of the i8042 keyboard controller (0x60 data, 0x64 command); writing 0xfe to 0x64 resets the machine.
pub const I8042: PortSlot = PortSlot {
    base: 0x60,
    ports: 5,
    gsi: 1,
};

/// The keyboard controller.
#[must_use]
pub const fn keyboard() -> Option<PortSlot> {
    Some(I8042)
}

/// Offset in the system-control ports of ACPI's sleep control register (ACPI 6.5 §4.8.3.7): a write of [`ACPI_SLEEP_POWER_OFF`] is
/// the guest's wish to be switched off.
pub const ACPI_SLEEP_CONTROL: u16 = 0x10;
/// Offset in the system-control ports of ACPI's sleep status register. Reads zero.
pub const ACPI_SLEEP_STATUS: u16 = 0x11;
/// What the guest writes to sleep control to be switched off: `SLP_TYP` 5, as the DSDT's `_S5` says, and `SLP_EN`.
pub const ACPI_SLEEP_POWER_OFF: u8 = (5 << 2) | 0x20;

/// The regions of guest RAM in order of their addresses, `(start, bytes)`. Empty if `bytes` is 0 or would pass the end of addresses.
#[must_use]
pub fn ram_regions(bytes: u64) -> Vec<(GuestAddress, u64)> {
    if bytes == 0 || GAP_END.checked_add(bytes).is_none() {
        return Vec::new();
    }
    let low = bytes.min(GAP_START);
    let mut regions = vec![(GuestAddress(0), low)];
    if bytes > low {
        regions.push((GuestAddress(GAP_END), bytes - low));
    }
    regions
}

/// The place of the virtio device with this index, or none if there are no more.
#[must_use]
pub fn virtio_mmio(index: usize) -> Option<MmioSlot> {
    let gsi = *VIRTIO_PINS.get(index)?;
    let base = VIRTIO_MMIO.checked_add(VIRTIO_MMIO_BYTES.checked_mul(index as u64)?)?;
    Some(MmioSlot {
        base,
        bytes: VIRTIO_MMIO_BYTES,
        gsi,
    })
}

/// The serial port: COM1.
#[must_use]
pub const fn serial() -> Reachable {
    Reachable::Port(PortSlot {
        base: 0x3f8,
        ports: 8,
        gsi: 4,
    })
}

/// The real-time clock: there is none, the guest has kvm-clock.
#[must_use]
pub const fn rtc() -> Option<MmioSlot> {
    None
}

/// The system-control device. It does not interrupt.
#[must_use]
pub const fn system_control() -> Reachable {
    Reachable::Port(PortSlot {
        base: 0x600,
        ports: 0x20,
        gsi: 0,
    })
}

/// The page whose first 16 bytes are the generation id.
#[must_use]
pub const fn vmgenid() -> PageSlot {
    PageSlot {
        base: LOW_MEMORY_END,
        gsi: 3,
    }
}
