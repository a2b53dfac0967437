//! `ringwall-vmm` with a guest of a few hundred instructions (`payload/`), which runs on every x86_64 host with KVM, also where ordinary
//! kernels are too slow: boot, serial port, devices, pause, snapshots, clones, and what becomes of bad ones.
#![cfg(target_arch = "x86_64")]

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use ringwall_e2e::vmm::{MEMORY_MIB, Vmm, binary, free_socket, load_body, snapshot_body};
use serde_json::json;

#[test]
fn a_guest_boots_talks_and_ends_in_each_way() {
    let Some(binary) = binary() else { return };
    for (letter, code) in [(b'q', 0), (b'a', 0), (b'p', 3), (b'o', 4)] {
        let work = tempfile::tempdir().expect("a directory");
        let mut vmm = Vmm::boot(&binary, work.path(), &json!({}));
        if letter == b'q' {
            assert_eq!(vmm.tell(b'x'), "nothing: ok");
            assert_eq!(vmm.tell(b'i'), "string: ok");
            assert_eq!(vmm.tell(b'b'), "block: ok");
            assert_eq!(vmm.tell(b'b'), "block: ok", "the device goes on after a bad request");
            assert_eq!(vmm.tell(b'r'), "rng: ok");
            let disk = File::open(work.path().join("disk")).expect("the disk");
            let mut sector = [0; 512];
            disk.read_exact_at(&mut sector, 3 * 512).expect("read");
            assert_eq!(sector[1..4], [7, 14, 21]);
        }
        vmm.key(letter);
        assert_eq!(vmm.ended().code(), Some(code), "{}\n{}", char::from(letter), vmm.log());
        assert!(!work.path().join("api").exists(), "the socket is left");
    }
}

#[test]
fn a_drive_may_be_called_as_another_kind_of_device_is() {
    let Some(binary) = binary() else { return };
    let work = tempfile::tempdir().expect("a directory");
    let mut vmm = Vmm::start(&binary, work.path(), &[]);
    vmm.configure(&json!({}));
    let drive = json!({
        "drive_id": "balloon", "path_on_host": work.path().join("disk"), "is_root_device": false, "is_read_only": false,
    });
    vmm.put("/drives/balloon", &drive);
    vmm.put("/actions", &json!({"action_type": "InstanceStart"}));
    vmm.until("READY\n");
    vmm.patch("/balloon", &json!({"amount_mib": 1}));
    vmm.patch(
        "/drives/balloon",
        &json!({"drive_id": "balloon", "path_on_host": work.path().join("disk")}),
    );
    assert_eq!(vmm.tell(b'b'), "block: ok");
}

#[test]
fn a_paused_guest_does_nothing_and_goes_on() {
    let Some(binary) = binary() else { return };
    let work = tempfile::tempdir().expect("a directory");
    let mut vmm = Vmm::boot(&binary, work.path(), &json!({}));
    for _ in 0..20 {
        vmm.pause();
        vmm.pause();
        let before = vmm.console();
        vmm.key(b's');
        std::thread::sleep(Duration::from_millis(5));
        assert_eq!(vmm.console(), before);
        vmm.resume();
        vmm.resume();
        assert!(vmm.until("\n").starts_with("sum: "));
    }
}

#[test]
fn snapshots_are_sparse_and_restored_with_memory_devices_and_clones() {
    let Some(binary) = binary() else { return };
    let work = tempfile::tempdir().expect("a directory");
    let first = work.path().join("first");
    let mut vmm = Vmm::boot(&binary, &first, &json!({}));
    assert_eq!(vmm.tell(b'b'), "block: ok");
    assert_eq!(vmm.tell(b'r'), "rng: ok");
    let sum = vmm.tell(b's');
    let kept = work.path().join("kept");
    assert_eq!(
        vmm.ask("PUT", "/snapshot/create", Some(&snapshot_body("Full", &kept)))
            .0,
        400
    );
    vmm.pause();
    vmm.snapshot("Full", &kept);
    let memory = fs::metadata(kept.join("memory")).expect("there");
    assert_eq!(memory.len(), MEMORY_MIB << 20);
    // The guest touches 8 MiB and less than one more for itself.
    assert!(
        memory.blocks() * 512 < 12 << 20,
        "{} bytes on disk",
        memory.blocks() * 512
    );
    assert_eq!(memory.mode() & 0o777, 0o600);
    // The saved machine goes on, and what it writes is not in the snapshot.
    vmm.resume();
    assert_eq!(vmm.tell(b'w'), "wrote");
    assert_ne!(vmm.tell(b's'), sum);
    drop(vmm);

    let clones: Vec<PathBuf> = (0..5)
        .map(|number| work.path().join(format!("clone{number}")))
        .collect();
    let mut running = Vec::new();
    for folder in &clones {
        free_socket(&first);
        running.push(Vmm::restore(&binary, folder, &kept, &[]));
    }
    for (number, vmm) in running.iter_mut().enumerate() {
        assert_eq!(vmm.tell(b's'), sum, "clone {number}");
        assert_eq!(vmm.tell(b'b'), "block: ok", "clone {number}");
        assert_eq!(vmm.tell(b'r'), "rng: ok", "clone {number}");
        assert_eq!(vmm.tell(b'w'), "wrote", "clone {number}");
        assert_ne!(vmm.tell(b's'), sum, "clone {number}");
    }
    // A snapshot of a clone: what it has changed, and what it never touched.
    let changed = running[4].tell(b's');
    let grandchild = work.path().join("grandchild");
    running[4].pause();
    running[4].snapshot("Full", &grandchild);
    drop(running);
    free_socket(&first);
    let mut vmm = Vmm::restore(&binary, &work.path().join("last"), &grandchild, &[]);
    assert_eq!(vmm.tell(b's'), changed);
    vmm.key(b'q');
    assert_eq!(vmm.ended().code(), Some(0));
}

