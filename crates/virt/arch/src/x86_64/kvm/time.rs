//! Time at a restore: time stamp counters, what is to happen at one of their values, and kvm-clock.
//!
//! A guest reads the counters or kvm-clock, whichever it finds better, so both go on where they stopped or step by the same time.
#![expect(
    unsafe_code,
    reason = "a vCPU's attributes are read and written by system calls that the crate has for aarch64 only"
)]

use std::time::Duration;

use kvm_bindings::{
    KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, KVMIO, Msrs, kvm_clock_data, kvm_device_attr, kvm_msr_entry,
};
use kvm_ioctls::{VcpuFd, VmFd};
use vmm_sys_util::errno;
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::ioctl_iow_nr;

use crate::clock;
use crate::x86_64::kvm::platform::Platform;
use crate::x86_64::kvm::state::{PlatformState, VcpuState};
use crate::x86_64::kvm::vcpu::{VcpuError, refused, set_msrs};
use crate::x86_64::msrs::{TSC, TSC_DEADLINE};

ioctl_iow_nr!(KVM_SET_DEVICE_ATTR, KVMIO, 0xe1, kvm_device_attr);
ioctl_iow_nr!(KVM_GET_DEVICE_ATTR, KVMIO, 0xe2, kvm_device_attr);

impl Platform {
    /// Restores what the guest tells time by, when everything else is restored and before any vCPU runs. Its clocks go on where they
    /// stopped, moved by `passed`.
    ///
    /// # Errors
    /// KVM refuses a value: the state is of another host, or forged.
    pub fn restore_time(
        &self,
        vm: &VmFd,
        vcpus: &[VcpuFd],
        saved: &[VcpuState],
        platform: &PlatformState,
        passed: Duration,
    ) -> Result<(), VcpuError> {
        restore_counters(vcpus, saved, passed)?;
        // Compared with a counter that must be right by now. One that has gone by while the guest did not run fires at once.
        for (vcpu, state) in vcpus.iter().zip(saved) {
            if let Some(deadline) = state.msr(TSC_DEADLINE) {
                set_msrs(vcpu, &[(TSC_DEADLINE, deadline)])?;
            }
        }
        // Without flags KVM takes the value as it is: of the host's time since the snapshot it adds nothing by itself.
        let clock = kvm_clock_data {
            clock: platform.clock.clock.saturating_add(clock::nanoseconds(passed)),
            ..kvm_clock_data::default()
        };
        vm.set_clock(&clock).map_err(refused("KVM_SET_CLOCK"))
    }
}

impl VcpuState {
    /// A saved model-specific register.
    fn msr(&self, index: u32) -> Option<u64> {
        let found = self.msrs.as_slice().iter().find(|(saved, _)| *saved == index);
        found.map(|(_, value)| *value)
    }

    /// What its time stamp counter is to show. A host that does not know its frequency can't move it.
    fn counter(&self, passed: Duration) -> Option<u64> {
        let hertz = u64::from(self.tsc_khz.unwrap_or(0)).saturating_mul(1000);
        Some(self.msr(TSC)?.wrapping_add(clock::ticks(passed, hertz)))
    }
}

/// Sets the time stamp counters by their offsets to the host's, if KVM has these (Linux 5.16) and had them when the guest was saved: all
/// are moved by exactly the same. By the MSR, KVM guesses: a value within a second of what the counter shows is taken for an attempt to
/// synchronise it, and is not set, so that a guest saved in its first second would see its clock go back
/// (`kvm_synchronize_tsc` in arch/x86/kvm/x86.c, before Linux 6.8).
fn restore_counters(vcpus: &[VcpuFd], saved: &[VcpuState], passed: Duration) -> Result<(), VcpuError> {
    let offsets: Option<Vec<u64>> = saved.iter().map(|state| state.tsc_offset).collect();
    if let (Some(offsets), Some(first), Some(state)) = (offsets, vcpus.first(), saved.first())
        && let (Ok(here), Some(wanted)) = (offset(first), state.counter(passed))
    {
        let new = clock::offsets(&offsets, here, read_counter(first)?, wanted);
        return vcpus
            .iter()
            .zip(new)
            .try_for_each(|(vcpu, offset)| set_offset(vcpu, offset).map_err(refused("KVM_VCPU_TSC_OFFSET")));
    }
    for (vcpu, state) in vcpus.iter().zip(saved) {
        if let Some(wanted) = state.counter(passed) {
            set_msrs(vcpu, &[(TSC, wanted)])?;
        }
    }
    Ok(())
}

/// What a time stamp counter shows now.
fn read_counter(vcpu: &VcpuFd) -> Result<u64, VcpuError> {
    let entry = kvm_msr_entry {
        index: TSC,
        ..kvm_msr_entry::default()
    };
    let mut list = Msrs::from_entries(&[entry]).map_err(|_| VcpuError::TooMany { what: "MSRs", count: 1 })?;
    let read = vcpu.get_msrs(&mut list).map_err(refused("KVM_GET_MSRS"))?;
    let value = list.as_slice().iter().take(read).map(|entry| entry.data).next();
    value.ok_or(VcpuError::MsrRefused { index: TSC })
}

/// The attribute that is a counter's offset, with its value at `addr` (Documentation/virt/kvm/devices/vcpu.rst, `KVM_VCPU_TSC_CTRL`).
const fn attribute(addr: u64) -> kvm_device_attr {
    kvm_device_attr {
        group: KVM_VCPU_TSC_CTRL,
        attr: KVM_VCPU_TSC_OFFSET as u64,
        addr,
        flags: 0,
    }
}

/// What is added to the host's counter to make the guest's; an error where KVM does not tell.
pub(super) fn offset(vcpu: &VcpuFd) -> Result<u64, errno::Error> {
    let mut value = 0_u64;
    let request = attribute((&raw mut value) as u64);
    // SAFETY: the descriptor is a vCPU's, and `addr` points to a local of the 64 bits that this attribute has.
    let result = unsafe { ioctl_with_ref(vcpu, KVM_GET_DEVICE_ATTR(), &request) };
    if result == 0 {
        Ok(value)
    } else {
        Err(errno::Error::last())
    }
}

fn set_offset(vcpu: &VcpuFd, value: u64) -> Result<(), errno::Error> {
    let request = attribute((&raw const value) as u64);
    // SAFETY: the descriptor is a vCPU's, and `addr` points to a local of the 64 bits that this attribute has.
    let result = unsafe { ioctl_with_ref(vcpu, KVM_SET_DEVICE_ATTR(), &request) };
    if result == 0 { Ok(()) } else { Err(errno::Error::last()) }
}
