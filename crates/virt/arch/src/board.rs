//! What the virtual board has: the one description that ACPI and FDT are written from.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// Most vCPUs of a virtual machine. Their APIC ids and MPIDR values follow from it.
pub(crate) const MAX_VCPUS: u8 = 32;

/// A device's place in guest-physical memory and its interrupt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MmioSlot {
    /// The guest-physical address of its first register.
    pub base: u64,
    /// How many bytes it answers to.
    pub bytes: u64,
    /// The interrupt's number for KVM's irqfd: an IOAPIC pin on x86_64, an SPI counted from 0 on aarch64. Edge-triggered.
    pub gsi: u32,
}

impl MmioSlot {
    /// The addresses that it answers to.
    #[must_use]
    pub const fn range(&self) -> Range<u64> {
        self.base..self.base.saturating_add(self.bytes)
    }
}

/// A device's place among x86's I/O ports and its interrupt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortSlot {
    /// Its first port.
    pub base: u16,
    /// How many ports it answers to.
    pub ports: u16,
    /// The interrupt's number for KVM's irqfd.
    pub gsi: u32,
}

/// Where the guest reaches a device that is behind ports on x86_64 and in memory on aarch64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reachable {
    /// By `in` and `out`.
    Port(PortSlot),
    /// By loads and stores.
    Memory(MmioSlot),
}

impl Reachable {
    /// The interrupt's number for KVM's irqfd.
    #[must_use]
    pub const fn gsi(&self) -> u32 {
        match self {
            Self::Port(slot) => slot.gsi,
            Self::Memory(slot) => slot.gsi,
        }
    }
}

/// A page of guest memory that a device writes, and the interrupt that says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageSlot {
    /// The guest-physical address of its first byte; it is in RAM, but not in what the guest is told to be free.
    pub base: u64,
    /// The interrupt's number for KVM's irqfd.
    pub gsi: u32,
}

/// Which interrupt controller an aarch64 board has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum GicVersion {
    /// GICv2: a distributor and a banked CPU interface, at most 8 CPUs, no messages.
    V2,
    /// GICv3: a distributor and a redistributor for each CPU; messages by an ITS.
    V3,
}

/// An aarch64 board's interrupt controller as KVM made it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GicDescription {
    /// Its version.
    pub version: GicVersion,
    /// The distributor's registers.
    pub distributor: Range<u64>,
    /// The redistributors' registers (GICv3) or the CPU interface's (GICv2).
    pub processors: Range<u64>,
    /// The registers of the interrupt translation service, if there is one.
    pub its: Option<Range<u64>>,
}

/// What a virtual board has: what firmware tables tell the guest.
#[derive(Debug, Clone)]
pub struct Board<'a> {
    /// How many vCPUs, 1 to 32.
    pub vcpus: u8,
    /// How much RAM, in bytes; laid out as `layout::ram_regions` says.
    pub ram_bytes: u64,
    /// The kernel's command line, without a terminating zero.
    pub command_line: &'a str,
    /// Where the initrd is in guest-physical memory (from `load_initrd`).
    pub initrd: Option<Range<u64>>,
    /// The virtio devices. They are told in this order.
    pub virtio: &'a [MmioSlot],
    /// The interrupt controller that `Platform::finish` made: always there on aarch64, never on x86_64.
    pub gic: Option<GicDescription>,
    /// Whether there is a serial port at `layout::serial`.
    pub serial: bool,
    /// Whether there is a keyboard controller (x86_64 only, `layout::I8042`).
    pub keyboard: bool,
    /// Whether there is a generation id at `layout::vmgenid`.
    pub vmgenid: bool,
    /// Whether vCPUs have a performance monitor (`Platform::has_performance_monitor`; aarch64 only).
    pub performance_monitor: bool,
    /// Fresh random bytes for the guest's generator. Each boot needs its own; may be empty.
    pub rng_seed: &'a [u8],
}

/// Why the boot tables can't be written.
#[derive(Debug, thiserror::Error)]
pub enum BootTablesError {
    /// There are no vCPUs, or more than there may be.
    #[error("{wanted} vCPUs are not between 1 and {MAX_VCPUS}")]
    Vcpus {
        /// How many were asked for.
        wanted: u8,
    },
    /// The command line is longer than the kernel takes.
    #[error("the kernel's command line has {bytes} bytes, more than {most}")]
    CommandLineTooLong {
        /// Its length in bytes.
        bytes: usize,
        /// How many it may have.
        most: usize,
    },
    /// The command line has a zero byte, where the kernel would end it.
    #[error("the kernel's command line has a zero byte")]
    CommandLineZero,
    /// The tables need more space than is kept for them.
    #[error("the {table} needs {bytes} bytes, more than the {most} that are kept for it")]
    TooLarge {
        /// Which table.
        table: &'static str,
        /// Its length in bytes.
        bytes: usize,
        /// How many there are for it.
        most: usize,
    },
    /// The board has no RAM where a table has to be.
    #[error("no RAM at {address:#x} for the {table}")]
    NoRam {
        /// Which table.
        table: &'static str,
        /// The guest-physical address.
        address: u64,
        /// What the memory says.
        #[source]
        source: vm_memory::GuestMemoryError,
    },
    /// RAM is too small for a table beside the kernel.
    #[error("no room for the {table} in RAM of {ram_bytes} bytes beside the kernel, which ends at {kernel_end:#x}")]
    NoRoom {
        /// Which table.
        table: &'static str,
        /// How much RAM there is, in bytes.
        ram_bytes: u64,
        /// Where the kernel ends.
        kernel_end: u64,
    },
    /// The initrd lies over the kernel or a table, or outside of RAM.
    #[error("the initrd at {initrd:#x?} is not above the kernel, which ends at {kernel_end:#x}, and within RAM")]
    InitrdMisplaced {
        /// Where the initrd is.
        initrd: Range<u64>,
        /// Where the kernel ends.
        kernel_end: u64,
    },
    /// An aarch64 board without interrupt controller.
    #[error("the board has no interrupt controller")]
    NoInterruptController,
    /// A device tree can't hold what it should.
    #[error("the device tree can't be written")]
    DeviceTree(#[source] vm_fdt::Error),
    /// A device's place can't be told by the table.
    #[error("the virtio device at {base:#x} is not within the first 4 GiB")]
    DeviceMisplaced {
        /// Where it is.
        base: u64,
    },
}
