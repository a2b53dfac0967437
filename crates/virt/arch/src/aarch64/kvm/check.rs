//! What KVM must be able to do.

use kvm_ioctls::{Cap, Kvm};

use crate::host::{MissingCapability, require};

/// All capabilities without which no virtual machine is made.
const REQUIRED: [(Cap, &str); 9] = [
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
    (Cap::OneReg, "KVM_CAP_ONE_REG"),
    (Cap::ArmPsci02, "KVM_CAP_ARM_PSCI_0_2"),
    (Cap::DeviceCtrl, "KVM_CAP_DEVICE_CTRL"),
    (Cap::Irqfd, "KVM_CAP_IRQFD"),
    (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
    (Cap::MpState, "KVM_CAP_MP_STATE"),
];

/// Says whether this host's KVM can do what every virtual machine needs.
///
/// # Errors
/// Everything that is missing.
pub fn check(kvm: &Kvm) -> Result<(), MissingCapability> {
    require(kvm.get_api_version(), &REQUIRED, |capability| {
        kvm.check_extension(capability)
    })
}
