//! Setting up, saving and restoring a vCPU.
#![expect(
    unsafe_code,
    reason = "the number of registers is in the head of a list with a flexible array"
)]

use std::sync::atomic::Ordering;

use kvm_bindings::{
    KVM_ARM_VCPU_PMU_V3, KVM_ARM_VCPU_PMU_V3_CTRL, KVM_ARM_VCPU_PMU_V3_INIT, KVM_ARM_VCPU_PMU_V3_IRQ,
    KVM_ARM_VCPU_POWER_OFF, KVM_ARM_VCPU_PSCI_0_2, RegList, kvm_device_attr, kvm_mp_state, kvm_vcpu_events,
    kvm_vcpu_init,
};
use kvm_ioctls::VcpuFd;
use vmm_sys_util::errno;

use crate::aarch64::boot_tables::BootInfo;
use crate::aarch64::fdt::PERFORMANCE_MONITOR_PPI;
use crate::aarch64::kvm::platform::{Platform, PlatformError, refused as platform_refused};
use crate::aarch64::kvm::state::{MAX_REGISTER_BYTES, MAX_REGISTERS, VcpuState};
use crate::aarch64::registers::{CLEARING, COUNTERS};
use crate::host::Warning;
use crate::state::{Hex, List};

/// `EINVAL`: the host has no such feature.
const EINVAL: i32 = 22;
/// Registers asked for at first; the most that the bindings have room for.
const LISTED_REGISTERS: usize = 500;

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
    /// KVM does not give or take a register's value.
    #[error("KVM refused the register {id:#x}")]
    RegisterRefused {
        /// The register's number in KVM's interface.
        id: u64,
        /// KVM's error.
        #[source]
        source: errno::Error,
    },
    /// A register's value in the snapshot has the wrong length.
    #[error("{bytes} bytes for the register {id:#x}")]
    RegisterBytes {
        /// The register's number in KVM's interface.
        id: u64,
        /// How many bytes there are.
        bytes: usize,
    },
    /// A list is longer than it may be.
    #[error("{count} {what} are too many")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        count: usize,
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

pub(super) fn prepare(platform: &Platform, vcpu: &VcpuFd, index: u8) -> Result<Vec<Warning>, VcpuError> {
    if index >= platform.vcpus {
        return Err(VcpuError::NoSuchVcpu { index });
    }
    let mut init = platform.target;
    let mut features = 1 << KVM_ARM_VCPU_PSCI_0_2;
    if index > 0 {
        features |= 1 << KVM_ARM_VCPU_POWER_OFF;
    }
    let monitor = if platform.has_performance_monitor() {
        1 << KVM_ARM_VCPU_PMU_V3
    } else {
        0
    };
    set_features(&mut init, features | monitor);
    match vcpu.vcpu_init(&init) {
        Ok(()) => Ok(Vec::new()),
        // All vCPUs must have the same features, so only the first may find out.
        Err(error) if error.errno() == EINVAL && monitor != 0 && index == 0 => {
            set_features(&mut init, features);
            vcpu.vcpu_init(&init).map_err(refused("KVM_ARM_VCPU_INIT"))?;
            platform.performance_monitor.store(false, Ordering::Relaxed);
            Ok(vec![Warning::NoPerformanceMonitor])
        }
        Err(source) => Err(VcpuError::Kvm {
            call: "KVM_ARM_VCPU_INIT",
            source,
        }),
    }
}

fn set_features(init: &mut kvm_vcpu_init, features: u32) {
    if let Some(first) = init.features.first_mut() {
        *first = features;
    }
}

/// Wires the performance monitor to its interrupt and starts it, when the interrupt controller is there.
pub(super) fn start_performance_monitor(vcpu: &VcpuFd) -> Result<(), PlatformError> {
    // The interrupt by the GIC's own number, an `int`.
    let interrupt = PERFORMANCE_MONITOR_PPI + 16;
    let attribute = |attr: u32, addr| kvm_device_attr {
        group: KVM_ARM_VCPU_PMU_V3_CTRL,
        attr: attr.into(),
        addr,
        flags: 0,
    };
    vcpu.set_device_attr(&attribute(KVM_ARM_VCPU_PMU_V3_IRQ, (&raw const interrupt) as u64))
        .map_err(platform_refused("the performance monitor's interrupt"))?;
    vcpu.set_device_attr(&attribute(KVM_ARM_VCPU_PMU_V3_INIT, 0))
        .map_err(platform_refused("the performance monitor's initialisation"))
}

/// Sets the registers of the boot vCPU. The others wait to be switched on.
///
/// # Errors
/// What KVM refuses.
pub fn set_boot_registers(vcpu: &VcpuFd, boot: &BootInfo) -> Result<(), VcpuError> {
    for (id, value) in boot.registers() {
        vcpu.set_one_reg(id, &value.to_le_bytes())
            .map_err(|source| VcpuError::RegisterRefused { id, source })?;
    }
    Ok(())
}

