//! What a virtual machine has beside vCPUs and memory: interrupt controllers and timers, all emulated by KVM.

use kvm_bindings::{KVM_PIT_SPEAKER_DUMMY, kvm_pit_config};
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};
use vmm_sys_util::errno;

use crate::board::{GicDescription, MAX_VCPUS};
use crate::host::Warning;
use crate::x86_64::cpuid::CpuidEntry;
use crate::x86_64::kvm::vcpu::{self, VcpuError};
use crate::x86_64::kvm::xsave::XsaveSize;
use crate::x86_64::layout::{KVM_IDENTITY_MAP, KVM_TSS};
use crate::x86_64::msrs;

/// What a platform is made for.
#[derive(Debug, Clone, Copy)]
pub struct PlatformOptions {
    /// How many vCPUs there will be, 1 to 32.
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
        /// The system call's name.
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

/// The interrupt controllers and timers of a virtual machine, and what is the same for all of its vCPUs.
#[derive(Debug)]
pub struct Platform {
    pub(super) vcpus: u8,
    pub(super) supported: Vec<CpuidEntry>,
    pub(super) tsc_deadline: bool,
    pub(super) xsave: XsaveSize,
    /// Whether there are extended control registers.
    pub(super) has_xcrs: bool,
    /// The MSRs that are saved, the time stamp counter first and its deadline last.
    pub(super) msrs: Vec<u32>,
}

impl Platform {
    /// Makes them. Call before the first vCPU is created: its local APIC hangs on the interrupt controllers.
    ///
    /// # Errors
    /// What KVM refuses.
    pub fn create(kvm: &Kvm, vm: &VmFd, options: PlatformOptions) -> Result<Self, PlatformError> {
        if options.vcpus == 0 || options.vcpus > MAX_VCPUS {
            return Err(PlatformError::Vcpus {
                wanted: options.vcpus.into(),
            });
        }
        vm.set_identity_map_address(KVM_IDENTITY_MAP)
            .map_err(refused("KVM_SET_IDENTITY_MAP_ADDR"))?;
        vm.set_tss_address(KVM_TSS).map_err(refused("KVM_SET_TSS_ADDR"))?;
        vm.create_irq_chip().map_err(refused("KVM_CREATE_IRQCHIP"))?;
        // The dummy speaker answers port 0x61 in the kernel; Linux reads it while it calibrates its clock.
        let pit = kvm_pit_config {
            flags: KVM_PIT_SPEAKER_DUMMY,
            ..kvm_pit_config::default()
        };
        vm.create_pit2(pit).map_err(refused("KVM_CREATE_PIT2"))?;
        Ok(Self {
            vcpus: options.vcpus,
            supported: vcpu::supported_cpuid(kvm).map_err(refused("KVM_GET_SUPPORTED_CPUID"))?,
            tsc_deadline: kvm.check_extension(Cap::TscDeadlineTimer),
            xsave: XsaveSize::of(vm),
            has_xcrs: kvm.check_extension(Cap::Xcrs),
            msrs: kvm
                .get_msr_index_list()
                .map(|list| msrs::to_save(list.as_slice()))
                .map_err(refused("KVM_GET_MSR_INDEX_LIST"))?,
        })
    }

    /// Sets up a new vCPU as after a reset: CPUID first, since KVM decides by it which MSRs there are. Returns what could not be had
    /// and does not prevent a boot.
    ///
    /// # Errors
    /// What KVM refuses.
    pub fn prepare_vcpu(&self, vcpu: &VcpuFd, index: u8) -> Result<Vec<Warning>, VcpuError> {
        vcpu::prepare(self, vcpu, index)
    }

    /// Ends the making of the platform when all vCPUs exist. Nothing is left to do on x86_64.
    ///
    /// # Errors
    /// None here; aarch64 makes its interrupt controller at this point.
    pub fn finish(&mut self, _vm: &VmFd, vcpus: &[VcpuFd]) -> Result<Vec<Warning>, PlatformError> {
        if vcpus.len() == usize::from(self.vcpus) {
            Ok(Vec::new())
        } else {
            Err(PlatformError::OtherVcpus {
                made: vcpus.len(),
                planned: self.vcpus,
            })
        }
    }

    /// Whether the vCPUs have a performance monitor that firmware tables tell of: that is aarch64's.
    #[must_use]
    pub const fn has_performance_monitor(&self) -> bool {
        false
    }

    /// The GIC: never on x86_64.
    #[must_use]
    pub const fn gic(&self) -> Option<GicDescription> {
        None
    }
}
