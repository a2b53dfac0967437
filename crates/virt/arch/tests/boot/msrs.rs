//! Model-specific registers, set and read from outside of the guest.

use kvm_bindings::{KVM_CAP_ENFORCE_PV_FEATURE_CPUID, Msrs, kvm_enable_cap, kvm_msr_entry};
use kvm_ioctls::{Kvm, VcpuFd};

/// Registers that a vCPU has by its CPUID, and values that each takes which are not those after a reset: `IA32_TSC_AUX` (RDTSCP, RDPID),
/// `IA32_XSS` (XSAVES), `IA32_SPEC_CTRL` (IBRS), `IA32_UMWAIT_CONTROL` (WAITPKG), `IA32_BNDCFGS` (MPX), `IA32_XFD` (AMX) (Intel SDM vol. 4).
const DEPENDENT: [(u32, u64); 6] = [
    (0xc000_0103, 0x77),
    (0xda0, 1 << 11),
    (0x48, 1),
    (0xe1, 0x1000),
    (0xd90, 0x1000),
    (0x1c4, 1 << 18),
];
/// Registers that every 64-bit vCPU has and that nothing here uses: `KERNEL_GS_BASE`, `CSTAR`, `IA32_SYSENTER_EIP`, `IA32_PAT`.
const OTHERS: [(u32, u64); 4] = [
    (0xc000_0102, 0x1234_5eed_0102),
    (0xc000_0083, 0x5eed_0083),
    (0x176, 0x5eed_0176),
    (0x277, 0x0007_0406_0007_0401),
];

/// Sets all of them that there are here; returns these. What KVM does not list, no guest of its has.
pub(crate) fn set_what_depends_on_cpuid(kvm: &Kvm, vcpu: &VcpuFd) -> Vec<(u32, u64)> {
    let listed = kvm.get_msr_index_list().unwrap();
    for (index, value) in OTHERS {
        assert!(set(vcpu, index, value), "{index:#x}");
    }
    let dependent = DEPENDENT
        .into_iter()
        .filter(|(index, value)| listed.as_slice().contains(index) && set(vcpu, *index, *value));
    OTHERS.into_iter().chain(dependent).collect()
}

fn set(vcpu: &VcpuFd, index: u32, data: u64) -> bool {
    vcpu.set_msrs(&list(index, data)).unwrap() == 1 && get(vcpu, index) == Some(data)
}

/// A register's value, if there is this register.
pub(crate) fn get(vcpu: &VcpuFd, index: u32) -> Option<u64> {
    let mut list = list(index, 0);
    (vcpu.get_msrs(&mut list).unwrap() == 1).then(|| list.as_slice()[0].data)
}

fn list(index: u32, data: u64) -> Msrs {
    Msrs::from_entries(&[kvm_msr_entry {
        index,
        data,
        ..kvm_msr_entry::default()
    }])
    .unwrap()
}

/// Has KVM refuse its own registers (kvm-clock's and others) to a vCPU without them in its CPUID, as it refuses others since Linux 6.13.
pub(crate) fn enforce_cpuid(vcpu: &VcpuFd) {
    let enforced = kvm_enable_cap {
        cap: KVM_CAP_ENFORCE_PV_FEATURE_CPUID,
        args: [1, 0, 0, 0],
        ..kvm_enable_cap::default()
    };
    vcpu.enable_cap(&enforced).unwrap();
}