/// Tells the guest that it did not run for a while. On aarch64 the guest's counter is KVM's to keep, and nothing is to be said.
///
/// # Errors
/// None here; x86_64 has a system call for it.
pub const fn tell_of_pause(_vcpu: &VcpuFd) -> Result<(), VcpuError> {
    Ok(())
}

/// The numbers of all registers that KVM saves and restores.
pub(super) fn listed(vcpu: &VcpuFd) -> Result<Vec<u64>, VcpuError> {
    let mut list = RegList::new(LISTED_REGISTERS).map_err(|_| VcpuError::TooMany {
        what: "registers",
        count: LISTED_REGISTERS,
    })?;
    if let Err(source) = vcpu.get_reg_list(&mut list) {
        // SAFETY: only the number is read, which KVM sets to what it has when that is more than there is room for.
        let header = unsafe { list.as_mut_fam_struct() };
        let count = usize::try_from(header.n).unwrap_or(usize::MAX);
        return Err(if count > LISTED_REGISTERS {
            VcpuError::TooMany {
                what: "registers",
                count,
            }
        } else {
            VcpuError::Kvm {
                call: "KVM_GET_REG_LIST",
                source,
            }
        });
    }
    Ok(list.as_slice().to_vec())
}

/// How many bytes a register has, by its number (`KVM_REG_SIZE_MASK` in include/uapi/linux/kvm.h): a power of two up to 256.
const fn register_bytes(id: u64) -> usize {
    1 << ((id >> 52) & 0xf)
}

impl Platform {
    /// Saves a vCPU that is stopped, and whose last exit is completed (`KVM_RUN` with `immediate_exit`).
    ///
    /// # Errors
    /// What KVM refuses.
    pub fn save_vcpu(&self, vcpu: &VcpuFd) -> Result<VcpuState, VcpuError> {
        let mut registers = Vec::new();
        for id in listed(vcpu)? {
            let mut buffer = [0; MAX_REGISTER_BYTES];
            let wanted = register_bytes(id);
            let place = buffer
                .get_mut(..wanted)
                .ok_or(VcpuError::RegisterBytes { id, bytes: wanted })?;
            vcpu.get_one_reg(id, place)
                .map_err(|source| VcpuError::RegisterRefused { id, source })?;
            registers.push((
                id,
                Hex::new(place).ok_or(VcpuError::RegisterBytes { id, bytes: wanted })?,
            ));
        }
        Ok(VcpuState {
            mp_state: vcpu.get_mp_state().map_err(refused("KVM_GET_MP_STATE"))?.mp_state,
            system_error: vcpu.get_vcpu_events().ok().map(|events| {
                let exception = events.exception;
                (
                    exception.serror_pending != 0,
                    (exception.serror_has_esr != 0).then_some(exception.serror_esr),
                )
            }),
            registers: List::new(registers).map_err(|all| VcpuError::TooMany {
                what: "registers",
                count: all.len(),
            })?,
        })
    }

    /// Restores a vCPU that is prepared and has not run. Registers go in the order in which KVM lists them: core, firmware, timer,
    /// system; then whether it runs, and last a pending error.
    ///
    /// The counters, which are the whole machine's, are left out: `restore_time` sets them when all else is in place.
    ///
    /// # Errors
    /// KVM refuses a value: the state is of another host, or forged.
    pub fn restore_vcpu(&self, vcpu: &VcpuFd, state: &VcpuState) -> Result<(), VcpuError> {
        let registers = state.registers.as_slice();
        for id in CLEARING
            .into_iter()
            .filter(|id| registers.iter().any(|(saved, _)| saved == id))
        {
            vcpu.set_one_reg(id, &u64::MAX.to_le_bytes())
                .map_err(|source| VcpuError::RegisterRefused { id, source })?;
        }
        let elsewhere = |id: &u64| CLEARING.contains(id) || COUNTERS.contains(id);
        for (id, value) in registers.iter().filter(|(id, _)| !elsewhere(id)) {
            let (id, value) = (*id, value.as_slice());
            if value.len() != register_bytes(id) {
                return Err(VcpuError::RegisterBytes { id, bytes: value.len() });
            }
            vcpu.set_one_reg(id, value)
                .map_err(|source| VcpuError::RegisterRefused { id, source })?;
        }
        vcpu.set_mp_state(kvm_mp_state {
            mp_state: state.mp_state,
        })
        .map_err(refused("KVM_SET_MP_STATE"))?;
        if let Some((true, syndrome)) = state.system_error {
            let mut events = kvm_vcpu_events::default();
            events.exception.serror_pending = 1;
            events.exception.serror_has_esr = u8::from(syndrome.is_some());
            events.exception.serror_esr = syndrome.unwrap_or(0);
            vcpu.set_vcpu_events(&events).map_err(refused("KVM_SET_VCPU_EVENTS"))?;
        }
        Ok(())
    }
}

const _: () = assert!(LISTED_REGISTERS <= MAX_REGISTERS);
