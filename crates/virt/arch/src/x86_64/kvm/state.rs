//! What a snapshot holds of vCPUs and platform.

use kvm_bindings::{
    kvm_clock_data, kvm_debugregs, kvm_irqchip, kvm_lapic_state, kvm_mp_state, kvm_pit_state2, kvm_regs, kvm_sregs,
    kvm_vcpu_events,
};
use serde::{Deserialize, Serialize};

use crate::state::{Hex, List, raw};
use crate::x86_64::cpuid::CpuidEntry;

/// Most CPUID entries that KVM takes: `KVM_MAX_CPUID_ENTRIES` in arch/x86/include/asm/kvm_host.h.
pub(super) const MAX_CPUID: usize = 256;
/// Most MSRs at once: `MAX_IO_MSRS` in arch/x86/kvm/x86.c.
pub(super) const MAX_MSRS: usize = 256;
/// Most extended control registers: `KVM_MAX_XCRS` in arch/x86/include/uapi/asm/kvm.h.
pub(super) const MAX_XCRS: usize = 16;
/// Most bytes of extended registers: with AMX they are about 11 KiB.
pub(super) const MAX_XSAVE_BYTES: usize = 64 * 1024;

/// A vCPU, stopped.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VcpuState {
    pub(super) cpuid: List<CpuidEntry, MAX_CPUID>,
    /// How fast its time stamp counter counts, if KVM says so.
    pub(super) tsc_khz: Option<u32>,
    /// How far its time stamp counter is from the host's, if KVM says so; only the differences between vCPUs count.
    #[serde(default)]
    pub(super) tsc_offset: Option<u64>,
    #[serde(with = "raw")]
    pub(super) mp_state: kvm_mp_state,
    #[serde(with = "raw")]
    pub(super) regs: kvm_regs,
    #[serde(with = "raw")]
    pub(super) sregs: kvm_sregs,
    /// Number and value of extended control registers; none where the host has no XSAVE.
    pub(super) xcrs: List<(u32, u64), MAX_XCRS>,
    /// Without the zeros at its end.
    pub(super) xsave: Hex<MAX_XSAVE_BYTES>,
    #[serde(with = "raw")]
    pub(super) debugregs: kvm_debugregs,
    #[serde(with = "raw")]
    pub(super) lapic: kvm_lapic_state,
    /// Number and value.
    pub(super) msrs: List<(u32, u64), MAX_MSRS>,
    #[serde(with = "raw")]
    pub(super) events: kvm_vcpu_events,
}

/// An interrupt controller: `kvm_irqchip`.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Chip(#[serde(with = "raw")] pub(super) kvm_irqchip);

/// Everything that is neither a vCPU nor a device of ours.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlatformState {
    /// The two PICs and the IOAPIC, in the order of their ids.
    pub(super) chips: [Chip; 3],
    #[serde(with = "raw")]
    pub(super) pit: kvm_pit_state2,
    #[serde(with = "raw")]
    pub(super) clock: kvm_clock_data,
}
