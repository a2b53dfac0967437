//! Register values and their numbers in KVM's interface.

/// `KVM_REG_ARM64`, `KVM_REG_SIZE_U64`, `KVM_REG_ARM_CORE` (include/uapi/linux/kvm.h, arch/arm64/include/uapi/asm/kvm.h).
const REG_ARM64: u64 = 0x6000_0000_0000_0000;
const REG_SIZE_U64: u64 = 0x0030_0000_0000_0000;
const REG_CORE: u64 = 0x0010 << 16;

/// A core register's number: its offset in `struct kvm_regs`, in units of 4 bytes.
const fn core(offset: u64) -> u64 {
    REG_ARM64 | REG_SIZE_U64 | REG_CORE | (offset / 4)
}

/// `regs.regs[0]`, after 31 general registers and SP: `regs.pc`, `regs.pstate`.
const X0: u64 = core(0);
const PC: u64 = core(32 * 8);
const PSTATE: u64 = core(33 * 8);

/// PSTATE at entry: EL1h with D, A, I and F masked.
const PSTATE_BOOT: u64 = 0x3c5;

/// What the boot vCPU starts with, `(number, value)` (Documentation/arch/arm64/booting.rst, "Call the kernel image"). All other
/// registers are zero after `KVM_ARM_VCPU_INIT`, as x1 to x3 must be.
pub(crate) const fn boot_registers(entry: u64, device_tree: u64) -> [(u64, u64); 3] {
    [(PSTATE, PSTATE_BOOT), (PC, entry), (X0, device_tree)]
}

/// The affinity by which interrupts and PSCI name the vCPU with this index: what KVM gives it (`reset_mpidr` in
/// arch/arm64/kvm/sys_regs.c): 16 to a cluster, since a GICv3 SGI names 16 at once.
pub(crate) const fn affinity(index: u8) -> u64 {
    let index = index as u64;
    (index & 0xf) | (index >> 4) << 8
}

/// `KVM_REG_ARM64_SYSREG`: a system register, by its encoding in the instruction that reads it.
const REG_SYSTEM: u64 = 0x0013 << 16;
/// MPIDR_EL1: the place of a CPU, which is no feature.
const MPIDR: u64 = system(3, 0, 0, 0, 5);
/// Registers of features beside the block below: CLIDR_EL1, AIDR_EL1, CTR_EL0, which say what caches there are.
const OTHER_FEATURES: [u64; 3] = [system(3, 1, 0, 0, 1), system(3, 1, 0, 0, 7), system(3, 3, 0, 0, 1)];

/// The name of a register that says what the processor can do; none for all others.
///
/// Those are MIDR_EL1 to MVFR2_EL1 and the ID_AA64 registers, op0 3, op1 0, CRn 0, CRm 0 to 7 (Arm ARM, D23.3), and some others.
pub(crate) fn feature_register(id: u64) -> Option<String> {
    let block = system(3, 0, 0, 0, 0)..=system(3, 0, 0, 7, 7);
    if !(block.contains(&id) && id != MPIDR || OTHER_FEATURES.contains(&id)) {
        return None;
    }
    let (op1, crm, op2) = (id >> 11 & 0x7, id >> 3 & 0xf, id & 0x7);
    Some(format!("register 3.{op1}.0.{crm}.{op2}"))
}

/// Registers of the performance monitor by which bits are cleared: PMINTENCLR_EL1, PMCNTENCLR_EL0, PMOVSCLR_EL0.
///
/// They read like their counterparts that set bits. What a write does has changed from kernel to kernel: to store the value, or to
/// clear its bits, as a guest's write does. In the latter case the saved value must not be written after the counterpart's, or it undoes
/// that. Writing all ones to these first, and then only the counterparts, is right for every kernel.
pub(crate) const CLEARING: [u64; 3] = [system(3, 0, 9, 14, 2), system(3, 3, 9, 12, 2), system(3, 3, 9, 12, 3)];

/// The virtual machine's virtual and physical counter, `KVM_REG_ARM_TIMER_CNT` and `KVM_REG_ARM_PTIMER_CNT`
/// (arch/arm64/include/uapi/asm/kvm.h). Set through one vCPU they are set for all, as an offset to the host's that holds from that moment.
pub(crate) const COUNTERS: [u64; 2] = [system(3, 3, 14, 3, 2), system(3, 3, 14, 0, 1)];

/// What a counter that vCPUs were saved with one after the other goes on from: the latest, so that it goes back for none, moved by `ticks`.
/// Nothing if no vCPU has it.
pub(crate) fn counter(saved: &[u64], ticks: u64) -> Option<u64> {
    saved.iter().max().map(|latest| latest.wrapping_add(ticks))
}

/// A system register's number in KVM's interface, by its encoding.
const fn system(op0: u64, op1: u64, crn: u64, crm: u64, op2: u64) -> u64 {
    REG_ARM64 | REG_SIZE_U64 | REG_SYSTEM | op0 << 14 | op1 << 11 | crn << 7 | crm << 3 | op2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_kernels_headers() {
        let boot = boot_registers(0x8020_0000, 0x8400_0000);
        assert_eq!(
            boot,
            [
                (0x6030_0000_0010_0042, 0x3c5),
                (0x6030_0000_0010_0040, 0x8020_0000),
                (0x6030_0000_0010_0000, 0x8400_0000),
            ]
        );
    }

    #[test]
    fn registers_of_features_are_known_by_their_encoding() {
        assert_eq!(
            feature_register(0x6030_0000_0013_c000).as_deref(),
            Some("register 3.0.0.0.0"),
            "MIDR_EL1"
        );
        assert_eq!(
            feature_register(0x6030_0000_0013_c030).as_deref(),
            Some("register 3.0.0.6.0"),
            "ID_AA64ISAR0_EL1"
        );
        assert_eq!(
            feature_register(0x6030_0000_0013_d801).as_deref(),
            Some("register 3.3.0.0.1"),
            "CTR_EL0"
        );
        assert_eq!(feature_register(0x6030_0000_0013_c005), None, "MPIDR_EL1");
        assert_eq!(feature_register(0x6030_0000_0013_c080), None, "SCTLR_EL1");
        assert_eq!(feature_register(0x6030_0000_0010_0042), None, "PSTATE");
    }

    #[test]
    fn registers_that_clear_are_known_by_their_encoding() {
        assert_eq!(
            CLEARING,
            [0x6030_0000_0013_c4f2, 0x6030_0000_0013_dce2, 0x6030_0000_0013_dce3]
        );
    }

    #[test]
    fn counters_are_known_by_their_numbers_and_never_go_back() {
        assert_eq!(COUNTERS, [0x6030_0000_0013_df1a, 0x6030_0000_0013_df01]);
        assert_eq!(counter(&[70, 90, 80], 0), Some(90));
        assert_eq!(counter(&[70], 5), Some(75));
        assert_eq!(counter(&[u64::MAX], 2), Some(1), "as the counter does");
        assert_eq!(counter(&[], 5), None);
    }

    #[test]
    fn clusters_have_sixteen() {
        assert_eq!([0, 15, 16, 31].map(affinity), [0, 0xf, 0x100, 0x10f]);
    }
}
