//! Looking at the host for a fingerprint.

use kvm_ioctls::{Cap, Kvm};

use crate::architecture::Architecture;
use crate::fingerprint::{Fact, Fingerprint, Rule};
use crate::x86_64::kvm::platform::{PlatformError, refused};
use crate::x86_64::kvm::vcpu;
use crate::x86_64::{cpuid, features};

/// Capabilities that a snapshot's state depends on.
const CAPABILITIES: [(Cap, &str); 6] = [
    (Cap::TscDeadlineTimer, "KVM_CAP_TSC_DEADLINE_TIMER"),
    (Cap::TscControl, "KVM_CAP_TSC_CONTROL"),
    (Cap::GetTscKhz, "KVM_CAP_GET_TSC_KHZ"),
    (Cap::Xcrs, "KVM_CAP_XCRS"),
    (Cap::KvmclockCtrl, "KVM_CAP_KVMCLOCK_CTRL"),
    (Cap::VcpuEvents, "KVM_CAP_VCPU_EVENTS"),
];

/// Describes this host, as far as guests can tell.
///
/// # Errors
/// What KVM refuses.
pub fn fingerprint(kvm: &Kvm) -> Result<Fingerprint, PlatformError> {
    let supported = vcpu::supported_cpuid(kvm).map_err(refused("KVM_GET_SUPPORTED_CPUID"))?;
    let guest = cpuid::for_vcpu(&supported, 0, 1, kvm.check_extension(Cap::TscDeadlineTimer));
    let mut facts = features::facts(&guest);
    facts.extend(CAPABILITIES.iter().map(|(capability, name)| Fact {
        name: (*name).into(),
        value: u64::from(kvm.check_extension(*capability)),
        rule: Rule::Bits,
    }));
    let xsave = u64::try_from(kvm.check_extension_int(Cap::Xsave2))
        .unwrap_or(0)
        .max(4096);
    facts.push(Fact {
        name: "the size of extended registers".into(),
        value: xsave,
        rule: Rule::AtLeast,
    });
    Ok(Fingerprint::new(Architecture::X86_64, facts, None, false))
}
