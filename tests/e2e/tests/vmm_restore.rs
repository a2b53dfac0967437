//! What a restored guest must not notice, or must: its clocks, registers that nothing uses, connections, descriptors on their way.
#![cfg(target_arch = "x86_64")]

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ringwall_e2e::vmm::{Vmm, binary, free_socket, load_body};
use serde_json::{Value, json};

/// How long a snapshot lies before it is loaded.
const PAUSE: Duration = Duration::from_secs(3);
/// Most that a guest's clock may be ahead of what the test has measured: the moments before the load is sent and after it is answered.
const SLACK: Duration = Duration::from_millis(900);

/// What the guest's kvm-clock shows.
fn time(vmm: &mut Vmm) -> Duration {
    let line = vmm.tell(b't');
    let digits = line.split_once("time: ").and_then(|(_, rest)| rest.split(' ').next());
    let time = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
    let time = time.unwrap_or_else(|| panic!("{line:?}"));
    assert_ne!(time, 0, "the guest has no kvm-clock");
    Duration::from_nanos(time)
}

/// A snapshot of a guest, and what its clock showed then.
fn kept(binary: &Path, work: &Path) -> (PathBuf, Duration) {
    let first = work.join("first");
    let mut vmm = Vmm::boot(binary, &first, &json!({}));
    let kept = work.join("kept");
    let shown = time(&mut vmm);
    vmm.pause();
    vmm.snapshot("Full", &kept);
    drop(vmm);
    free_socket(&first);
    (kept, shown)
}

/// How far the guest's clock has gone from the last look before its snapshot to the first after its load, and what of this is not the
/// snapshot's sleep: the time that the guest may have run, as the test sees it.
fn step(binary: &Path, work: &Path, is_realtime: bool) -> (Duration, Duration) {
    let begun = Instant::now();
    let (kept, shown) = kept(binary, work);
    std::thread::sleep(PAUSE);
    let mut vmm = Vmm::start(binary, &work.join("second"), &[]);
    let mut body = load_body(&kept, true);
    body["clock_realtime"] = is_realtime.into();
    vmm.put("/snapshot/load", &body);
    let step = time(&mut vmm).checked_sub(shown).expect("the clock went back");
    (step, begun.elapsed())
}

#[test]
fn a_restored_guests_clock_does_not_jump() {
    let Some(binary) = binary() else { return };
    let work = tempfile::tempdir().expect("a directory");
    let (step, whole) = step(&binary, work.path(), false);
    let may_have_run = whole.checked_sub(PAUSE).expect("it slept");
    assert!(step <= may_have_run.min(PAUSE), "{step:?} in {whole:?}");
}

#[test]
fn a_restored_guests_clock_steps_to_now_if_asked_to() {
    let Some(binary) = binary() else { return };
    let work = tempfile::tempdir().expect("a directory");
    let (step, whole) = step(&binary, work.path(), true);
    assert!(step >= PAUSE && step <= whole + SLACK, "{step:?} in {whole:?}");
}

/// Without it Linux takes a long pause for a CPU that is stuck (Documentation/virt/kvm/api.rst, `KVM_KVMCLOCK_CTRL`).
#[test]
fn a_guest_is_told_that_it_was_stopped() {
    let Some(binary) = binary() else { return };
    let work = tempfile::tempdir().expect("a directory");
    let first = work.path().join("first");
    let mut vmm = Vmm::boot(&binary, &first, &json!({}));
    let _told_at_the_start = time(&mut vmm);
    let is_told = |vmm: &mut Vmm| vmm.tell(b't').starts_with("stopped, ");
    assert!(!is_told(&mut vmm));
    vmm.pause();
    vmm.resume();
    assert!(is_told(&mut vmm), "after a pause");
    assert!(!is_told(&mut vmm), "once");
    let kept = work.path().join("kept");
    vmm.pause();
    vmm.snapshot("Full", &kept);
    drop(vmm);
    free_socket(&first);
    let mut vmm = Vmm::restore(&binary, &work.path().join("second"), &kept, &[]);
    assert!(is_told(&mut vmm), "after a restore");
    assert!(!is_told(&mut vmm), "once");
}

#[test]
fn a_snapshot_of_the_first_version_is_restored_but_its_clock_can_not_step() {
    let Some(binary) = binary() else { return };
    let work = tempfile::tempdir().expect("a directory");
    let (kept, shown) = kept(&binary, work.path());
    rewrite(&kept, 1, |document| {
        document
            .as_object_mut()
            .expect("an object")
            .remove("saved_at_ns")
            .expect("there");
        for vcpu in document["vcpus"].as_array_mut().expect("a list") {
            vcpu.as_object_mut()
                .expect("an object")
                .remove("tsc_offset")
                .expect("there");
        }
    });

    let vmm = Vmm::start(&binary, &work.path().join("second"), &[]);
    let mut load = load_body(&kept, true);
    load["clock_realtime"] = true.into();
    let (status, answer) = vmm.ask("PUT", "/snapshot/load", Some(&load));
    assert_eq!(status, 400, "{answer}");
    assert!(answer.contains("does not say when it was made"), "{answer}");
    drop(vmm);
    free_socket(&work.path().join("first"));
    let mut vmm = Vmm::restore(&binary, &work.path().join("third"), &kept, &[]);
    assert!(time(&mut vmm) >= shown);
}

