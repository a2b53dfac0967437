//! What KVM must be able to do.

use kvm_ioctls::{Cap, Kvm};

/// What this host's KVM lacks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MissingCapability {
    /// KVM speaks another version of its interface; 12 has been the only one since Linux 2.6.22.
    #[error("KVM's interface has version {found}, not 12")]
    Version {
        /// Its version.
        found: i32,
    },
    /// A capability that no virtual machine can do without.
    #[error("KVM does not offer {names}", names = .names.join(", "))]
    Capabilities {
        /// Their names in Documentation/virt/kvm/api.rst.
        names: Vec<&'static str>,
    },
}

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
    match kvm.get_api_version() {
        12 => {}
        found => return Err(MissingCapability::Version { found }),
    }
    let names: Vec<_> = REQUIRED
        .iter()
        .filter(|(capability, _)| !kvm.check_extension(*capability))
        .map(|(_, name)| *name)
        .collect();
    if names.is_empty() {
        Ok(())
    } else {
        Err(MissingCapability::Capabilities { names })
    }
}
