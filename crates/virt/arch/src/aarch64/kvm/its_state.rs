//! Saving and restoring the interrupt translation service (Documentation/virt/kvm/devices/arm-vgic-its.rst): its tables go to guest
//! memory, at the places that its registers name, and are read from there when these registers are back.

use kvm_bindings::{
    KVM_DEV_ARM_ITS_RESTORE_TABLES, KVM_DEV_ARM_ITS_SAVE_TABLES, KVM_DEV_ARM_VGIC_GRP_CTRL,
    KVM_DEV_ARM_VGIC_GRP_ITS_REGS, KVM_DEV_ARM_VGIC_SAVE_PENDING_TABLES,
};
use kvm_ioctls::DeviceFd;

use crate::aarch64::gic::{ITS, ITS_CTLR};
use crate::aarch64::kvm::device::{command, get_u64, set_u64};
use crate::aarch64::kvm::platform::{PlatformError, refused};
use crate::aarch64::kvm::state::ItsState;
use crate::state::List;

/// What the registers are called in errors.
const REGISTERS: &str = "ITS's registers";

/// Saves the service, and the pending LPIs of its GIC.
pub(super) fn save(gic: &DeviceFd, its: &DeviceFd) -> Result<ItsState, PlatformError> {
    command(
        gic,
        KVM_DEV_ARM_VGIC_GRP_CTRL,
        KVM_DEV_ARM_VGIC_SAVE_PENDING_TABLES.into(),
    )
    .map_err(refused("saving pending LPIs"))?;
    command(its, KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_ITS_SAVE_TABLES.into())
        .map_err(refused("saving the ITS's tables"))?;
    let read = |offset| get_u64(its, KVM_DEV_ARM_VGIC_GRP_ITS_REGS, offset).map_err(refused(REGISTERS));
    let values = ITS.into_iter().map(read).collect::<Result<Vec<_>, _>>()?;
    let registers = List::new(values).map_err(|values| PlatformError::WrongCount {
        part: REGISTERS,
        saved: values.len(),
        wanted: ITS.len(),
    })?;
    Ok(ItsState {
        registers,
        control: read(ITS_CTLR)?,
    })
}

/// Restores the service, after guest memory and everything of its GIC.
pub(super) fn restore(its: &DeviceFd, state: &ItsState) -> Result<(), PlatformError> {
    let values = state.registers.as_slice();
    if values.len() != ITS.len() {
        return Err(PlatformError::WrongCount {
            part: REGISTERS,
            saved: values.len(),
            wanted: ITS.len(),
        });
    }
    let write = |offset, value| set_u64(its, KVM_DEV_ARM_VGIC_GRP_ITS_REGS, offset, value).map_err(refused(REGISTERS));
    for (offset, value) in ITS.into_iter().zip(values) {
        // A register that the guest never set reads as it does here already. Writing it would set attributes of memory in it.
        if get_u64(its, KVM_DEV_ARM_VGIC_GRP_ITS_REGS, offset).map_err(refused(REGISTERS))? != *value {
            write(offset, *value)?;
        }
    }
    command(its, KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_ITS_RESTORE_TABLES.into())
        .map_err(refused("restoring the ITS's tables"))?;
    write(ITS_CTLR, state.control)
}
