//! What a virtual machine has beside vCPUs and memory: on aarch64, the interrupt controller, which can only be made when all vCPUs exist.

use std::sync::atomic::{AtomicBool, Ordering};

use kvm_bindings::kvm_vcpu_init;
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use vmm_sys_util::errno;

use crate::aarch64::kvm::gic::Gic;
use crate::aarch64::kvm::gic_state;
use crate::aarch64::kvm::state::PlatformState;
use crate::aarch64::kvm::vcpu::{self, VcpuError};
use crate::board::{GicDescription, GicVersion, MAX_VCPUS};
use crate::host::Warning;

/// What a platform is made for.
#[derive(Debug, Clone, Copy)]
pub struct PlatformOptions {
    /// How many vCPUs there will be, 1 to 32 (1 to 8 where there is only GICv2).
    pub vcpus: u8,
}

/// Why a platform can't be made, saved or restored.
#[derive(Debug, thiserror::Error)]
pub enum PlatformError {
    /// There are no vCPUs, or more than there may be.
    #[error("{wanted} vCPUs are not between 1 and {MAX_VCPUS}")]
    Vcpus {
        /// How many were asked for.
        wanted: usize,
    },
    /// The interrupt controller has interfaces for fewer CPUs; GICv2 for 8.
    #[error("{wanted} vCPUs, but this host's interrupt controller has interfaces for {most}")]
    TooManyForGic {
        /// How many were asked for.
        wanted: usize,
        /// How many there can be.
        most: usize,
    },
    /// `finish` was not called.
    #[error("the interrupt controller is not made yet")]
    NotFinished,
    /// The snapshot's interrupt controller is another one.
    #[error("the snapshot has {saved:?}, this virtual machine {here:?}")]
    OtherGic {
        /// What the snapshot has.
        saved: GicVersion,
        /// What is here.
        here: GicVersion,
    },
    /// The snapshot has an interrupt translation service and this host not, or the other way round.
    #[error("an interrupt translation service: {saved} in the snapshot, {here} here")]
    OtherIts {
        /// Whether the snapshot has one.
        saved: bool,
        /// Whether there is one here.
        here: bool,
    },
    /// The snapshot has not as many values as there are registers.
    #[error("the snapshot has {saved} values for {wanted} of the {part}")]
    WrongCount {
        /// Of what.
        part: &'static str,
        /// How many the snapshot has.
        saved: usize,
        /// How many there are.
        wanted: usize,
    },
    /// The performance monitor is in the snapshot only, or here only.
    #[error("a performance monitor: {saved} in the snapshot, {here} here")]
    OtherPerformanceMonitor {
        /// Whether the snapshot has one.
        saved: bool,
        /// Whether there is one here.
        here: bool,
    },
    /// A vCPU can't be made for a look at its features.
    #[error("can't look at this host's features")]
    Vcpu(#[source] Box<VcpuError>),
    /// Not as many vCPUs were made as the platform is for.
    #[error("{made} vCPUs were made for a platform of {planned}")]
    OtherVcpus {
        /// How many were made.
        made: usize,
        /// How many the platform is for.
        planned: u8,
    },
    /// KVM refused.
    #[error("KVM refused {call}")]
    Kvm {
        /// The system call's name, or what was to be set by it.
        call: &'static str,
        /// Its error.
        #[source]
        source: errno::Error,
    },
}

/// Makes an error of a failed call.
pub(super) const fn refused(call: &'static str) -> impl FnOnce(errno::Error) -> PlatformError {
    move |source| PlatformError::Kvm { call, source }
}

/// The interrupt controller of a virtual machine, and what is the same for all of its vCPUs.
#[derive(Debug)]
pub struct Platform {
    pub(super) vcpus: u8,
    /// What vCPUs are initialised with, but for features.
    pub(super) target: kvm_vcpu_init,
    pub(super) gic: Option<Gic>,
    /// Whether vCPUs are given a performance monitor; cleared by the first for which the host has none, before any other is prepared.
    pub(super) performance_monitor: AtomicBool,
}

impl Platform {
    /// Begins. Little can be made before there are vCPUs.
    ///
    /// # Errors
    /// The number of vCPUs is out of range, or what KVM refuses.
    pub fn create(kvm: &Kvm, vm: &VmFd, options: PlatformOptions) -> Result<Self, PlatformError> {
        if options.vcpus == 0 || options.vcpus > MAX_VCPUS {
            return Err(PlatformError::Vcpus {
                wanted: options.vcpus.into(),
            });
        }
        // KVM's limit is that of the best interrupt controller which it can make here.
        let (wanted, most) = (usize::from(options.vcpus), kvm.get_max_vcpus());
        if wanted > most {
            return Err(PlatformError::TooManyForGic { wanted, most });
        }
        let mut target = kvm_vcpu_init::default();
        vm.get_preferred_target(&mut target)
            .map_err(refused("KVM_ARM_PREFERRED_TARGET"))?;
        Ok(Self {
            vcpus: options.vcpus,
            target,
            gic: None,
            performance_monitor: AtomicBool::new(true),
        })
    }

