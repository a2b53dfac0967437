//! `ringwall-vmm` with a guest of a few hundred instructions (`payload/`), which runs on every x86_64 host with KVM, also where ordinary
//! kernels are too slow: boot, serial port, devices, pause, snapshots, clones, and what becomes of bad ones.
#![cfg(target_arch = "x86_64")]
#![expect(
    clippy::print_stdout,
    reason = "a skipped test must be seen, and stdout is where tests report"
)]

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Longest wait for anything; far above what is needed on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
const MEMORY_MIB: u64 = 128;

/// The VMM, unless there can be none here.
fn binary() -> Option<PathBuf> {
    if !Path::new("/dev/kvm").exists() {
        println!("SKIPPED: there is no /dev/kvm");
        return None;
    }
    let path = std::env::var_os("RINGWALL_VMM_BIN").expect("RINGWALL_VMM_BIN names the VMM under test");
    Some(PathBuf::from(path))
}

/// The guest, assembled once.
fn guest() -> &'static Path {
    static GUEST: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = GUEST.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a directory");
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("payload");
        let target = folder.path().join("guest.elf");
        let flags = "-m64 -O2 -ffreestanding -fno-pic -no-pie -mno-sse -mgeneral-regs-only -mno-red-zone -fno-stack-protector \
                     -mcmodel=small -nostdlib -static -Wall -Wextra -Werror -Wl,-z,noexecstack -Wl,--no-warn-rwx-segments \
                     -Wl,--build-id=none";
        let made = Command::new("gcc")
            .args(flags.split_whitespace())
            .arg("-T")
            .arg(sources.join("guest.ld"))
            .arg("-o")
            .arg(&target)
            .args([sources.join("start.S"), sources.join("guest.c")])
            .output()
            .expect("gcc is needed for the guest");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        (folder, target)
    });
    path
}

/// A VMM and its guest's serial port.
struct Vmm {
    child: Child,
    folder: PathBuf,
    seen: usize,
}

impl Drop for Vmm {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Vmm {
    /// Starts one with its socket, log and console in `folder`.
    fn start(binary: &Path, folder: &Path, flags: &[&str]) -> Self {
        fs::create_dir_all(folder).expect("made");
        let console = File::create(folder.join("console")).expect("made");
        let log = File::create(folder.join("log")).expect("made");
        let child = Command::new(binary)
            .arg("--api-sock")
            .arg(folder.join("api"))
            .args(flags)
            .stdin(Stdio::piped())
            .stdout(console)
            .stderr(log)
            .spawn()
            .expect("ringwall-vmm starts");
        let vmm = Vmm {
            child,
            folder: folder.to_owned(),
            seen: 0,
        };
        eventually("the socket", || UnixStream::connect(folder.join("api")).is_ok());
        vmm
    }

    /// Boots the guest with a disk, entropy, vsock and a balloon.
    fn boot(binary: &Path, folder: &Path, more: &Value) -> Self {
        let mut vmm = Vmm::start(binary, folder, &[]);
        vmm.configure(more);
        vmm.put("/actions", &json!({"action_type": "InstanceStart"}));
        vmm.until("READY\n");
        vmm
    }

    fn configure(&self, more: &Value) {
        let disk = self.folder.join("disk");
        let file = File::create(&disk).expect("made");
        file.set_len(16 << 20).expect("sized");
        let mut machine = json!({"vcpu_count": 2, "mem_size_mib": MEMORY_MIB});
        for (key, value) in more.as_object().expect("an object") {
            machine[key] = value.clone();
        }
        self.put("/machine-config", &machine);
        self.put(
            "/boot-source",
            &json!({"kernel_image_path": guest(), "boot_args": "console=ttyS0"}),
        );
        self.put(
            "/drives/data",
            &json!({"drive_id": "data", "path_on_host": disk, "is_root_device": false, "is_read_only": false}),
        );
        self.put("/entropy", &json!({}));
        self.put(
            "/vsock",
            &json!({"guest_cid": 3, "uds_path": self.folder.join("v.sock")}),
        );
        self.put("/balloon", &json!({"amount_mib": 0, "deflate_on_oom": true}));
    }

