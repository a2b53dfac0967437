//! Time at a restore: the counters, by which the guest tells time and its timers fire.

use std::time::Duration;

use kvm_ioctls::{VcpuFd, VmFd};

use crate::aarch64::kvm::platform::Platform;
use crate::aarch64::kvm::probe::counter_frequency;
use crate::aarch64::kvm::state::{PlatformState, VcpuState};
use crate::aarch64::kvm::vcpu::VcpuError;
use crate::aarch64::registers::{COUNTERS, counter};
use crate::clock;

impl Platform {
    /// Restores what the guest tells time by, when everything else is restored and before any vCPU runs. Its counters go on where they
    /// stopped, moved by `passed`; a timer whose time has gone by fires at once.
    ///
    /// # Errors
    /// KVM refuses a value: the state is of another host, or forged.
    pub fn restore_time(
        &self,
        _vm: &VmFd,
        vcpus: &[VcpuFd],
        saved: &[VcpuState],
        _platform: &PlatformState,
        passed: Duration,
    ) -> Result<(), VcpuError> {
        let Some(first) = vcpus.first() else { return Ok(()) };
        // The frequency is the snapshot's as well: the fingerprint demands it.
        let ticks = clock::ticks(passed, counter_frequency());
        for id in COUNTERS {
            let values = saved.iter().filter_map(|state| state.counter(id).transpose());
            let values = values.collect::<Result<Vec<_>, _>>()?;
            if let Some(value) = counter(&values, ticks) {
                first
                    .set_one_reg(id, &value.to_le_bytes())
                    .map_err(|source| VcpuError::RegisterRefused { id, source })?;
            }
        }
        Ok(())
    }
}

impl VcpuState {
    /// A saved register of 64 bits, if there is one with this number.
    fn counter(&self, id: u64) -> Result<Option<u64>, VcpuError> {
        let found = self.registers.as_slice().iter().find(|(saved, _)| *saved == id);
        let Some((_, value)) = found else { return Ok(None) };
        let value = value.as_slice();
        let bytes = value
            .try_into()
            .map_err(|_| VcpuError::RegisterBytes { id, bytes: value.len() })?;
        Ok(Some(u64::from_le_bytes(bytes)))
    }
}
