//! The boot vCPU's registers, as values.

use crate::x86_64::gdt::{FLAT_32, FLAT_64, Segments};
use crate::x86_64::kernel::{BootProtocol, LoadedKernel};
use crate::x86_64::layout::{GDT, IDT, PAGE_TABLES, PVH_START_INFO, ZERO_PAGE};

/// CR0: protection on; extension type, which is always one (Intel SDM vol. 3 §2.5).
const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
/// CR0: paging on.
const CR0_PG: u64 = 1 << 31;
/// CR4: physical address extension, which long mode needs.
const CR4_PAE: u64 = 1 << 5;
/// EFER: long mode enabled and active.
const EFER_LONG_MODE: u64 = (1 << 8) | (1 << 10);
/// RFLAGS: bit 1 is always one; interrupts are off.
const RFLAGS: u64 = 1 << 1;
/// The end of a small stack that 64-bit kernels are given, between tables that they have read by then; PVH kernels bring their own.
const STACK: u64 = 0x8ff0;

/// What the boot vCPU starts with; everything else is as after a reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BootRegisters {
    pub(crate) rip: u64,
    pub(crate) rsp: u64,
    pub(crate) rbx: u64,
    pub(crate) rsi: u64,
    pub(crate) rflags: u64,
    pub(crate) cr0: u64,
    pub(crate) cr3: u64,
    pub(crate) cr4: u64,
    pub(crate) efer: u64,
    pub(crate) segments: Segments,
    /// Base and limit.
    pub(crate) gdt: (u64, u16),
    /// Base and limit.
    pub(crate) idt: (u64, u16),
}

/// The registers that a kernel wants at its entry.
pub(crate) fn boot_registers(kernel: &LoadedKernel) -> BootRegisters {
    let common = BootRegisters {
        rip: kernel.entry,
        rsp: 0,
        rbx: 0,
        rsi: 0,
        rflags: RFLAGS,
        cr0: CR0_PE | CR0_ET,
        cr3: 0,
        cr4: 0,
        efer: 0,
        segments: FLAT_32,
        gdt: (GDT, 6 * 8 - 1),
        idt: (IDT, 7),
    };
    match kernel.protocol {
        BootProtocol::Pvh => BootRegisters {
            rbx: PVH_START_INFO,
            ..common
        },
        BootProtocol::Linux64 { .. } => BootRegisters {
            rsp: STACK,
            rsi: ZERO_PAGE,
            cr0: CR0_PE | CR0_ET | CR0_PG,
            cr3: PAGE_TABLES,
            cr4: CR4_PAE,
            efer: EFER_LONG_MODE,
            segments: FLAT_64,
            ..common
        },
    }
}
