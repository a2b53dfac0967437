//! Setting up a vCPU for a boot.

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, Msrs, kvm_cpuid_entry2, kvm_dtable, kvm_msr_entry, kvm_segment};
use kvm_ioctls::{Kvm, VcpuFd};
use vmm_sys_util::errno;

use crate::host::Warning;
use crate::x86_64::boot_tables::BootInfo;
use crate::x86_64::cpuid::{self, CpuidEntry};
use crate::x86_64::gdt::Segment;
use crate::x86_64::kvm::platform::Platform;

/// Why a vCPU can't be set up, saved or restored.
#[derive(Debug, thiserror::Error)]
pub enum VcpuError {
    /// KVM refused.
    #[error("KVM refused {call}")]
    Kvm {
        /// The system call's name.
        call: &'static str,
        /// Its error.
        #[source]
        source: errno::Error,
    },
    /// KVM does not take a model-specific register's value.
    #[error("KVM refused the model-specific register {index:#x}")]
    MsrRefused {
        /// The register's number.
        index: u32,
    },
    /// A list is longer than KVM takes.
    #[error("{count} {what} are more than KVM takes")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        count: usize,
    },
    /// The saved extended registers are larger than this host's.
    #[error("{bytes} bytes of extended registers, more than the {most} that KVM takes")]
    ExtendedRegisters {
        /// How many bytes there are.
        bytes: usize,
        /// How many this host takes.
        most: usize,
    },
    /// There is no vCPU with this index.
    #[error("no vCPU has index {index}")]
    NoSuchVcpu {
        /// The index.
        index: u8,
    },
}

/// Makes an error of a failed call.
pub(super) const fn refused(call: &'static str) -> impl FnOnce(errno::Error) -> VcpuError {
    move |source| VcpuError::Kvm { call, source }
}

/// `IA32_MISC_ENABLE` and its fast-string bit (Intel SDM vol. 4): what firmware leaves on.
const MSR_MISC_ENABLE: u32 = 0x1a0;
const FAST_STRINGS: u64 = 1;
/// `IA32_MTRR_DEF_TYPE`: MTRRs on, write-back by default, so that Linux does not take all memory for uncached.
const MSR_MTRR_DEF_TYPE: u32 = 0x2ff;
const MTRR_WRITE_BACK: u64 = (1 << 11) | 6;
/// What firmware leaves in MSRs; all others are as after a reset.
const BOOT_MSRS: [(u32, u64); 2] = [(MSR_MISC_ENABLE, FAST_STRINGS), (MSR_MTRR_DEF_TYPE, MTRR_WRITE_BACK)];

/// Local vector table entries for LINT0 and LINT1 in the local APIC's registers (Intel SDM vol. 3 §11.5.1) and their delivery modes.
const LAPIC_LINT0: usize = 0x350;
const LAPIC_LINT1: usize = 0x360;
const LAPIC_MODE_MASK: u32 = 0x700;
const LAPIC_MODE_NMI: u32 = 0x400;
const LAPIC_MODE_EXTINT: u32 = 0x700;

/// KVM's supported CPUID as own values.
pub(super) fn supported_cpuid(kvm: &Kvm) -> Result<Vec<CpuidEntry>, errno::Error> {
    Ok(from_kvm(&kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?))
}

/// A list of KVM's as own values.
pub(super) fn from_kvm(cpuid: &CpuId) -> Vec<CpuidEntry> {
    cpuid
        .as_slice()
        .iter()
        .map(|entry| CpuidEntry {
            leaf: entry.function,
            subleaf: entry.index,
            flags: entry.flags,
            registers: [entry.eax, entry.ebx, entry.ecx, entry.edx],
        })
        .collect()
}

/// Sets the CPUID of a vCPU.
pub(super) fn set_cpuid(vcpu: &VcpuFd, entries: &[CpuidEntry]) -> Result<(), VcpuError> {
    let entries: Vec<_> = entries
        .iter()
        .map(|entry| {
            let [eax, ebx, ecx, edx] = entry.registers;
            kvm_cpuid_entry2 {
                function: entry.leaf,
                index: entry.subleaf,
                flags: entry.flags,
                eax,
                ebx,
                ecx,
                edx,
                ..kvm_cpuid_entry2::default()
            }
        })
        .collect();
    let cpuid = CpuId::from_entries(&entries).map_err(|_| VcpuError::TooMany {
        what: "CPUID entries",
        count: entries.len(),
    })?;
    vcpu.set_cpuid2(&cpuid).map_err(refused("KVM_SET_CPUID2"))
}

