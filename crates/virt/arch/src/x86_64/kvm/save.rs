//! Saving: the vCPUs are stopped, and their last exit is completed (`KVM_RUN` with `immediate_exit`; otherwise an `in` or a load from a
//! device would be repeated or lost).

use kvm_bindings::{KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_MAX_CPUID_ENTRIES};
use kvm_bindings::{Msrs, kvm_clock_data, kvm_irqchip, kvm_msr_entry};
use kvm_ioctls::{VcpuFd, VmFd};

use crate::state::List;
use crate::x86_64::kvm::platform::{self, Platform, PlatformError};
use crate::x86_64::kvm::state::{Chip, MAX_MSRS, MAX_XCRS, PlatformState, VcpuState};
use crate::x86_64::kvm::vcpu::{VcpuError, from_kvm, refused};
use crate::x86_64::kvm::{time, xsave};

/// The ids of the interrupt controllers, in the order of `PlatformState`.
pub(super) const CHIPS: [u32; 3] = [KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_IRQCHIP_IOAPIC];

impl Platform {
    /// Saves a vCPU. `KVM_GET_MP_STATE` comes first: it completes INIT and SIPI signals that are under way, and so changes registers
    /// and events.
    ///
    /// # Errors
    /// What KVM refuses.
    pub fn save_vcpu(&self, vcpu: &VcpuFd) -> Result<VcpuState, VcpuError> {
        let mp_state = vcpu.get_mp_state().map_err(refused("KVM_GET_MP_STATE"))?;
        let cpuid = vcpu
            .get_cpuid2(KVM_MAX_CPUID_ENTRIES)
            .map_err(refused("KVM_GET_CPUID2"))?;
        Ok(VcpuState {
            cpuid: List::new(from_kvm(&cpuid)).map_err(|entries| VcpuError::TooMany {
                what: "CPUID entries",
                count: entries.len(),
            })?,
            // Fails where the host's counter is not stable: then there is no frequency to keep.
            tsc_khz: vcpu.get_tsc_khz().ok(),
            tsc_offset: time::offset(vcpu).ok(),
            mp_state,
            regs: vcpu.get_regs().map_err(refused("KVM_GET_REGS"))?,
            sregs: vcpu.get_sregs().map_err(refused("KVM_GET_SREGS"))?,
            xcrs: self.save_xcrs(vcpu)?,
            xsave: xsave::get(vcpu, self.xsave)?,
            debugregs: vcpu.get_debug_regs().map_err(refused("KVM_GET_DEBUGREGS"))?,
            lapic: vcpu.get_lapic().map_err(refused("KVM_GET_LAPIC"))?,
            msrs: self.save_msrs(vcpu)?,
            events: vcpu.get_vcpu_events().map_err(refused("KVM_GET_VCPU_EVENTS"))?,
        })
    }

    /// Saves what is no vCPU's. All vCPUs are stopped.
    ///
    /// # Errors
    /// What KVM refuses.
    pub fn save(&self, vm: &VmFd) -> Result<PlatformState, PlatformError> {
        let mut chips = [Chip(kvm_irqchip::default()); 3];
        for (Chip(chip), id) in chips.iter_mut().zip(CHIPS) {
            chip.chip_id = id;
            vm.get_irqchip(chip).map_err(platform::refused("KVM_GET_IRQCHIP"))?;
        }
        let mut pit = vm.get_pit2().map_err(platform::refused("KVM_GET_PIT2"))?;
        // When the host's clock started a count: KVM starts it anew on restoring, and it is nobody's business.
        for channel in &mut pit.channels {
            channel.count_load_time = 0;
        }
        // Of all that KVM tells of time, the guest's is kept; the rest is the host's.
        let clock = kvm_clock_data {
            clock: vm.get_clock().map_err(platform::refused("KVM_GET_CLOCK"))?.clock,
            ..kvm_clock_data::default()
        };
        Ok(PlatformState { chips, pit, clock })
    }

    /// Reads the extended control registers, if the host has any.
    fn save_xcrs(&self, vcpu: &VcpuFd) -> Result<List<(u32, u64), MAX_XCRS>, VcpuError> {
        if !self.has_xcrs {
            return Ok(List::default());
        }
        let all = vcpu.get_xcrs().map_err(refused("KVM_GET_XCRS"))?;
        let count = usize::try_from(all.nr_xcrs).unwrap_or(0);
        let xcrs = all
            .xcrs
            .iter()
            .take(count)
            .map(|register| (register.xcr, register.value))
            .collect();
        List::new(xcrs).map_err(|xcrs| VcpuError::TooMany {
            what: "extended control registers",
            count: xcrs.len(),
        })
    }

    /// Reads all MSRs that KVM lists and that can be read.
    fn save_msrs(&self, vcpu: &VcpuFd) -> Result<List<(u32, u64), MAX_MSRS>, VcpuError> {
        let mut saved = Vec::with_capacity(self.msrs.len());
        let mut wanted = self.msrs.as_slice();
        while !wanted.is_empty() {
            let entries: Vec<_> = wanted
                .iter()
                .map(|index| kvm_msr_entry {
                    index: *index,
                    ..kvm_msr_entry::default()
                })
                .collect();
            let mut list = Msrs::from_entries(&entries).map_err(|_| VcpuError::TooMany {
                what: "MSRs",
                count: entries.len(),
            })?;
            let read = vcpu.get_msrs(&mut list).map_err(refused("KVM_GET_MSRS"))?;
            saved.extend(list.as_slice().iter().take(read).map(|entry| (entry.index, entry.data)));
            // KVM stops at the first that this vCPU does not have; the rest is asked for again.
            wanted = wanted.get(read.saturating_add(1)..).unwrap_or_default();
        }
        List::new(saved).map_err(|msrs| VcpuError::TooMany {
            what: "MSRs",
            count: msrs.len(),
        })
    }
}