#[test]
fn twenty_cycles_of_snapshot_and_restore_lose_nothing() {
    let Some(binary) = binary() else { return };
    let work = tempfile::tempdir().expect("a directory");
    let first = work.path().join("first");
    let mut vmm = Vmm::boot(&binary, &first, &json!({}));
    for round in 0..20 {
        assert_eq!(vmm.tell(b'w'), "wrote");
        assert_eq!(vmm.tell(b'b'), "block: ok", "round {round}");
        let sum = vmm.tell(b's');
        let kept = work.path().join(format!("kept{}", round % 2));
        vmm.pause();
        vmm.snapshot("Full", &kept);
        drop(vmm);
        free_socket(&first);
        vmm = Vmm::restore(&binary, &work.path().join(format!("round{round}")), &kept, &[]);
        assert_eq!(vmm.tell(b's'), sum, "round {round}");
    }
}

#[test]
fn differences_hold_what_changed_and_merge() {
    let Some(binary) = binary() else { return };
    let work = tempfile::tempdir().expect("a directory");
    let first = work.path().join("first");
    let mut vmm = Vmm::boot(&binary, &first, &json!({"track_dirty_pages": true}));
    let (full, difference) = (work.path().join("full"), work.path().join("difference"));
    vmm.pause();
    vmm.snapshot("Full", &full);
    vmm.resume();
    assert_eq!(vmm.tell(b'w'), "wrote");
    assert_eq!(vmm.tell(b'b'), "block: ok");
    let sum = vmm.tell(b's');
    vmm.pause();
    // One that can't be finished does not lose what changed: the next has it.
    let taken = work.path().join("taken");
    fs::create_dir_all(taken.join("state")).expect("made");
    let (status, body) = vmm.ask("PUT", "/snapshot/create", Some(&snapshot_body("Diff", &taken)));
    assert_eq!(status, 400, "{body}");
    assert!(body.contains("Is a directory"), "{body}");
    vmm.snapshot("Diff", &difference);
    drop(vmm);
    let written = fs::metadata(difference.join("memory")).expect("there").blocks() * 512;
    assert!(
        (4096..1 << 20).contains(&written),
        "{written} bytes of changes: a few pages were written"
    );
    let merged = Command::new(&binary)
        .args(["--merge-memory"])
        .arg(full.join("memory"))
        .arg(difference.join("memory"))
        .output()
        .expect("it runs");
    assert!(merged.status.success(), "{merged:?}");
    fs::copy(difference.join("state"), full.join("state")).expect("copied");
    free_socket(&first);
    let mut vmm = Vmm::restore(&binary, &work.path().join("last"), &full, &[]);
    assert_eq!(vmm.tell(b's'), sum);
    assert_eq!(vmm.tell(b'b'), "block: ok");
}

