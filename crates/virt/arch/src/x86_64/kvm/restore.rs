//! Restoring, in the order that KVM wants:
//!
//! 1. CPUID: it decides which MSRs, extended registers and control bits there are; since Linux 6.13 KVM refuses MSRs that CPUID does
//!    not have.
//! 2. The counter's frequency, before its value.
//! 3. MP state: what waits for INIT and SIPI does not lose them later.
//! 4. General and special registers; the latter hold the local APIC's base and mode, and paging, on which the next depend.
//! 5. XCR0, where there is one, then the extended registers that it enables.
//! 6. Debug registers.
//! 7. The local APIC: its timer's mode must be there before a deadline is written.
//! 8. MSRs, but for those that are time.
//! 9. Pending events last: nothing above may drop or inject them.
//!
//! Then, when all vCPUs are in place, the platform: the PIT, and the interrupt controllers, whose pending interrupts are delivered into
//! the local APICs at that moment (earlier they would be overwritten). Time is last and all at once (`restore_time`): counters, then
//! deadlines, which are compared with them, then the clock, which is relative to them.

use kvm_bindings::kvm_xcrs;
use kvm_ioctls::{VcpuFd, VmFd};

use crate::x86_64::kvm::platform::{Platform, PlatformError, refused as platform_refused};
use crate::x86_64::kvm::save::CHIPS;
use crate::x86_64::kvm::state::{Chip, PlatformState, VcpuState};
use crate::x86_64::kvm::vcpu::{VcpuError, refused, set_cpuid, set_msrs};
use crate::x86_64::kvm::xsave;
use crate::x86_64::msrs;

impl Platform {
    /// Restores a vCPU that has not run, but for its time (`restore_time`).
    ///
    /// # Errors
    /// KVM refuses a value: the state is of another host, or forged.
    pub fn restore_vcpu(&self, vcpu: &VcpuFd, state: &VcpuState) -> Result<(), VcpuError> {
        set_cpuid(vcpu, state.cpuid.as_slice())?;
        if let Some(khz) = state.tsc_khz
            && vcpu.get_tsc_khz().is_ok_and(|now| now != khz)
        {
            vcpu.set_tsc_khz(khz).map_err(refused("KVM_SET_TSC_KHZ"))?;
        }
        vcpu.set_mp_state(state.mp_state).map_err(refused("KVM_SET_MP_STATE"))?;
        vcpu.set_regs(&state.regs).map_err(refused("KVM_SET_REGS"))?;
        vcpu.set_sregs(&state.sregs).map_err(refused("KVM_SET_SREGS"))?;
        set_xcrs(vcpu, state.xcrs.as_slice())?;
        xsave::set(vcpu, self.xsave, &state.xsave)?;
        vcpu.set_debug_regs(&state.debugregs)
            .map_err(refused("KVM_SET_DEBUGREGS"))?;
        vcpu.set_lapic(&state.lapic).map_err(refused("KVM_SET_LAPIC"))?;
        let msrs = state.msrs.as_slice().iter().copied();
        let lasting: Vec<_> = msrs.filter(|(index, _)| !msrs::is_time(*index)).collect();
        set_msrs(vcpu, &lasting)?;
        vcpu.set_vcpu_events(&state.events)
            .map_err(refused("KVM_SET_VCPU_EVENTS"))
    }

    /// Restores what is no vCPU's, but for time, after all vCPUs are restored and before any runs.
    ///
    /// # Errors
    /// KVM refuses a value: the state is of another host, or forged.
    pub fn restore(&self, vm: &VmFd, state: &PlatformState) -> Result<(), PlatformError> {
        vm.set_pit2(&state.pit).map_err(platform_refused("KVM_SET_PIT2"))?;
        for (Chip(chip), id) in state.chips.iter().zip(CHIPS) {
            let mut chip = *chip;
            chip.chip_id = id; // each to its own, whatever the snapshot says
            vm.set_irqchip(&chip).map_err(platform_refused("KVM_SET_IRQCHIP"))?;
        }
        Ok(())
    }
}

/// Sets the extended control registers, if the snapshot has any; a host without them refuses.
fn set_xcrs(vcpu: &VcpuFd, registers: &[(u32, u64)]) -> Result<(), VcpuError> {
    if registers.is_empty() {
        return Ok(());
    }
    // The list's bound is the array's length.
    let mut xcrs = kvm_xcrs {
        nr_xcrs: u32::try_from(registers.len()).unwrap_or(0),
        ..kvm_xcrs::default()
    };
    for (place, (xcr, value)) in xcrs.xcrs.iter_mut().zip(registers) {
        (place.xcr, place.value) = (*xcr, *value);
    }
    vcpu.set_xcrs(&xcrs).map_err(refused("KVM_SET_XCRS"))
}

/// Tells the guest that it did not run for a while, so that it does not take this for a stuck CPU (`KVM_KVMCLOCK_CTRL`). Call for each
/// vCPU after a pause. A guest that does not use kvm-clock is not told, and that is no error.
///
/// # Errors
/// What KVM refuses.
pub fn tell_of_pause(vcpu: &VcpuFd) -> Result<(), VcpuError> {
    /// `EINVAL`: the guest has no kvm-clock.
    const EINVAL: i32 = 22;
    match vcpu.kvmclock_ctrl() {
        Err(error) if error.errno() == EINVAL => Ok(()),
        result => result.map_err(refused("KVM_KVMCLOCK_CTRL")),
    }
}
