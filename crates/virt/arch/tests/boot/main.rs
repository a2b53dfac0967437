//! A guest of our own boots, natively: what the pure tests can't show, that KVM and a processor take the values.
//!
//! The payload is assembled into this test (`payload_*.rs`), so that the test runs anywhere, a testbed without compilers included. It
//! prints BOOT and a newline by the serial port, then the letters from a to z for ever; each letter is kept in a general register, in a
//! system register and in memory, and an exclamation mark says that they differ.
#![expect(
    unsafe_code,
    reason = "guest memory is given to KVM by its address; the payload is in a section"
)]
#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::print_stdout,
    reason = "a test: it may panic and print, and its numbers are small"
)]

mod clocks;
mod linux;
mod machine;
#[cfg(target_arch = "x86_64")]
mod msrs;
#[cfg(target_arch = "aarch64")]
#[path = "payload_aarch64.rs"]
mod payload;
#[cfg(target_arch = "x86_64")]
#[path = "payload_x86_64.rs"]
mod payload;

use std::io::Cursor;
use std::time::Duration;

use kvm_ioctls::Kvm;
use machine::Machine;
use ringwall_arch::native;

/// Opens /dev/kvm, or says that the test is skipped.
fn kvm(test: &str) -> Option<Kvm> {
    Kvm::new()
        .map_err(|error| println!("SKIPPED: {test}: no /dev/kvm: {error}"))
        .ok()
}

#[test]
fn a_kernel_boots_by_every_protocol() {
    let Some(kvm) = kvm("boot") else { return };
    for (protocol, kernel, mark) in payload::kernels() {
        let mut machine = Machine::new(&kvm, 1);
        machine.boot(&kernel);
        assert_eq!(machine.serial(mark.len() + 8), format!("{mark}BOOT\nabc"), "{protocol}");
    }
}

#[test]
fn an_initrd_is_where_the_guest_is_told() {
    let Some(kvm) = kvm("initrd") else { return };
    let machine = Machine::new(&kvm, 1);
    let (_, kernel, _) = payload::kernels().remove(0);
    let loaded = native::load_kernel(&machine.ram, &mut Cursor::new(&kernel), kernel.len() as u64).unwrap();
    let initrd = native::load_initrd(&machine.ram, &mut Cursor::new(b"initrd"), 6, &loaded).unwrap();
    assert_eq!(initrd.end - initrd.start, 6);
    assert_eq!(initrd.start % 4096, 0);
    assert_eq!(machine.memory(initrd.start, 6), b"initrd");
    machine.write_tables(&loaded, Some(initrd), "");
}

#[test]
fn a_saved_guest_goes_on_in_another_machine() {
    let Some(kvm) = kvm("save and restore") else { return };
    let (_, kernel, mark) = payload::kernels().remove(0);
    for vcpus in [1, 4] {
        let mut first = Machine::new(&kvm, vcpus);
        first.boot(&kernel);
        assert_eq!(first.serial(mark.len() + 5), format!("{mark}BOOT\n"));
        let quiet = first.save();
        first.interrupt();
        let saved = first.save();
        assert_ne!(
            saved.platform, quiet.platform,
            "a pending interrupt is part of the state"
        );
        drop(first);

        let mut second = Machine::new(&kvm, vcpus);
        second.restore(&saved, Duration::ZERO);
        let again = second.save();
        assert_eq!(
            machine::differences(&again, &saved),
            Vec::<String>::new(),
            "what is restored is what was saved"
        );
        assert_eq!(second.serial(27), "abcdefghijklmnopqrstuvwxyza");
    }
}

/// What a clock may be off, beside the time for which the test itself can't say when it was read. Far below what KVM's guesses are off by.
const TOLERANCE: Duration = Duration::from_millis(50);