#[test]
fn a_prepared_vmm_takes_the_snapshot_that_fits_it_and_any_other() {
    let Some(binary) = binary() else { return };
    let work = tempfile::tempdir().expect("a directory");
    let first = work.path().join("first");
    let mut vmm = Vmm::boot(&binary, &first, &json!({"vcpu_count": 1}));
    let sum = vmm.tell(b's');
    let kept = work.path().join("kept");
    vmm.pause();
    vmm.snapshot("Full", &kept);
    drop(vmm);
    free_socket(&first);
    // As many vCPUs and as much memory as is the default.
    let mut vmm = Vmm::restore(&binary, &work.path().join("a"), &kept, &["--prepared"]);
    assert_eq!(vmm.tell(b's'), sum);
    drop(vmm);
    let vmm = Vmm::boot(&binary, &work.path().join("b"), &json!({"vcpu_count": 3}));
    vmm.pause();
    let other = work.path().join("other");
    vmm.snapshot("Full", &other);
    drop(vmm);
    free_socket(&work.path().join("b"));
    let mut vmm = Vmm::restore(&binary, &work.path().join("c"), &other, &["--prepared"]);
    assert_eq!(vmm.tell(b's'), sum);
}

#[test]
fn bad_snapshots_are_refused_and_say_why() {
    let Some(binary) = binary() else { return };
    let work = tempfile::tempdir().expect("a directory");
    let first = work.path().join("first");
    let vmm = Vmm::boot(&binary, &first, &json!({"vcpu_count": 1}));
    let kept = work.path().join("kept");
    vmm.pause();
    vmm.snapshot("Full", &kept);
    drop(vmm);
    free_socket(&first);
    let good = fs::read(kept.join("state")).expect("there");
    let flipped = |at: usize| {
        let mut bad = good.clone();
        bad[at] ^= 1;
        bad
    };
    let newer = String::from_utf8_lossy(&good).replacen("snapshot 2 ", "snapshot 3 ", 1);
    let bad = work.path().join("bad");
    fs::create_dir_all(&bad).expect("made");
    let memory = |length: u64| {
        let file = File::create(bad.join("memory")).expect("made");
        file.set_len(length).expect("sized");
    };
    let whole = MEMORY_MIB << 20;
    for (name, state, length, wanted) in [
        ("empty", Vec::new(), whole, "no state file"),
        ("cut", good[..good.len() / 2].to_vec(), whole, "is cut off"),
        ("flipped", flipped(good.len() - 9), whole, "is damaged"),
        (
            "newer",
            newer.into_bytes(),
            whole,
            "has version 3, this program reads 1 to 2",
        ),
        ("short memory", good.clone(), whole - 4096, "the memory file has"),
        ("foreign", b"\x7fELF\n".to_vec(), whole, "no state file"),
    ] {
        fs::write(bad.join("state"), state).expect("written");
        memory(length);
        let mut vmm = Vmm::start(&binary, &work.path().join(name.replace(' ', "-")), &[]);
        let (status, body) = vmm.ask("PUT", "/snapshot/load", Some(&load_body(&bad, true)));
        assert_eq!(status, 400, "{name}: {body}");
        assert!(body.contains(wanted), "{name}: {body}");
        assert!(vmm.child.try_wait().expect("a child").is_none(), "{name}: it has ended");
        free_socket(&first);
    }
}

#[test]
fn the_smallest_and_largest_machines_boot_and_are_restored() {
    let Some(binary) = binary() else { return };
    // The last has memory on both sides of the devices' gap below 4 GiB.
    for (vcpus, mib) in [(1, 32), (32, 64), (2, 6144)] {
        let work = tempfile::tempdir().expect("a directory");
        let first = work.path().join("first");
        let machine = json!({"vcpu_count": vcpus, "mem_size_mib": mib});
        let mut vmm = Vmm::boot(&binary, &first, &machine);
        assert_eq!(vmm.tell(b'b'), "block: ok", "{machine}");
        let sum = vmm.tell(b's');
        vmm.pause();
        let kept = work.path().join("kept");
        vmm.snapshot("Full", &kept);
        drop(vmm);
        let memory = fs::metadata(kept.join("memory")).expect("there");
        assert_eq!(memory.len(), mib << 20);
        assert!(
            memory.blocks() * 512 < 12 << 20,
            "{machine}: {} blocks",
            memory.blocks()
        );
        free_socket(&first);
        let mut vmm = Vmm::restore(&binary, &work.path().join("again"), &kept, &[]);
        assert_eq!(vmm.tell(b's'), sum, "{machine}");
        assert_eq!(vmm.tell(b'b'), "block: ok", "{machine}");
    }
}

