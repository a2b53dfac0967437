//! Where everything is in an aarch64 guest's physical memory.
//!
//! ```text
//! 0x0800_0000  GIC distributor             0x0a00_0000  virtio-mmio
//! 0x0801_0000  GICv2 CPU interface         0x8000_0000  RAM: 2 MiB that the guest is not told of (generation id)
//! 0x0808_0000  ITS                         0x8020_0000  kernel
//! 0x080a_0000  GICv3 redistributors        ...          initrd, right below the device tree
//! 0x0900_0000  serial, clock, control      top          device tree: the last 2 MiB of RAM, but within 32 GiB of its beginning
//! ```
//!
//! Interrupts are shared peripheral ones (SPIs), counted from 0 as KVM's irqfd does; the GIC's own numbers are 32 higher.

use std::ops::Range;

use vm_memory::GuestAddress;

use crate::board::{MmioSlot, PageSlot, Reachable};

/// The first byte of RAM.
pub const RAM_START: u64 = 0x8000_0000;
/// RAM that the guest is not told to be free: devices that write into memory have their pages there. 2 MiB, so that the kernel's base
/// stays a multiple of that (Documentation/arch/arm64/booting.rst).
pub const DEVICE_RAM_BYTES: u64 = 2 << 20;
/// The lowest address that a kernel is loaded to.
pub const KERNEL_START: u64 = RAM_START + DEVICE_RAM_BYTES;
/// Where addresses end that every host's stage 2 tables reach: 40 bits (Documentation/virt/kvm/api.rst, `KVM_CREATE_VM`).
const ADDRESSES_END: u64 = 1 << 40;

/// The distributor: 64 KiB in KVM's GICv3, 4 KiB in its GICv2.
pub(crate) const GIC_DISTRIBUTOR: u64 = 0x0800_0000;
pub(crate) const GICV3_DISTRIBUTOR_BYTES: u64 = 0x1_0000;
pub(crate) const GICV2_DISTRIBUTOR_BYTES: u64 = 0x1000;
/// GICv2's CPU interface (`KVM_VGIC_V2_CPU_SIZE` in arch/arm64/include/uapi/asm/kvm.h).
pub(crate) const GICV2_CPU_INTERFACE: u64 = 0x0801_0000;
pub(crate) const GICV2_CPU_INTERFACE_BYTES: u64 = 0x2000;
/// The interrupt translation service (`KVM_VGIC_V3_ITS_SIZE`).
pub(crate) const GIC_ITS: u64 = 0x0808_0000;
pub(crate) const GIC_ITS_BYTES: u64 = 0x2_0000;
/// GICv3's redistributors, one after the other (`KVM_VGIC_V3_REDIST_SIZE`).
pub(crate) const GICV3_REDISTRIBUTORS: u64 = 0x080a_0000;
pub(crate) const GICV3_REDISTRIBUTOR_BYTES: u64 = 0x2_0000;
/// How many interrupts the GIC has: 32 of each CPU's own, 64 SPIs.
pub(crate) const GIC_INTERRUPTS: u32 = 96;

/// Registers of a device are a page apart.
const PAGE_BYTES: u64 = 0x1000;
/// Where the virtio-mmio devices begin, and their first SPI.
const VIRTIO_MMIO: u64 = 0x0a00_0000;
const VIRTIO_FIRST_SPI: u32 = 16;
/// How many virtio devices there can be.
pub const VIRTIO_SLOTS: usize = 32;

/// How much is kept for the device tree: the most that the kernel takes (booting.rst, "Setup the device tree").
pub(crate) const DEVICE_TREE_BYTES: u64 = 2 << 20;
/// Kernel, initrd and device tree have to be within so much (same document).
const BOOT_WINDOW: u64 = 32 << 30;

/// The regions of guest RAM, `(start, bytes)`: one. Empty if `bytes` is 0 or more than every host can address.
#[must_use]
pub fn ram_regions(bytes: u64) -> Vec<(GuestAddress, u64)> {
    if bytes == 0 || RAM_START.checked_add(bytes).is_none_or(|end| end > ADDRESSES_END) {
        return Vec::new();
    }
    vec![(GuestAddress(RAM_START), bytes)]
}