    /// Sets up a new vCPU as after a reset; all but the first wait to be switched on (PSCI). Call in the order of their indices.
    /// Returns what could not be had and does not prevent a boot.
    ///
    /// # Errors
    /// What KVM refuses.
    pub fn prepare_vcpu(&self, vcpu: &VcpuFd, index: u8) -> Result<Vec<Warning>, VcpuError> {
        vcpu::prepare(self, vcpu, index)
    }

    /// Makes the interrupt controller, when all vCPUs exist and are prepared: GICv3, or GICv2 where the host has no other.
    ///
    /// # Errors
    /// What KVM refuses.
    pub fn finish(&mut self, vm: &VmFd, vcpus: &[VcpuFd]) -> Result<Vec<Warning>, PlatformError> {
        if vcpus.len() != usize::from(self.vcpus) {
            return Err(PlatformError::OtherVcpus {
                made: vcpus.len(),
                planned: self.vcpus,
            });
        }
        self.gic = Some(Gic::create(vm, vcpus.len())?);
        if self.has_performance_monitor() {
            for vcpu in vcpus {
                vcpu::start_performance_monitor(vcpu)?;
            }
        }
        Ok(Vec::new())
    }

    /// The interrupt controller, after [`Platform::finish`].
    #[must_use]
    pub fn gic(&self) -> Option<GicDescription> {
        self.gic.as_ref().map(|gic| gic.description(self.vcpus))
    }

    /// Whether the vCPUs have a performance monitor, after they are prepared.
    #[must_use]
    pub fn has_performance_monitor(&self) -> bool {
        self.performance_monitor.load(Ordering::Relaxed)
    }

    /// Saves what is no vCPU's. All vCPUs are stopped. An ITS writes its tables into guest memory, so that must be saved afterwards.
    ///
    /// # Errors
    /// What KVM refuses.
    pub fn save(&self, _vm: &VmFd) -> Result<PlatformState, PlatformError> {
        let gic = self.gic.as_ref().ok_or(PlatformError::NotFinished)?;
        Ok(PlatformState {
            performance_monitor: self.has_performance_monitor(),
            gic: gic_state::save(gic, self.vcpus)?,
        })
    }

    /// Restores what is no vCPU's, after guest memory (an ITS reads its tables from it) and all vCPUs are restored, and before any runs.
    ///
    /// # Errors
    /// The state is of another host, or forged.
    pub fn restore(&self, _vm: &VmFd, state: &PlatformState) -> Result<(), PlatformError> {
        let gic = self.gic.as_ref().ok_or(PlatformError::NotFinished)?;
        let here = self.has_performance_monitor();
        if state.performance_monitor != here {
            return Err(PlatformError::OtherPerformanceMonitor {
                saved: state.performance_monitor,
                here,
            });
        }
        gic_state::restore(gic, self.vcpus, &state.gic)
    }
}
