//! Saving and restoring the interrupt controller.
//!
//! Order of restoring: the emulation's revision, private registers (where LPIs are configured before they are enabled), the distributor
//! with its control register last, CPU interfaces, line levels, and then the ITS, which needs all of that and guest memory.

use kvm_bindings::{
    KVM_DEV_ARM_VGIC_GRP_CPU_REGS, KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS, KVM_DEV_ARM_VGIC_GRP_DIST_REGS,
    KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO, KVM_DEV_ARM_VGIC_GRP_REDIST_REGS,
};
use kvm_ioctls::DeviceFd;
use vmm_sys_util::errno;

use crate::aarch64::gic::{self, GICD_IIDR, ICC_CTLR, V2_CPU_INTERFACE};
use crate::aarch64::kvm::device::{get_u32, get_u64, set_u32, set_u64};
use crate::aarch64::kvm::gic::Gic;
use crate::aarch64::kvm::its_state;
use crate::aarch64::kvm::platform::{PlatformError, refused};
use crate::aarch64::kvm::state::{GicState, ProcessorState};
use crate::aarch64::layout::GIC_INTERRUPTS;
use crate::aarch64::registers::affinity;
use crate::board::GicVersion;
use crate::state::List;

/// What private registers and CPU interfaces are called in errors.
const DISTRIBUTOR: &str = "distributor's registers";
const PRIVATE: &str = "private interrupts' registers";
const INTERFACE: &str = "CPU interface's registers";
const LEVELS: &str = "interrupt lines' levels";

/// How a CPU is named in attributes: by its affinity in GICv3 (with 8 bits for each level, as in MPIDR), by its index in GICv2.
fn named(version: GicVersion, index: u8) -> u64 {
    match version {
        GicVersion::V3 => affinity(index) << 32,
        GicVersion::V2 => u64::from(index) << 32,
    }
}

/// The attribute for 32 lines' levels (`KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO`, information 0).
fn levels_of(cpu: u64, first: u32) -> u64 {
    cpu | u64::from(first)
}

/// The first interrupts of all runs of 32 SPIs.
fn spi_runs() -> impl Iterator<Item = u32> {
    (32..GIC_INTERRUPTS).step_by(32)
}

/// The offsets of a CPU's private registers, and their group.
fn private_registers(version: GicVersion) -> (u32, Vec<u32>) {
    match version {
        GicVersion::V3 => (KVM_DEV_ARM_VGIC_GRP_REDIST_REGS, gic::v3_redistributor()),
        GicVersion::V2 => (KVM_DEV_ARM_VGIC_GRP_DIST_REGS, gic::v2_banked()),
    }
}

fn distributor_registers(version: GicVersion) -> Vec<u32> {
    match version {
        GicVersion::V3 => gic::v3_distributor(),
        GicVersion::V2 => gic::v2_distributor(),
    }
}

fn list<T, const MAX: usize>(part: &'static str, values: Vec<T>) -> Result<List<T, MAX>, PlatformError> {
    List::new(values).map_err(|values| PlatformError::WrongCount {
        part,
        saved: values.len(),
        wanted: MAX,
    })
}

fn same_count(part: &'static str, saved: usize, wanted: usize) -> Result<(), PlatformError> {
    if saved == wanted {
        Ok(())
    } else {
        Err(PlatformError::WrongCount { part, saved, wanted })
    }
}

/// Reads the controller of a machine whose vCPUs are stopped.
pub(super) fn save(gic: &Gic, vcpus: u8) -> Result<GicState, PlatformError> {
    // The ITS first: it writes its tables and the pending LPIs to guest memory, and changes none of the registers.
    let its = gic
        .its
        .as_ref()
        .map(|its| its_state::save(&gic.device, its))
        .transpose()?;
    let distributor = distributor_registers(gic.version)
        .iter()
        .map(|offset| get_u32(&gic.device, KVM_DEV_ARM_VGIC_GRP_DIST_REGS, u64::from(*offset)))
        .collect::<Result<Vec<_>, errno::Error>>()
        .map_err(refused(DISTRIBUTOR))?;
    let levels = match gic.version {
        GicVersion::V3 => spi_runs()
            .map(|first| {
                get_u32(
                    &gic.device,
                    KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO,
                    levels_of(named(gic.version, 0), first),
                )
            })
            .collect::<Result<Vec<_>, _>>()
            .map_err(refused(LEVELS))?,
        GicVersion::V2 => Vec::new(),
    };
    let processors = (0..vcpus)
        .map(|index| save_processor(gic, index))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(GicState {
        version: gic.version,
        revision: get_u32(&gic.device, KVM_DEV_ARM_VGIC_GRP_DIST_REGS, GICD_IIDR.into())
            .map_err(refused("GICD_IIDR"))?,
        distributor: list(DISTRIBUTOR, distributor)?,
        levels: list(LEVELS, levels)?,
        processors: list(PRIVATE, processors)?,
        its,
    })
}

