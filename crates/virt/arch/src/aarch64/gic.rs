//! Which registers of KVM's GICs a snapshot holds, and in which order they are restored (Documentation/virt/kvm/devices/arm-vgic.rst,
//! arm-vgic-v3.rst, arm-vgic-its.rst; register offsets from the GIC architecture specifications, IHI 0048 and IHI 0069).

use crate::aarch64::layout::GIC_INTERRUPTS;

/// Interrupts that each CPU has for itself: SGIs and PPIs.
const PRIVATE: u32 = 32;

/// A run of 32-bit registers that have so many bits for each interrupt.
const fn run(base: u32, bits: u32, from: u32, to: u32) -> (u32, u32) {
    (base + from * bits / 8, base + to * bits / 8)
}

/// The offsets of all registers of some runs.
fn expand(runs: &[(u32, u32)]) -> Vec<u32> {
    runs.iter().flat_map(|(start, end)| (*start..*end).step_by(4)).collect()
}

/// `GICD_IIDR`: which revision of its emulation KVM is to be. Restored before anything else.
pub(crate) const GICD_IIDR: u32 = 0x8;

/// GICv3's distributor: groups, enables, pending, active, priorities, kinds, routes of the SPIs; then the control register.
pub(crate) fn v3_distributor() -> Vec<u32> {
    let all = |base, bits| run(base, bits, PRIVATE, GIC_INTERRUPTS);
    let mut offsets = expand(&[
        all(0x80, 1),    // GICD_IGROUPR
        all(0x100, 1),   // GICD_ISENABLER
        all(0x200, 1),   // GICD_ISPENDR
        all(0x300, 1),   // GICD_ISACTIVER
        all(0x400, 8),   // GICD_IPRIORITYR
        all(0xc00, 2),   // GICD_ICFGR
        all(0x6000, 64), // GICD_IROUTER
    ]);
    offsets.push(0x0); // GICD_CTLR
    offsets
}

/// One redistributor of GICv3: where LPIs are configured and pending before they may be enabled, then its CPU's private interrupts.
pub(crate) fn v3_redistributor() -> Vec<u32> {
    let private = |base: u32, bits| run(0x1_0000 + base, bits, 0, PRIVATE);
    let mut offsets = expand(&[
        (0x14, 0x18),      // GICR_WAKER
        (0x70, 0x80),      // GICR_PROPBASER, GICR_PENDBASER
        private(0x80, 1),  // GICR_IGROUPR0
        private(0x100, 1), // GICR_ISENABLER0
        private(0x200, 1), // GICR_ISPENDR0
        private(0x300, 1), // GICR_ISACTIVER0
        private(0x400, 8), // GICR_IPRIORITYR
        private(0xc00, 2), // GICR_ICFGR
    ]);
    offsets.push(0x0); // GICR_CTLR
    offsets
}

/// A system register's number in `KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS`.
const fn system_register(op1: u32, crn: u32, crm: u32, op2: u32) -> u32 {
    3 << 14 | op1 << 11 | crn << 7 | crm << 3 | op2
}

/// `ICC_CTLR_EL1`, which says how many active priority registers there are.
pub(crate) const ICC_CTLR: u32 = system_register(0, 12, 12, 4);

/// GICv3's CPU interface; how many active priority registers there are depends on the host's priority bits.
pub(crate) fn v3_cpu_interface(icc_ctlr: u64) -> Vec<u32> {
    // PRIbits, less one.
    let active = match (icc_ctlr >> 8) & 0x7 {
        0..=4 => 1,
        5 => 2,
        _ => 4,
    };
    let mut registers = vec![
        system_register(0, 12, 12, 5), // ICC_SRE_EL1: whether there are such registers at all
        ICC_CTLR,
        system_register(0, 12, 12, 6), // ICC_IGRPEN0_EL1
        system_register(0, 12, 12, 7), // ICC_IGRPEN1_EL1
        system_register(0, 4, 6, 0),   // ICC_PMR_EL1
        system_register(0, 12, 8, 3),  // ICC_BPR0_EL1
        system_register(0, 12, 12, 3), // ICC_BPR1_EL1
    ];
    registers.extend((0..active).map(|n| system_register(0, 12, 8, 4 | n))); // ICC_AP0R<n>_EL1
    registers.extend((0..active).map(|n| system_register(0, 12, 9, n))); // ICC_AP1R<n>_EL1
    registers
}

/// GICv2's distributor, what all CPUs share.
pub(crate) fn v2_distributor() -> Vec<u32> {
    let all = |base, bits| run(base, bits, PRIVATE, GIC_INTERRUPTS);
    let mut offsets = expand(&[
        all(0x80, 1),  // GICD_IGROUPR
        all(0x100, 1), // GICD_ISENABLER
        all(0x200, 1), // GICD_ISPENDR
        all(0x300, 1), // GICD_ISACTIVER
        all(0x400, 8), // GICD_IPRIORITYR
        all(0x800, 8), // GICD_ITARGETSR
        all(0xc00, 2), // GICD_ICFGR
    ]);
    offsets.push(0x0); // GICD_CTLR
    offsets
}

/// GICv2's distributor, what each CPU has for itself under the same offsets.
pub(crate) fn v2_banked() -> Vec<u32> {
    let private = |base, bits| run(base, bits, 0, PRIVATE);
    expand(&[
        private(0x80, 1),
        private(0x100, 1),
        private(0x200, 1),
        private(0x300, 1),
        private(0x400, 8),
        private(0xc00, 2),
        (0xf20, 0xf30), // GICD_SPENDSGIR: which CPUs sent what
    ])
}

/// GICv2's CPU interface: control, priority mask, binary points, active priorities.
pub(crate) const V2_CPU_INTERFACE: [u32; 8] = [0x0, 0x4, 0x8, 0x1c, 0xd0, 0xd4, 0xd8, 0xdc];

/// The ITS: emulation's revision, command queue, then the tables' places. The tables follow, and the control register is last.
pub(crate) const ITS: [u64; 12] = [
    0x4,  // GITS_IIDR
    0x80, // GITS_CBASER
    0x90, // GITS_CREADR
    0x88, // GITS_CWRITER
    0x100, 0x108, 0x110, 0x118, 0x120, 0x128, 0x130, 0x138, // GITS_BASER<n>
];
/// `GITS_CTLR`.
pub(crate) const ITS_CTLR: u64 = 0x0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_are_where_the_specification_has_them() {
        let distributor = v3_distributor();
        assert_eq!(distributor.len(), 2 * 4 + 16 + 4 + 64 * 2 + 1);
        assert!(distributor.contains(&0x84) && !distributor.contains(&0x80) && distributor.contains(&0x88));
        assert!(distributor.contains(&0x6100) && distributor.contains(&0x62fc) && !distributor.contains(&0x6300));
        assert_eq!(distributor.last(), Some(&0));
        let redistributor = v3_redistributor();
        assert_eq!(redistributor.len(), 1 + 4 + 4 + 8 + 2 + 1);
        assert!(redistributor.contains(&0x1_0c04) && redistributor.contains(&0x1_041c));
        assert_eq!(v2_banked().len(), 4 + 8 + 2 + 4);
        assert_eq!(v2_distributor().len(), 2 * 4 + 16 + 16 + 4 + 1);
    }

    #[test]
    fn active_priorities_follow_the_priority_bits() {
        assert_eq!([4_u64, 5, 6].map(|bits| v3_cpu_interface(bits << 8).len()), [9, 11, 15]);
        assert_eq!(ICC_CTLR, 0xc664);
    }
}