#[test]
fn the_two_files_of_a_snapshot_are_two_however_they_are_named() {
    let Some(binary) = binary() else { return };
    let work = tempfile::tempdir().expect("a directory");
    let vmm = Vmm::boot(&binary, &work.path().join("vm"), &json!({"vcpu_count": 1}));
    vmm.pause();
    let at = |name: &str| work.path().join(name);
    for (memory, state) in [
        (at("one"), at("./one")),
        (at("two.partial"), at("two")),
        (at("three"), at("vm/../three.partial")),
    ] {
        fs::write(&memory, "precious").expect("written");
        let body = json!({"snapshot_path": state, "mem_file_path": memory});
        let (status, answer) = vmm.ask("PUT", "/snapshot/create", Some(&body));
        assert_eq!(status, 400, "{answer}");
        assert!(answer.contains("are one file, or one has the name"), "{answer}");
        assert_eq!(fs::read(&memory).expect("there"), b"precious");
    }
    // What an attempt that was killed has left is in nobody's way; anything else is.
    fs::write(at("memory.partial"), "remains").expect("written");
    vmm.snapshot("Full", work.path());
    fs::create_dir(at("memory.partial")).expect("made");
    let (status, answer) = vmm.ask("PUT", "/snapshot/create", Some(&snapshot_body("Full", work.path())));
    assert_eq!(status, 400);
    assert!(
        answer.contains("memory.partial is a directory; nothing may be there"),
        "{answer}"
    );
}

/// Huge pages set aside for a test, and given back.
struct HugePages(String);

const SET_ASIDE: &str = "/proc/sys/vm/nr_hugepages";

impl HugePages {
    fn set_aside(count: u64) -> Result<Self, String> {
        let before = fs::read_to_string(SET_ASIDE).map_err(|error| format!("{SET_ASIDE}: {error}"))?;
        let wanted = before.trim().parse().unwrap_or(0) + count;
        let pages = HugePages(before);
        fs::write(SET_ASIDE, wanted.to_string()).map_err(|error| format!("{SET_ASIDE}: {error}"))?;
        let got: u64 = fs::read_to_string(SET_ASIDE)
            .expect("it")
            .trim()
            .parse()
            .expect("a number");
        if got < wanted {
            return Err(format!("the kernel sets {got} huge pages aside, not {wanted}"));
        }
        Ok(pages)
    }

    fn free() -> u64 {
        let info = fs::read_to_string("/proc/meminfo").expect("it");
        let line = info.lines().find_map(|line| line.strip_prefix("HugePages_Free:"));
        line.and_then(|count| count.trim().parse().ok()).expect("a number")
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        drop(fs::write(SET_ASIDE, &self.0));
    }
}

#[test]
fn memory_of_huge_pages_is_that_before_and_after_a_restore() {
    let Some(binary) = binary() else { return };
    let pages = MEMORY_MIB / 2;
    let aside = match HugePages::set_aside(pages) {
        Ok(aside) => aside,
        Err(why) => return println!("SKIPPED: {why}"),
    };
    let work = tempfile::tempdir().expect("a directory");
    let first = work.path().join("first");
    let before = HugePages::free();
    let mut vmm = Vmm::boot(&binary, &first, &json!({"huge_pages": "2M"}));
    // The guest touches 8 MiB and some more.
    assert!(before - HugePages::free() >= 4, "no huge page was taken");
    assert_eq!(vmm.tell(b'b'), "block: ok");
    let sum = vmm.tell(b's');

    // There is no second machine's worth of them: that is said at the start, and nobody gets SIGBUS later.
    let second = Vmm::start(&binary, &work.path().join("second"), &[]);
    second.configure(&json!({"huge_pages": "2M", "mem_size_mib": 2 * MEMORY_MIB}));
    let (status, body) = second.ask("PUT", "/actions", Some(&json!({"action_type": "InstanceStart"})));
    assert_eq!(status, 400);
    assert!(body.contains("not enough free pages of 2 MiB"), "{body}");
    drop(second);

    let kept = work.path().join("kept");
    vmm.pause();
    vmm.snapshot("Full", &kept);
    drop(vmm);
    let on_disk = fs::metadata(kept.join("memory")).expect("there").blocks() * 512;
    assert!(on_disk < 12 << 20, "{on_disk} bytes on disk");
    free_socket(&first);
    let before = HugePages::free();
    let mut vmm = Vmm::restore(&binary, &work.path().join("again"), &kept, &[]);
    assert_eq!(vmm.tell(b's'), sum);
    assert!(before - HugePages::free() >= 4, "no huge page was taken");
    assert_eq!(vmm.tell(b'w'), "wrote");
    assert_eq!(vmm.tell(b'b'), "block: ok");
    let sum = vmm.tell(b's');
    vmm.pause();
    vmm.snapshot("Full", &kept);
    drop(vmm);
    free_socket(&first);
    let mut vmm = Vmm::restore(&binary, &work.path().join("last"), &kept, &[]);
    assert_eq!(vmm.tell(b's'), sum);
    drop((vmm, aside));
}
