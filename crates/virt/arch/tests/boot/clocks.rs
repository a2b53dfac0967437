//! What a saved guest would tell time by.

use std::time::Duration;

use kvm_ioctls::VcpuFd;
use serde_json::Value;

use crate::machine::Saved;

/// All clocks of a snapshot by their names: each vCPU's counter, and kvm-clock where there is one.
pub(crate) fn of(saved: &Saved) -> Vec<(String, Duration)> {
    let mut clocks = Vec::new();
    for (index, text) in saved.vcpus.iter().enumerate() {
        let state: Value = serde_json::from_str(text).unwrap();
        let (ticks, hertz) = counter(&state);
        clocks.push((format!("counter {index}"), time(ticks, hertz)));
    }
    let platform: Value = serde_json::from_str(&saved.platform).unwrap();
    if let Some(clock) = platform["clock"].as_str() {
        // The first member of `kvm_clock_data`, in nanoseconds.
        let value = u64::from_str_radix(&clock[..16], 16).unwrap().swap_bytes();
        clocks.push(("kvm-clock".to_owned(), Duration::from_nanos(value)));
    }
    clocks
}

/// How far the counters are from each other, because they were read one after the other or because they are.
pub(crate) fn spread(clocks: &[(String, Duration)]) -> Duration {
    let counters = clocks.iter().filter(|(name, _)| name.starts_with("counter"));
    let counters: Vec<Duration> = counters.map(|(_, time)| *time).collect();
    *counters.iter().max().unwrap() - *counters.iter().min().unwrap()
}

fn time(ticks: u64, hertz: u64) -> Duration {
    Duration::from_nanos((u128::from(ticks) * 1_000_000_000 / u128::from(hertz)) as u64)
}

/// A register's value and how fast it counts.
#[cfg(target_arch = "x86_64")]
fn counter(state: &Value) -> (u64, u64) {
    let registers = state["msrs"].as_array().unwrap();
    let register = registers.iter().find(|register| register[0] == 0x10).unwrap();
    (register[1].as_u64().unwrap(), state["tsc_khz"].as_u64().unwrap() * 1000)
}

/// A register's value and how fast it counts.
#[cfg(target_arch = "aarch64")]
fn counter(state: &Value) -> (u64, u64) {
    let hertz: u64;
    // SAFETY: reading this register, which Linux lets programs read, has no effect.
    unsafe { core::arch::asm!("mrs {}, cntfrq_el0", out(reg) hertz, options(nomem, nostack, preserves_flags)) };
    let registers = state["registers"].as_array().unwrap();
    let register = registers
        .iter()
        .find(|register| register[0] == 0x6030_0000_0013_df1a_u64)
        .unwrap();
    let digits = register[1].as_str().unwrap();
    (u64::from_str_radix(digits, 16).unwrap().swap_bytes(), hertz)
}

/// Whether KVM moves the guest's counter when it is told to. PVM does not: its guests read the host's.
#[cfg(target_arch = "x86_64")]
pub(crate) fn are_virtual(vcpu: &VcpuFd) -> bool {
    use kvm_bindings::{Msrs, kvm_msr_entry};
    let entry = |data| kvm_msr_entry {
        index: 0x10,
        data,
        ..kvm_msr_entry::default()
    };
    const FAR: u64 = 1 << 60;
    vcpu.set_msrs(&Msrs::from_entries(&[entry(FAR)]).unwrap()).unwrap();
    let mut list = Msrs::from_entries(&[entry(0)]).unwrap();
    vcpu.get_msrs(&mut list).unwrap();
    list.as_slice()[0].data >= FAR
}

/// Whether KVM moves the guest's counter when it is told to.
#[cfg(target_arch = "aarch64")]
pub(crate) const fn are_virtual(_vcpu: &VcpuFd) -> bool {
    true
}