/// Sets MSRs, all of them or an error.
pub(super) fn set_msrs(vcpu: &VcpuFd, msrs: &[(u32, u64)]) -> Result<(), VcpuError> {
    let entries: Vec<_> = msrs
        .iter()
        .map(|(index, data)| kvm_msr_entry {
            index: *index,
            data: *data,
            ..kvm_msr_entry::default()
        })
        .collect();
    let list = Msrs::from_entries(&entries).map_err(|_| VcpuError::TooMany {
        what: "MSRs",
        count: entries.len(),
    })?;
    let set = vcpu.set_msrs(&list).map_err(refused("KVM_SET_MSRS"))?;
    // KVM stops at the first that it refuses.
    msrs.get(set)
        .map_or(Ok(()), |(index, _)| Err(VcpuError::MsrRefused { index: *index }))
}

pub(super) fn prepare(platform: &Platform, vcpu: &VcpuFd, index: u8) -> Result<Vec<Warning>, VcpuError> {
    if index >= platform.vcpus {
        return Err(VcpuError::NoSuchVcpu { index });
    }
    set_cpuid(
        vcpu,
        &cpuid::for_vcpu(&platform.supported, index, platform.vcpus, platform.tsc_deadline),
    )?;
    set_msrs(vcpu, &BOOT_MSRS)?;
    set_lapic(vcpu)?;
    Ok(Vec::new())
}

/// Wires the local APIC's two pins as PCs do (MultiProcessor specification 1.4 §3.6.2): the PIC's interrupts and NMIs.
fn set_lapic(vcpu: &VcpuFd) -> Result<(), VcpuError> {
    let mut lapic = vcpu.get_lapic().map_err(refused("KVM_GET_LAPIC"))?;
    for (offset, mode) in [(LAPIC_LINT0, LAPIC_MODE_EXTINT), (LAPIC_LINT1, LAPIC_MODE_NMI)] {
        if let Some(register) = lapic
            .regs
            .get_mut(offset..)
            .and_then(|rest| rest.first_chunk_mut::<4>())
        {
            let old = u32::from_le_bytes(register.map(i8::cast_unsigned));
            *register = ((old & !LAPIC_MODE_MASK) | mode).to_le_bytes().map(u8::cast_signed);
        }
    }
    vcpu.set_lapic(&lapic).map_err(refused("KVM_SET_LAPIC"))
}

/// Sets the registers of the boot vCPU. The others wait for its signal (INIT, SIPI).
///
/// # Errors
/// What KVM refuses.
pub fn set_boot_registers(vcpu: &VcpuFd, boot: &BootInfo) -> Result<(), VcpuError> {
    let wanted = &boot.registers;
    let mut sregs = vcpu.get_sregs().map_err(refused("KVM_GET_SREGS"))?;
    let data = segment(&wanted.segments.data);
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.cs = segment(&wanted.segments.code);
    sregs.tr = segment(&wanted.segments.task);
    sregs.gdt = kvm_dtable {
        base: wanted.gdt.0,
        limit: wanted.gdt.1,
        ..kvm_dtable::default()
    };
    sregs.idt = kvm_dtable {
        base: wanted.idt.0,
        limit: wanted.idt.1,
        ..kvm_dtable::default()
    };
    (sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer) = (wanted.cr0, wanted.cr3, wanted.cr4, wanted.efer);
    vcpu.set_sregs(&sregs).map_err(refused("KVM_SET_SREGS"))?;
    let mut regs = vcpu.get_regs().map_err(refused("KVM_GET_REGS"))?;
    (regs.rip, regs.rsp, regs.rbp, regs.rbx, regs.rsi, regs.rflags) = (
        wanted.rip,
        wanted.rsp,
        wanted.rsp,
        wanted.rbx,
        wanted.rsi,
        wanted.rflags,
    );
    vcpu.set_regs(&regs).map_err(refused("KVM_SET_REGS"))
}

/// A segment as KVM has it.
fn segment(segment: &Segment) -> kvm_segment {
    let (access, flags) = (segment.access, segment.flags);
    kvm_segment {
        base: segment.base.into(),
        limit: segment.limit,
        selector: segment.selector,
        type_: access & 0xf,
        s: access >> 4 & 1,
        dpl: access >> 5 & 3,
        present: access >> 7 & 1,
        avl: flags & 1,
        l: flags >> 1 & 1,
        db: flags >> 2 & 1,
        g: flags >> 3 & 1,
        unusable: 0,
        padding: 0,
    }
}