/// A host's clock may be anything, and so may be what a snapshot says of it.
#[test]
fn a_clock_never_goes_back_and_steps_by_anything() {
    const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
    let Some(binary) = binary() else { return };
    let work = tempfile::tempdir().expect("a directory");
    let (kept, shown) = kept(&binary, work.path());
    for (saved_at_ns, least, most) in [(u64::MAX, Duration::ZERO, YEAR), (0, 50 * YEAR, 600 * YEAR)] {
        rewrite(&kept, 2, |document| document["saved_at_ns"] = saved_at_ns.into());
        let mut vmm = Vmm::start(&binary, &work.path().join(saved_at_ns.to_string()), &[]);
        let mut body = load_body(&kept, true);
        body["clock_realtime"] = true.into();
        vmm.put("/snapshot/load", &body);
        let step = time(&mut vmm).checked_sub(shown).expect("the clock went back");
        assert!(step >= least && step < most, "{step:?} for {saved_at_ns}");
        drop(vmm);
        free_socket(&work.path().join("first"));
    }
}

/// Changes a snapshot's document and gives it another version.
fn rewrite(kept: &Path, version: u32, change: impl FnOnce(&mut Value)) {
    let state = fs::read(kept.join("state")).expect("there");
    let end = state.iter().position(|&byte| byte == b'\n').expect("a first line");
    let mut document = serde_json::from_slice(&state[end + 1..]).expect("a document");
    change(&mut document);
    let body = document.to_string();
    let head = format!("ringwall-vm-snapshot {version} {} {}", body.len(), sha256(&body));
    fs::write(kept.join("state"), format!("{head}\n{body}")).expect("written");
}

/// The hash that a state file has in its first line.
fn sha256(text: &str) -> String {
    let mut child = Command::new("sha256sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("sha256sum is there");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(text.as_bytes()).expect("written");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    String::from_utf8_lossy(&output.stdout)[..64].to_owned()
}

#[test]
fn registers_that_the_vmm_knows_nothing_of_are_restored() {
    let Some(binary) = binary() else { return };
    let work = tempfile::tempdir().expect("a directory");
    let first = work.path().join("first");
    let mut vmm = Vmm::boot(&binary, &first, &json!({}));
    let wanted = "registers: 000012345eed0102 000000005eed0176 0000000000000001";
    assert_eq!(vmm.tell(b'm'), wanted);
    let kept = work.path().join("kept");
    vmm.pause();
    vmm.snapshot("Full", &kept);
    drop(vmm);
    free_socket(&first);
    let mut vmm = Vmm::restore(&binary, &work.path().join("second"), &kept, &[]);
    assert_eq!(vmm.tell(b'm'), wanted);
}

/// The line that is being typed in while the guest is saved, in both directions: bytes that it has not read, and bytes that it has not sent.
#[test]
fn a_serial_port_with_unread_input_goes_on_after_a_restore() {
    let Some(binary) = binary() else { return };
    let work = tempfile::tempdir().expect("a directory");
    let first = work.path().join("first");
    let mut vmm = Vmm::boot(&binary, &first, &json!({}));
    let sum = vmm.tell(b's');
    let kept = work.path().join("kept");
    vmm.pause();
    // More than the port's FIFO holds.
    for _ in 0..40 {
        vmm.key(b's');
    }
    std::thread::sleep(Duration::from_millis(50));
    vmm.snapshot("Full", &kept);
    vmm.resume();
    for _ in 0..40 {
        assert_eq!(vmm.until("\n").trim_end(), sum, "the saved machine itself");
    }
    drop(vmm);
    free_socket(&first);
    let mut vmm = Vmm::restore(&binary, &work.path().join("second"), &kept, &[]);
    // What had reached the port is answered, what waited outside of it is not the snapshot's; then the port is as good as new.
    let begun = Instant::now();
    while !vmm.console().contains(&sum) {
        assert!(
            begun.elapsed() < Duration::from_secs(20),
            "unread input is lost: {:?}",
            vmm.log()
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    vmm.key(b'm');
    assert!(vmm.until("registers: ").ends_with("registers: "));
    assert_eq!(vmm.until("\n").len(), 51);
    for _ in 0..40 {
        assert_eq!(vmm.tell(b's'), sum);
    }
}
