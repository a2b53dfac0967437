//! Looking at the host for a fingerprint.

use kvm_bindings::{
    KVM_CREATE_DEVICE_TEST, kvm_create_device, kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_ITS,
    kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V2, kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3,
};
use kvm_ioctls::{Kvm, VmFd};

use crate::aarch64::kvm::platform::{Platform, PlatformError, PlatformOptions, refused};
use crate::aarch64::kvm::vcpu::{VcpuError, listed};
use crate::aarch64::registers::feature_register;
use crate::architecture::Architecture;
use crate::board::GicVersion;
use crate::fingerprint::{Fact, Fingerprint, Rule};

/// Describes this host, as far as guests can tell. It makes a virtual machine of one vCPU to look at its registers.
///
/// # Errors
/// What KVM refuses.
pub fn fingerprint(kvm: &Kvm) -> Result<Fingerprint, PlatformError> {
    let vm = kvm.create_vm().map_err(refused("KVM_CREATE_VM"))?;
    let platform = Platform::create(kvm, &vm, PlatformOptions { vcpus: 1 })?;
    let vcpu = vm.create_vcpu(0).map_err(refused("KVM_CREATE_VCPU"))?;
    platform.prepare_vcpu(&vcpu, 0).map_err(of_vcpu)?;
    let monitor = platform.has_performance_monitor();
    let mut facts = vec![Fact {
        name: "a performance monitor".into(),
        value: monitor.into(),
        rule: Rule::Same,
    }];
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
    let gic = if exists(&vm, kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3) {
        Some(GicVersion::V3)
    } else if exists(&vm, kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V2) {
        Some(GicVersion::V2)
    } else {
        None
    };
    let its = gic == Some(GicVersion::V3) && exists(&vm, kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_ITS);
    Ok(Fingerprint::new(Architecture::Aarch64, facts, gic, its))
}

/// Whether such a device could be created.
fn exists(vm: &VmFd, kind: u32) -> bool {
    vm.create_device(&mut kvm_create_device {
        type_: kind,
        fd: 0,
        flags: KVM_CREATE_DEVICE_TEST,
    })
    .is_ok()
}

/// The same failure, as the platform's.
fn of_vcpu(error: VcpuError) -> PlatformError {
    PlatformError::Vcpu(Box::new(error))
}
