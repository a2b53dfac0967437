//! The output of `ringwall-vmm` and its guest when nobody reads it: neither the guest nor the API waits, what fits is kept, and the rest is
//! counted.
#![cfg(target_arch = "x86_64")]

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use ringwall_e2e::vmm::{PATIENCE, Vmm, binary, eventually};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use serde_json::{Value, json};

/// What the VMM keeps for a console that takes nothing (`MAX_PENDING_BYTES`).
const KEPT: usize = 64 << 10;
/// A line of the guest's: 16 digits.
const LINE: usize = 17;
/// What the guest writes when told `m`.
const MANY: usize = (1 << 18) / LINE + 1;

/// The newest of the VMM's counters of the serial port.
fn counters(vmm: &Vmm, folder: &Path) -> Value {
    vmm.put("/actions", &json!({"action_type": "FlushMetrics"}));
    let lines = fs::read_to_string(folder.join("metrics")).expect("there");
    let line: Value = serde_json::from_str(lines.lines().last().expect("a line")).expect("JSON");
    line["serial"].clone()
}

fn count(counters: &Value, name: &str) -> usize {
    usize::try_from(counters[name].as_u64().expect("a number")).expect("small")
}

/// Reads what is there until it ends with `end`.
fn read_to(reader: &mut (impl io::Read + std::os::fd::AsFd), end: &[u8]) -> Vec<u8> {
    let (begun, mut all, mut part) = (Instant::now(), Vec::new(), vec![0; 64 << 10]);
    let moment = Timespec { tv_sec: 1, tv_nsec: 0 };
    while !all.ends_with(end) {
        assert!(begun.elapsed() < PATIENCE, "{} bytes and no {end:?}", all.len());
        let mut ready = [PollFd::from_borrowed_fd(reader.as_fd(), PollFlags::IN)];
        if poll(&mut ready, Some(&moment)).expect("polled") > 0 {
            let count = reader.read(&mut part).expect("read");
            assert_ne!(count, 0, "it has ended");
            all.extend_from_slice(&part[..count]);
        }
    }
    all
}

/// A guest whose console is one end of something, whose other end is `reader`: it floods that, and goes on.
fn floods(reader: &mut (impl io::Read + std::os::fd::AsFd), console: impl Into<std::process::Stdio>) {
    let Some(binary) = binary() else { return };
    let work = tempfile::tempdir().expect("a directory");
    let folder = work.path();
    let log = fs::File::create(folder.join("log")).expect("made");
    let metrics = folder.join("metrics");
    let flags = ["--metrics-path", metrics.to_str().expect("text")];
    let mut vmm = Vmm::start_with(&binary, folder, &flags, console, log);
    vmm.configure(&json!({}));
    vmm.put("/actions", &json!({"action_type": "InstanceStart"}));
    let greeting = read_to(reader, b"READY\n");
    vmm.key(b'l');
    // Nobody reads. The guest writes all it has, and the API answers meanwhile.
    let all = greeting.len() + MANY * LINE;
    eventually("the end of the guest's flood", || {
        // The guest writes for some seconds, and all this takes from it.
        std::thread::sleep(Duration::from_millis(100));
        let asked = Instant::now();
        let now = counters(&vmm, folder);
        assert!(
            asked.elapsed() < Duration::from_secs(5),
            "the API waits for the console"
        );
        count(&now, "written") + count(&now, "lost") + count(&now, "pending") == all
    });
    let full = counters(&vmm, folder);
    assert_eq!(count(&full, "pending"), KEPT);
    let kept = all - count(&full, "lost");
    assert!(kept < all, "nothing was lost, so nothing was tested: {full}");
    vmm.pause();
    vmm.resume();
    let said = "nobody reads the console";
    assert_eq!(vmm.log().matches(said).count(), 1, "{}", vmm.log());
    // What was kept comes in order and whole, and then what the guest says next.
    let mut found = vec![0; kept - greeting.len()];
    reader.read_exact(&mut found).expect("read");
    let text = String::from_utf8(found).expect("text");
    for (number, line) in text.split_terminator('\n').enumerate() {
        let whole = format!("{number:016x}");
        assert!(
            whole.starts_with(line) && (line.len() == 16 || text.ends_with(line)),
            "{number}: {line}"
        );
    }
    vmm.key(b'x');
    assert_eq!(read_to(reader, b"ok\n"), b"nothing: ok\n");
    assert_eq!(count(&counters(&vmm, folder), "pending"), 0);
    // Its last words are waited for, but not for long.
    vmm.key(b'l');
    eventually("a full console", || count(&counters(&vmm, folder), "pending") == KEPT);
    vmm.key(b'q');
    assert_eq!(vmm.ended().code(), Some(0));
}

#[test]
fn a_guest_that_floods_a_pipe_that_nobody_reads_goes_on() {
    let (mut reader, writer) = io::pipe().expect("a pipe");
    let kept = writer.try_clone().expect("another");
    floods(&mut reader, writer);
    let flags = rustix::fs::fcntl_getfl(&kept).expect("flags");
    assert!(!flags.contains(OFlags::NONBLOCK), "the starter's pipe was changed");
}

#[test]
fn a_guest_that_floods_a_socket_that_nobody_reads_goes_on() {
    let (mut reader, writer) = UnixStream::pair().expect("a socket");
    floods(&mut reader, std::os::fd::OwnedFd::from(writer));
}

#[test]
fn a_log_that_nobody_reads_holds_nothing_up() {
    let Some(binary) = binary() else { return };
    let work = tempfile::tempdir().expect("a directory");
    let (mut reader, writer) = io::pipe().expect("a pipe");
    let filler = writer.try_clone().expect("another");
    let console = fs::File::create(work.path().join("console")).expect("made");
    let mut vmm = Vmm::start_with(&binary, work.path(), &["--level", "Debug"], console, writer);
    // As full as it gets.
    let mut ready = [PollFd::from_borrowed_fd(filler.as_fd(), PollFlags::OUT)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    while poll(&mut ready, Some(&now)).expect("polled") > 0 {
        (&filler).write_all(&[b'.'; 4096]).expect("written");
        ready[0].clear_revents();
    }
    let begun = Instant::now();
    vmm.configure(&json!({}));
    vmm.put("/actions", &json!({"action_type": "InstanceStart"}));
    vmm.until("READY\n");
    assert_eq!(vmm.tell(b'b'), "block: ok");
    assert!(begun.elapsed() < PATIENCE);
    let (ended, mut all) = (Instant::now(), Vec::new());
    vmm.key(b'q');
    assert_eq!(vmm.ended().code(), Some(0));
    assert!(ended.elapsed() < Duration::from_secs(10));
    drop(filler);
    reader.read_to_end(&mut all).expect("read");
    assert!(all.contains(&b'.'));
}
