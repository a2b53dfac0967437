//! Making the interrupt controller: GICv3, with its ITS where there is one, or else GICv2.

use kvm_bindings::{
    KVM_DEV_ARM_VGIC_CTRL_INIT, KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_GRP_NR_IRQS,
    KVM_VGIC_ITS_ADDR_TYPE, KVM_VGIC_V2_ADDR_TYPE_CPU, KVM_VGIC_V2_ADDR_TYPE_DIST, KVM_VGIC_V3_ADDR_TYPE_DIST,
    KVM_VGIC_V3_ADDR_TYPE_REDIST, kvm_create_device, kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_ITS,
    kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V2, kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3,
};
use kvm_ioctls::{DeviceFd, VmFd};
use vmm_sys_util::errno;

use crate::aarch64::kvm::device::{command, set_u32, set_u64};
use crate::aarch64::kvm::platform::{PlatformError, refused};
use crate::aarch64::layout::{
    GIC_DISTRIBUTOR, GIC_INTERRUPTS, GIC_ITS, GIC_ITS_BYTES, GICV2_CPU_INTERFACE, GICV2_CPU_INTERFACE_BYTES,
    GICV2_DISTRIBUTOR_BYTES, GICV3_DISTRIBUTOR_BYTES, GICV3_REDISTRIBUTOR_BYTES, GICV3_REDISTRIBUTORS,
};
use crate::board::{GicDescription, GicVersion};

/// Errors that mean "this host has no such device".
const ENODEV: i32 = 19;
/// GICv2 numbers its CPUs with 3 bits.
const GICV2_MAX_VCPUS: usize = 8;

/// The interrupt controller of a virtual machine.
#[derive(Debug)]
pub(super) struct Gic {
    pub(super) version: GicVersion,
    pub(super) device: DeviceFd,
    pub(super) its: Option<DeviceFd>,
}

impl Gic {
    /// Makes it, when all vCPUs exist.
    pub(super) fn create(vm: &VmFd, vcpus: usize) -> Result<Self, PlatformError> {
        match create_device(vm, kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3) {
            Ok(device) => Self::finish_v3(vm, device),
            Err(error) if error.errno() == ENODEV => Self::create_v2(vm, vcpus),
            Err(source) => Err(PlatformError::Kvm {
                call: "KVM_CREATE_DEVICE (GICv3)",
                source,
            }),
        }
    }

    fn finish_v3(vm: &VmFd, device: DeviceFd) -> Result<Self, PlatformError> {
        let set_address = |kind: u32, address| set_u64(&device, KVM_DEV_ARM_VGIC_GRP_ADDR, kind.into(), address);
        set_address(KVM_VGIC_V3_ADDR_TYPE_DIST, GIC_DISTRIBUTOR).map_err(refused("the distributor's address"))?;
        set_address(KVM_VGIC_V3_ADDR_TYPE_REDIST, GICV3_REDISTRIBUTORS)
            .map_err(refused("the redistributors' address"))?;
        initialise(&device)?;
        let its = match create_device(vm, kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_ITS) {
            Ok(its) => {
                set_u64(&its, KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_VGIC_ITS_ADDR_TYPE.into(), GIC_ITS)
                    .map_err(refused("the ITS's address"))?;
                command(&its, KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_CTRL_INIT.into())
                    .map_err(refused("the ITS's initialisation"))?;
                Some(its)
            }
            Err(error) if error.errno() == ENODEV => None,
            Err(source) => {
                return Err(PlatformError::Kvm {
                    call: "KVM_CREATE_DEVICE (ITS)",
                    source,
                });
            }
        };
        Ok(Self {
            version: GicVersion::V3,
            device,
            its,
        })
    }

    fn create_v2(vm: &VmFd, vcpus: usize) -> Result<Self, PlatformError> {
        if vcpus > GICV2_MAX_VCPUS {
            return Err(PlatformError::TooManyForGic {
                wanted: vcpus,
                most: GICV2_MAX_VCPUS,
            });
        }
        let device = create_device(vm, kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V2)
            .map_err(refused("KVM_CREATE_DEVICE (GICv2)"))?;
        let set_address = |kind: u32, address| set_u64(&device, KVM_DEV_ARM_VGIC_GRP_ADDR, kind.into(), address);
        set_address(KVM_VGIC_V2_ADDR_TYPE_DIST, GIC_DISTRIBUTOR).map_err(refused("the distributor's address"))?;
        set_address(KVM_VGIC_V2_ADDR_TYPE_CPU, GICV2_CPU_INTERFACE).map_err(refused("the CPU interface's address"))?;
        initialise(&device)?;
        Ok(Self {
            version: GicVersion::V2,
            device,
            its: None,
        })
    }

    /// What the device tree says of it.
    pub(super) fn description(&self, vcpus: u8) -> GicDescription {
        let at = |start: u64, bytes: u64| start..start.saturating_add(bytes);
        match self.version {
            GicVersion::V3 => GicDescription {
                version: self.version,
                distributor: at(GIC_DISTRIBUTOR, GICV3_DISTRIBUTOR_BYTES),
                processors: at(
                    GICV3_REDISTRIBUTORS,
                    GICV3_REDISTRIBUTOR_BYTES.saturating_mul(vcpus.into()),
                ),
                its: self.its.as_ref().map(|_| at(GIC_ITS, GIC_ITS_BYTES)),
            },
            GicVersion::V2 => GicDescription {
                version: self.version,
                distributor: at(GIC_DISTRIBUTOR, GICV2_DISTRIBUTOR_BYTES),
                processors: at(GICV2_CPU_INTERFACE, GICV2_CPU_INTERFACE_BYTES),
                its: None,
            },
        }
    }
}

/// Creates an in-kernel device.
fn create_device(vm: &VmFd, kind: u32) -> Result<DeviceFd, errno::Error> {
    vm.create_device(&mut kvm_create_device {
        type_: kind,
        fd: 0,
        flags: 0,
    })
}

/// Says how many interrupts there are, and ends the making: nothing of it can be changed afterwards.
fn initialise(device: &DeviceFd) -> Result<(), PlatformError> {
    set_u32(device, KVM_DEV_ARM_VGIC_GRP_NR_IRQS, 0, GIC_INTERRUPTS).map_err(refused("the number of interrupts"))?;
    command(device, KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_CTRL_INIT.into())
        .map_err(refused("the GIC's initialisation"))
}