/// The place of the virtio device with this index, or none if there are no more.
#[must_use]
pub fn virtio_mmio(index: usize) -> Option<MmioSlot> {
    if index >= VIRTIO_SLOTS {
        return None;
    }
    let base = VIRTIO_MMIO.checked_add(PAGE_BYTES.checked_mul(index as u64)?)?;
    Some(MmioSlot {
        base,
        bytes: PAGE_BYTES,
        gsi: VIRTIO_FIRST_SPI.checked_add(u32::try_from(index).ok()?)?,
    })
}

/// The serial port: a 16550, registers a byte apart.
#[must_use]
pub const fn serial() -> Reachable {
    Reachable::Memory(MmioSlot {
        base: 0x0900_0000,
        bytes: PAGE_BYTES,
        gsi: 0,
    })
}

/// The keyboard controller: there is none.
#[must_use]
pub const fn keyboard() -> Option<crate::PortSlot> {
    None
}

/// The real-time clock, a PL031.
#[must_use]
pub const fn rtc() -> Option<MmioSlot> {
    Some(MmioSlot {
        base: 0x0901_0000,
        bytes: PAGE_BYTES,
        gsi: 1,
    })
}

/// The system-control device. It does not interrupt.
#[must_use]
pub const fn system_control() -> Reachable {
    Reachable::Memory(MmioSlot {
        base: 0x0902_0000,
        bytes: PAGE_BYTES,
        gsi: 3,
    })
}

/// The page whose first 16 bytes are the generation id.
#[must_use]
pub const fn vmgenid() -> PageSlot {
    PageSlot {
        base: RAM_START,
        gsi: 2,
    }
}

/// Where the device tree goes in RAM of so many bytes; none if RAM is too small for it and a kernel.
pub(crate) fn device_tree(ram_bytes: u64) -> Option<Range<u64>> {
    let end = RAM_START.checked_add(ram_bytes.min(BOOT_WINDOW))? & !(DEVICE_TREE_BYTES - 1);
    let start = end.checked_sub(DEVICE_TREE_BYTES)?;
    (start > KERNEL_START).then_some(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_overlaps() {
        let mut ranges: Vec<Range<u64>> = (0..VIRTIO_SLOTS)
            .map(|index| virtio_mmio(index).unwrap().range())
            .collect();
        for place in [serial(), system_control()] {
            let Reachable::Memory(slot) = place else {
                panic!("not in memory")
            };
            ranges.push(slot.range());
        }
        ranges.push(rtc().unwrap().range());
        for (start, bytes) in [
            (GIC_DISTRIBUTOR, GICV3_DISTRIBUTOR_BYTES),
            (GICV2_CPU_INTERFACE, GICV2_CPU_INTERFACE_BYTES),
            (GIC_ITS, GIC_ITS_BYTES),
            (GICV3_REDISTRIBUTORS, GICV3_REDISTRIBUTOR_BYTES * 32),
            (RAM_START, 1 << 30),
        ] {
            ranges.push(start..start + bytes);
        }
        ranges.sort_by_key(|range| range.start);
        assert!(
            ranges.windows(2).all(|pair| pair[0].end <= pair[1].start),
            "{ranges:x?}"
        );
        assert_eq!(virtio_mmio(VIRTIO_SLOTS), None);
        assert!(virtio_mmio(VIRTIO_SLOTS - 1).unwrap().gsi + 32 < GIC_INTERRUPTS);
    }

    #[test]
    fn ram_and_the_device_tree_stay_within_reach() {
        assert_eq!(ram_regions(32 << 20), [(GuestAddress(RAM_START), 32 << 20)]);
        assert_eq!(ram_regions(0), []);
        assert_eq!(ram_regions(1 << 40), []);
        assert_eq!(ram_regions(u64::MAX), []);
        assert_eq!(device_tree(32 << 20), Some(0x81e0_0000..0x8200_0000));
        assert_eq!(device_tree((32 << 20) + 4096), Some(0x81e0_0000..0x8200_0000));
        assert_eq!(device_tree(64 << 30), Some(0x8_7fe0_0000..0x8_8000_0000));
        assert_eq!(device_tree(4 << 20), None);
        assert_eq!(device_tree(0), None);
    }
}