    /// Sends a request; its status and body.
    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, String) {
        let mut stream = UnixStream::connect(self.folder.join("api")).expect("the API answers");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        let body = body.map(Value::to_string).unwrap_or_default();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            body.len()
        );
        stream.write_all((head + &body).as_bytes()).expect("sent");
        // The server keeps connections as it likes: read the head, then as much as it says.
        let mut answer = Vec::new();
        let mut byte = [0];
        while !answer.ends_with(b"\r\n\r\n") && stream.read(&mut byte).expect("an answer") == 1 {
            answer.push(byte[0]);
        }
        let head = String::from_utf8(answer).expect("text").to_ascii_lowercase();
        let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: ")?.trim().parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        stream.read_exact(&mut body).expect("a body");
        (status.expect("a status"), String::from_utf8(body).expect("text"))
    }

    #[track_caller]
    fn put(&self, path: &str, body: &Value) {
        let answer = self.ask("PUT", path, Some(body));
        assert_eq!(answer.0, 204, "PUT {path} {body}: {answer:?}\n{}", self.log());
    }

    #[track_caller]
    fn patch(&self, path: &str, body: &Value) {
        let answer = self.ask("PATCH", path, Some(body));
        assert_eq!(answer.0, 204, "PATCH {path} {body}: {answer:?}\n{}", self.log());
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    fn console(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.folder.join("console")).unwrap_or_default()).into_owned()
    }

    /// Waits until the guest has said something more than before, and returns all up to it.
    #[track_caller]
    fn until(&mut self, wanted: &str) -> String {
        let begun = Instant::now();
        loop {
            let console = self.console();
            let new = console.get(self.seen..).unwrap_or_default();
            if let Some(at) = new.find(wanted) {
                let text = new[..at + wanted.len()].to_owned();
                self.seen += text.len();
                return text;
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "no {wanted:?} in {console:?}; the log:\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn key(&mut self, letter: u8) {
        let stdin = self.child.stdin.as_mut().expect("a pipe");
        stdin.write_all(&[letter]).expect("written");
    }

    /// Presses a letter and returns the guest's line.
    #[track_caller]
    fn tell(&mut self, letter: u8) -> String {
        self.key(letter);
        self.until("\n").trim_end().to_owned()
    }

    fn pause(&self) {
        self.patch("/vm", &json!({"state": "Paused"}));
    }

    fn resume(&self) {
        self.patch("/vm", &json!({"state": "Resumed"}));
    }

    /// Writes a snapshot to `to`.
    #[track_caller]
    fn snapshot(&self, kind: &str, to: &Path) {
        fs::create_dir_all(to).expect("made");
        self.put("/snapshot/create", &snapshot_body(kind, to));
    }

    /// Starts a VMM that goes on from a snapshot.
    #[track_caller]
    fn restore(binary: &Path, folder: &Path, from: &Path, flags: &[&str]) -> Self {
        let vmm = Vmm::start(binary, folder, flags);
        vmm.put("/snapshot/load", &load_body(from, true));
        vmm
    }

    fn ended(&mut self) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status;
            }
            assert!(begun.elapsed() < PATIENCE, "it goes on; the log:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

fn snapshot_body(kind: &str, to: &Path) -> Value {
    json!({"snapshot_type": kind, "snapshot_path": to.join("state"), "mem_file_path": to.join("memory")})
}

fn load_body(from: &Path, resume: bool) -> Value {
    json!({
        "snapshot_path": from.join("state"),
        "mem_backend": {"backend_type": "File", "backend_path": from.join("memory")},
        "resume_vm": resume,
    })
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "{what} does not come");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A place for the snapshot's VMs: their vsock sockets are named in the snapshot, so only one at a time may have them.
fn free_socket(folder: &Path) {
    drop(fs::remove_file(folder.join("v.sock")));
}

#[test]
fn a_guest_boots_talks_and_ends_in_each_way() {
    let Some(binary) = binary() else { return };
    for (letter, code) in [(b'q', 0), (b'a', 0), (b'p', 3), (b'o', 4)] {
        let work = tempfile::tempdir().expect("a directory");
        let mut vmm = Vmm::boot(&binary, work.path(), &json!({}));
        if letter == b'q' {
            assert_eq!(vmm.tell(b'x'), "nothing: ok");
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
    let mut vmm = Vmm::boot(&binary, &work.path().join("b"), &json!({"vcpu_count": 3}));
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
    let newer = String::from_utf8_lossy(&good).replacen("snapshot 1 ", "snapshot 2 ", 1);
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
            "has version 2, this program reads 1",
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
