//! Looking at the host for a fingerprint.
#![expect(unsafe_code, reason = "the counter's frequency is in a register")]

use kvm_ioctls::Kvm;

use crate::aarch64::kvm::platform::{Platform, PlatformError, PlatformOptions, refused};
use crate::aarch64::kvm::vcpu::{VcpuError, listed};
use crate::aarch64::registers::feature_register;
use crate::architecture::Architecture;
use crate::fingerprint::{Fact, Fingerprint, Rule};

/// Describes this host, as far as guests can tell. It makes a virtual machine of one vCPU to look at its registers.
///
/// # Errors
/// What KVM refuses.
pub fn fingerprint(kvm: &Kvm) -> Result<Fingerprint, PlatformError> {
    let vm = kvm.create_vm().map_err(refused("KVM_CREATE_VM"))?;
    let mut platform = Platform::create(kvm, &vm, PlatformOptions { vcpus: 1 })?;
    let vcpu = vm.create_vcpu(0).map_err(refused("KVM_CREATE_VCPU"))?;
    platform.prepare_vcpu(&vcpu, 0).map_err(of_vcpu)?;
    let monitor = platform.has_performance_monitor();
    let mut facts = vec![Fact {
        name: "a performance monitor".into(),
        value: monitor.into(),
        rule: Rule::Same,
    }];
    // The guest reads it from the processor, and reckons time by it: KVM can't give it another.
    facts.push(Fact {
        name: "the counter's frequency".into(),
        value: counter_frequency(),
        rule: Rule::Same,
    });
    for id in listed(&vcpu).map_err(of_vcpu)? {
        let Some(name) = feature_register(id) else { continue };
        let mut value = [0; 8];
        vcpu.get_one_reg(id, &mut value).map_err(refused("KVM_GET_ONE_REG"))?;
        // KVM takes a register of features back only with the value that it would give itself.
        facts.push(Fact {
            name,
            value: u64::from_le_bytes(value),
            rule: Rule::Same,
        });
    }
    // Made in earnest: `KVM_CREATE_DEVICE_TEST` answers with descriptor 0, which the crate's type would own and close.
    platform.finish(&vm, &[vcpu])?;
    let gic = platform.gic();
    let its = gic.as_ref().is_some_and(|gic| gic.its.is_some());
    Ok(Fingerprint::new(
        Architecture::Aarch64,
        facts,
        gic.map(|gic| gic.version),
        its,
    ))
}

/// CNTFRQ_EL0, in hertz. Linux lets programs read it (Documentation/arch/arm64/cpu-feature-registers.rst; the vDSO's clock does).
pub(super) fn counter_frequency() -> u64 {
    let hertz: u64;
    // SAFETY: reading this register has no effect, touches no memory and no flags.
    unsafe { core::arch::asm!("mrs {}, cntfrq_el0", out(reg) hertz, options(nomem, nostack, preserves_flags)) };
    hertz
}

/// The same failure, as the platform's.
fn of_vcpu(error: VcpuError) -> PlatformError {
    PlatformError::Vcpu(Box::new(error))
}