#[test]
fn a_restored_guests_clocks_go_on_or_step_and_all_by_the_same() {
    let Some(kvm) = kvm("clocks") else { return };
    let (_, kernel, _) = payload::kernels().remove(0);
    let mut first = Machine::new(&kvm, 4);
    first.boot(&kernel);
    first.serial(5);
    // In its first second, where KVM takes some values for another one: see `restore_time`.
    std::thread::sleep(Duration::from_millis(500));
    let saved = first.save();
    drop(first);
    for passed in [Duration::ZERO, Duration::from_secs(3600)] {
        let is_virtual = clocks::are_virtual(&Machine::new(&kvm, 1).vcpus[0]);
        // Younger than the first was, so that a counter that KVM does not set would be behind.
        let mut second = Machine::new(&kvm, 4);
        let begun = second.restore(&saved, passed);
        let again = second.save();
        let ran = again.read_at - begun;
        let (before, after) = (clocks::of(&saved), clocks::of(&again));
        // The counters of a machine that did not run were read one after the other: what they go on from lies between the first and the last.
        let read_in = clocks::spread(&before);
        let most = passed + ran + read_in + TOLERANCE;
        assert_eq!(before.len(), after.len());
        for ((name, before), (_, after)) in before.iter().zip(&after) {
            if name.starts_with("counter") && !is_virtual {
                println!("SKIPPED: {name}: this KVM shows guests the host's counter");
                continue;
            }
            let step = (*after + read_in)
                .checked_sub(*before)
                .unwrap_or_else(|| panic!("{name} went back from {before:?} to {after:?}"));
            assert!(
                (passed..most + read_in).contains(&step),
                "{name}: {step:?} with the {read_in:?} of reading, not {passed:?} to {most:?}"
            );
        }
        assert!(clocks::spread(&after) < ran + TOLERANCE, "{after:?}");
    }
}

#[test]
fn a_snapshot_fits_its_own_host() {
    let Some(kvm) = kvm("fingerprint") else { return };
    let here = native::fingerprint(&kvm).unwrap();
    let text = serde_json::to_string(&here).unwrap();
    assert_eq!(here.fits(&serde_json::from_str(&text).unwrap()), Ok(()));
    assert_eq!(here.architecture(), ringwall_arch::Architecture::NATIVE);
}

#[test]
fn a_forged_state_is_refused_and_not_obeyed() {
    let Some(kvm) = kvm("forged state") else { return };
    let (_, kernel, _) = payload::kernels().remove(0);
    let mut machine = Machine::new(&kvm, 1);
    machine.boot(&kernel);
    let saved = machine.save();
    for (name, text) in machine::forgeries(&saved.vcpus[0]) {
        let refused = match serde_json::from_str(&text) {
            Ok(state) => machine
                .platform
                .restore_vcpu(&Machine::new(&kvm, 1).vcpus[0], &state)
                .is_err(),
            Err(_) => true,
        };
        assert!(refused, "{name}");
    }
}

/// Firecracker: "custom MSRs not saved", and "CPUID must be set before CPUID-dependent MSRs".
#[test]
#[cfg(target_arch = "x86_64")]
fn registers_that_depend_on_cpuid_are_restored_after_it() {
    let Some(kvm) = kvm("CPUID-dependent registers") else {
        return;
    };
    let (_, kernel, mark) = payload::kernels().remove(0);
    let mut first = Machine::new(&kvm, 1);
    first.boot(&kernel);
    // Into long mode: some bits of EFER and CR4 depend on CPUID as well.
    first.serial(mark.len() + 5);
    let set = msrs::set_what_depends_on_cpuid(&kvm, &first.vcpus[0]);
    println!("{} registers", set.len());
    let saved = first.save();
    drop(first);
    // Not prepared: its CPUID is empty until the restore sets it.
    let second = Machine::unprepared(&kvm, 1);
    msrs::enforce_cpuid(&second.vcpus[0]);
    second.restore(&saved, Duration::ZERO);
    for (index, value) in set {
        assert_eq!(msrs::get(&second.vcpus[0], index), Some(value), "{index:#x}");
    }
}

#[test]
#[cfg(target_arch = "aarch64")]
fn gicv2_has_interfaces_for_eight_and_that_is_said() {
    use ringwall_arch::GicVersion;
    let Some(kvm) = kvm("GICv2") else { return };
    if native::fingerprint(&kvm).unwrap().gic() != Some(GicVersion::V2) {
        println!("SKIPPED: GICv2: this host has GICv3");
        return;
    }
    let vm = kvm.create_vm().unwrap();
    let error = native::Platform::create(&kvm, &vm, native::PlatformOptions { vcpus: 9 }).unwrap_err();
    assert_eq!(
        error.to_string(),
        "9 vCPUs, but this host's interrupt controller has interfaces for 8"
    );
}