fn save_processor(gic: &Gic, index: u8) -> Result<ProcessorState, PlatformError> {
    let (device, cpu) = (&gic.device, named(gic.version, index));
    let (group, offsets) = private_registers(gic.version);
    let private = offsets
        .iter()
        .map(|offset| get_u32(device, group, cpu | u64::from(*offset)))
        .collect::<Result<Vec<_>, _>>()
        .map_err(refused(PRIVATE))?;
    let (interface, levels) = match gic.version {
        GicVersion::V3 => {
            let read = |register: u32| get_u64(device, KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS, cpu | u64::from(register));
            let control = read(ICC_CTLR).map_err(refused("ICC_CTLR_EL1"))?;
            let values = gic::v3_cpu_interface(control)
                .into_iter()
                .map(read)
                .collect::<Result<Vec<_>, _>>();
            let levels =
                get_u32(device, KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO, levels_of(cpu, 0)).map_err(refused(LEVELS))?;
            (values.map_err(refused(INTERFACE))?, levels)
        }
        GicVersion::V2 => {
            let read =
                |offset: u32| get_u32(device, KVM_DEV_ARM_VGIC_GRP_CPU_REGS, cpu | u64::from(offset)).map(u64::from);
            (
                V2_CPU_INTERFACE
                    .into_iter()
                    .map(read)
                    .collect::<Result<Vec<_>, _>>()
                    .map_err(refused(INTERFACE))?,
                0,
            )
        }
    };
    Ok(ProcessorState {
        private: list(PRIVATE, private)?,
        interface: list(INTERFACE, interface)?,
        levels,
    })
}

/// Writes the controller of a machine whose vCPUs have not run. Everything of the state is checked against this controller first.
pub(super) fn restore(gic: &Gic, vcpus: u8, state: &GicState) -> Result<(), PlatformError> {
    if state.version != gic.version {
        return Err(PlatformError::OtherGic {
            saved: state.version,
            here: gic.version,
        });
    }
    if state.its.is_some() != gic.its.is_some() {
        return Err(PlatformError::OtherIts {
            saved: state.its.is_some(),
            here: gic.its.is_some(),
        });
    }
    let (processors, distributor) = (state.processors.as_slice(), distributor_registers(gic.version));
    same_count("CPUs", processors.len(), vcpus.into())?;
    same_count(DISTRIBUTOR, state.distributor.as_slice().len(), distributor.len())?;

    let device = &gic.device;
    set_u32(device, KVM_DEV_ARM_VGIC_GRP_DIST_REGS, GICD_IIDR.into(), state.revision).map_err(refused("GICD_IIDR"))?;
    for (index, processor) in (0..vcpus).zip(processors) {
        restore_private(device, gic.version, index, processor)?;
    }
    for (offset, value) in distributor.iter().zip(state.distributor.as_slice()) {
        set_u32(device, KVM_DEV_ARM_VGIC_GRP_DIST_REGS, u64::from(*offset), *value).map_err(refused(DISTRIBUTOR))?;
    }
    for (index, processor) in (0..vcpus).zip(processors) {
        restore_interface(device, gic.version, index, processor)?;
    }
    if gic.version == GicVersion::V3 {
        same_count(LEVELS, state.levels.as_slice().len(), spi_runs().count())?;
        for (first, value) in spi_runs().zip(state.levels.as_slice()) {
            set_u32(
                device,
                KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO,
                levels_of(named(gic.version, 0), first),
                *value,
            )
            .map_err(refused(LEVELS))?;
        }
    }
    match (&gic.its, &state.its) {
        (Some(its), Some(saved)) => its_state::restore(its, saved),
        _ => Ok(()),
    }
}

fn restore_private(
    device: &DeviceFd,
    version: GicVersion,
    index: u8,
    state: &ProcessorState,
) -> Result<(), PlatformError> {
    let (group, offsets) = private_registers(version);
    let values = state.private.as_slice();
    same_count(PRIVATE, values.len(), offsets.len())?;
    for (offset, value) in offsets.iter().zip(values) {
        set_u32(device, group, named(version, index) | u64::from(*offset), *value).map_err(refused(PRIVATE))?;
    }
    Ok(())
}

fn restore_interface(
    device: &DeviceFd,
    version: GicVersion,
    index: u8,
    state: &ProcessorState,
) -> Result<(), PlatformError> {
    let (cpu, values) = (named(version, index), state.interface.as_slice());
    match version {
        GicVersion::V3 => {
            // The saved control register says how many active priority registers were saved; it is the second.
            let registers = gic::v3_cpu_interface(values.get(1).copied().unwrap_or(0));
            same_count(INTERFACE, values.len(), registers.len())?;
            for (register, value) in registers.iter().zip(values) {
                set_u64(
                    device,
                    KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS,
                    cpu | u64::from(*register),
                    *value,
                )
                .map_err(refused(INTERFACE))?;
            }
            set_u32(device, KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO, levels_of(cpu, 0), state.levels).map_err(refused(LEVELS))
        }
        GicVersion::V2 => {
            same_count(INTERFACE, values.len(), V2_CPU_INTERFACE.len())?;
            for (offset, value) in V2_CPU_INTERFACE.iter().zip(values) {
                // 32-bit registers; a forged value's upper half is dropped.
                let value = u32::try_from(*value & 0xffff_ffff).unwrap_or(0);
                set_u32(device, KVM_DEV_ARM_VGIC_GRP_CPU_REGS, cpu | u64::from(*offset), value)
                    .map_err(refused(INTERFACE))?;
            }
            Ok(())
        }
    }
}
