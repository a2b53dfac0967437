//! `ringwall-vmm` with memory that a page fault handler brings: restore, snapshots of what was never touched, and every way in which the
//! handler can fail the VM. The handler is `vmm_uffd/handler.py`, a process of its own, so that it can be killed.
#![cfg(target_arch = "x86_64")]
#![expect(
    clippy::print_stdout,
    reason = "a skipped test must be seen, and stdout is where tests report"
)]

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use ringwall_e2e::vmm::{Follower, MEMORY_MIB, PATIENCE, Vmm, binary, free_socket, guest, load_body};
use serde_json::{Value, json};

/// The exit code of a VMM whose handler is lost (`EXIT_HANDLER_LOST`).
const HANDLER_LOST: i32 = 5;
/// Within this a VMM has ended whose handler was killed.
const AT_ONCE: Duration = Duration::from_secs(2);

/// The VMM, unless there can be none here or no userfaultfd.
fn vmm_binary() -> Option<PathBuf> {
    let binary = binary()?;
    let allowed = fs::read_to_string("/proc/sys/vm/unprivileged_userfaultfd").is_ok_and(|value| value.trim() == "1");
    if !allowed
        && fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/userfaultfd")
            .is_err()
    {
        println!("SKIPPED: this user may not make a userfaultfd");
        return None;
    }
    Some(binary)
}

/// A page fault handler.
struct Handler {
    child: Child,
    said: BufReader<ChildStdout>,
    socket: PathBuf,
}

impl Drop for Handler {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Handler {
    fn start(folder: &Path, memory: &Path, flags: &[&str]) -> Self {
        fs::create_dir_all(folder).expect("made");
        let socket = folder.join("faults");
        let mut child = Command::new("python3")
            .arg("-B")
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vmm_uffd/handler.py"))
            .args([&socket, memory])
            .args(flags)
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 is needed for the handler");
        let said = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut handler = Handler { child, said, socket };
        handler.until("listening");
        handler
    }

    /// Waits until it says a word, and returns the rest of the line.
    #[track_caller]
    fn until(&mut self, word: &str) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            assert_ne!(
                self.said.read_line(&mut line).expect("read"),
                0,
                "it ended without {word:?}"
            );
            if let Some(rest) = line.strip_prefix(word) {
                return rest.trim().to_owned();
            }
        }
    }

    fn kill(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }

    fn body(&self, from: &Path, resume: bool) -> Value {
        let mut body = load_body(from, resume);
        body["mem_backend"] = json!({"backend_type": "Uffd", "backend_path": self.socket});
        body
    }
}

/// A snapshot of a booted guest, and the sum of its memory.
struct Saved {
    work: tempfile::TempDir,
    kept: PathBuf,
    sum: String,
}

impl Saved {
    fn make(binary: &Path) -> Self {
        let work = tempfile::tempdir().expect("a directory");
        let first = work.path().join("first");
        let mut vmm = Vmm::boot(binary, &first, &json!({}));
        assert_eq!(vmm.tell(b'b'), "block: ok");
        let sum = vmm.tell(b's');
        let kept = work.path().join("kept");
        vmm.pause();
        vmm.snapshot("Full", &kept);
        drop(vmm);
        free_socket(&first);
        Saved { work, kept, sum }
    }

    fn folder(&self, name: &str) -> PathBuf {
        self.work.path().join(name)
    }

    /// A handler for the snapshot's memory.
    fn handler(&self, name: &str, flags: &[&str]) -> Handler {
        Handler::start(&self.folder(name), &self.kept.join("memory"), flags)
    }

    fn free(&self) {
        free_socket(&self.folder("first"));
    }
}

/// Sends a load that is not going to be answered; returns the connection.
fn send_load(folder: &Path, body: &Value) -> UnixStream {
    let mut stream = UnixStream::connect(folder.join("api")).expect("the API answers");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    let body = body.to_string();
    let head = format!(
        "PUT /snapshot/load HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).expect("sent");
    stream
}

#[track_caller]
fn is_lost(vmm: &mut Vmm, since: Instant, within: Duration, words: &str) {
    let status = vmm.ended();
    let took = since.elapsed();
    assert_eq!(status.code(), Some(HANDLER_LOST), "{}", vmm.log());
    assert!(took < within, "it took {took:?}");
    assert!(vmm.log().contains(words), "{}", vmm.log());
}

/// Pages that differ between two memory files.
fn differing_pages(one: &Path, other: &Path) -> Vec<u64> {
    let open = |folder: &Path| fs::File::open(folder.join("memory")).expect("there");
    let (one, other) = (open(one), open(other));
    assert_eq!(
        one.metadata().expect("there").len(),
        other.metadata().expect("there").len()
    );
    let (mut left, mut right) = (vec![0; 4096], vec![0; 4096]);
    (0..MEMORY_MIB << 8)
        .filter(|page| {
            one.read_exact_at(&mut left, page * 4096).expect("read");
            other.read_exact_at(&mut right, page * 4096).expect("read");
            left != right
        })
        .collect()
}

#[test]
fn a_handler_brings_memory_and_a_snapshot_has_all_of_it() {
    let Some(binary) = vmm_binary() else { return };
    let saved = Saved::make(&binary);
    let mut handler = saved.handler("a", &[]);
    let mut vmm = Vmm::start(&binary, &saved.folder("a"), &[]);
    vmm.put("/snapshot/load", &handler.body(&saved.kept, false));
    let mappings: Value = serde_json::from_str(&handler.until("mapped")).expect("JSON");
    assert_eq!(mappings[0]["size"], MEMORY_MIB << 20);
    assert_eq!(mappings[0]["offset"], 0);
    assert_eq!(mappings[0]["page_size"], 4096);
    assert_eq!(mappings[0]["page_size_kib"], 4096);
    // The guest has not run, so hardly any of its pages are in the VMM. Only the generation id is another.
    let again = saved.folder("again");
    vmm.snapshot("Full", &again);
    let differing = differing_pages(&saved.kept, &again);
    assert!(differing.len() <= 2, "pages {differing:?} are others");
    vmm.resume();
    assert_eq!(vmm.tell(b's'), saved.sum);
    assert_eq!(vmm.tell(b'b'), "block: ok");
    assert_eq!(vmm.tell(b'r'), "rng: ok");
    assert_eq!(vmm.tell(b'w'), "wrote");
    let changed = vmm.tell(b's');
    assert_ne!(changed, saved.sum);
    vmm.pause();
    let last = saved.folder("last");
    vmm.snapshot("Full", &last);
    vmm.resume();
    vmm.key(b'q');
    assert_eq!(vmm.ended().code(), Some(0), "{}", vmm.log());
    handler.until("the VMM is gone");
    for (name, from, sum) in [("b", &again, &saved.sum), ("c", &last, &changed)] {
        saved.free();
        let mut vmm = Vmm::restore(&binary, &saved.folder(name), from, &[]);
        assert_eq!(&vmm.tell(b's'), sum, "{name}");
    }
}

#[test]
fn a_vm_goes_on_while_its_pages_come_one_by_one_and_differences_are_small() {
    let Some(binary) = vmm_binary() else { return };
    let saved = Saved::make(&binary);
    let handler = saved.handler("a", &["--pages", "1"]);
    let mut vmm = Vmm::start(&binary, &saved.folder("a"), &["--prepared"]);
    let mut body = handler.body(&saved.kept, true);
    body["track_dirty_pages"] = json!(true);
    vmm.put("/snapshot/load", &body);
    assert_eq!(vmm.tell(b's'), saved.sum);
    assert_eq!(vmm.tell(b'w'), "wrote");
    let changed = vmm.tell(b's');
    vmm.pause();
    let difference = saved.folder("difference");
    vmm.snapshot("Diff", &difference);
    drop(vmm);
    let merged = Command::new(&binary)
        .arg("--merge-memory")
        .args([saved.kept.join("memory"), difference.join("memory")])
        .output()
        .expect("it runs");
    assert!(merged.status.success(), "{merged:?}");
    fs::copy(difference.join("state"), saved.kept.join("state")).expect("copied");
    saved.free();
    let mut vmm = Vmm::restore(&binary, &saved.folder("b"), &saved.kept, &[]);
    assert_eq!(vmm.tell(b's'), changed);
}

#[test]
fn a_handler_killed_while_the_guest_runs_or_is_paused_ends_the_vm() {
    let Some(binary) = vmm_binary() else { return };
    let saved = Saved::make(&binary);
    for is_paused in [false, true] {
        saved.free();
        let name = if is_paused { "paused" } else { "running" };
        let mut handler = saved.handler(name, &[]);
        let mut vmm = Vmm::start(&binary, &saved.folder(name), &[]);
        vmm.put("/snapshot/load", &handler.body(&saved.kept, true));
        assert_eq!(vmm.tell(b's'), saved.sum);
        if is_paused {
            vmm.pause();
        }
        let (mut follower, _) = Follower::begin(&saved.folder(name));
        let killed = Instant::now();
        handler.kill();
        is_lost(&mut vmm, killed, AT_ONCE, "the page fault handler is gone");
        let event = follower.event().expect("an event");
        assert_eq!(event["event"], "page-fault-handler-lost");
        let reason = event["reason"].as_str().expect("a reason");
        assert!(reason.starts_with("the page fault handler is gone"), "{reason}");
        assert_eq!(follower.event(), None);
    }
}

#[test]
fn a_handler_killed_before_its_first_page_ends_the_vm_that_waits_for_it() {
    let Some(binary) = vmm_binary() else { return };
    let saved = Saved::make(&binary);
    for mode in ["mute", "deaf"] {
        saved.free();
        let mut handler = saved.handler(mode, &["--mode", mode]);
        let mut vmm = Vmm::start(&binary, &saved.folder(mode), &[]);
        let (mut follower, _) = Follower::begin(&saved.folder(mode));
        let mut load = send_load(&saved.folder(mode), &handler.body(&saved.kept, true));
        if mode == "mute" {
            handler.until("mapped");
        }
        // The VMM's own thread waits for a page by then.
        std::thread::sleep(Duration::from_millis(300));
        assert!(vmm.child.try_wait().expect("a child").is_none(), "{}", vmm.log());
        let killed = Instant::now();
        handler.kill();
        is_lost(&mut vmm, killed, AT_ONCE, "the page fault handler is gone");
        // The API's thread waits for the load, and tells of the end all the same.
        assert_eq!(follower.event().expect("an event")["event"], "page-fault-handler-lost");
        let mut answer = Vec::new();
        drop(load.read_to_end(&mut answer));
        let answer = String::from_utf8(answer).expect("text");
        assert!(
            answer.is_empty() || answer.contains("the VMM ended before it answered"),
            "{answer}"
        );
    }
}

#[test]
fn a_handler_killed_while_a_vcpu_waits_for_a_page_ends_the_vm() {
    let Some(binary) = vmm_binary() else { return };
    let saved = Saved::make(&binary);
    // The first page of what the guest sums.
    let mut handler = saved.handler("a", &["--stall-at", "0x1000000"]);
    let mut vmm = Vmm::start(&binary, &saved.folder("a"), &[]);
    vmm.put("/snapshot/load", &handler.body(&saved.kept, true));
    vmm.key(b's');
    handler.until("stalled");
    let killed = Instant::now();
    handler.kill();
    is_lost(&mut vmm, killed, AT_ONCE, "the page fault handler is gone");
}

/// Where the guest's buffer for its disk is, which is also its place in the memory file.
fn buffer() -> String {
    let symbols = Command::new("nm").arg(guest()).output().expect("nm is needed");
    let symbols = String::from_utf8(symbols.stdout).expect("text");
    let line = symbols
        .lines()
        .find(|line| line.ends_with(" data"))
        .expect("the symbol");
    format!("0x{}", line.split(' ').next().expect("an address"))
}

#[test]
fn a_handler_killed_while_a_disk_waits_for_a_page_ends_the_vm() {
    let Some(binary) = vmm_binary() else { return };
    let work = tempfile::tempdir().expect("a directory");
    let (first, kept, last) = (
        work.path().join("first"),
        work.path().join("kept"),
        work.path().join("last"),
    );
    let mut vmm = Vmm::start(&binary, &first, &[]);
    vmm.configure(&json!({}));
    // The guest's write is done at once, and its read waits long enough to be caught by the snapshot.
    vmm.put(
        "/drives/data",
        &json!({
            "drive_id": "data", "path_on_host": first.join("disk"), "is_root_device": false, "is_read_only": false,
            "rate_limiter": {"ops": {"size": 1, "refill_time": 4000}},
        }),
    );
    vmm.put("/actions", &json!({"action_type": "InstanceStart"}));
    vmm.until("READY\n");
    vmm.key(b'b');
    std::thread::sleep(Duration::from_millis(500));
    vmm.pause();
    vmm.snapshot("Full", &kept);
    assert!(!vmm.console().contains("block:"), "it was too fast: {}", vmm.console());
    drop(vmm);
    free_socket(&first);
    // Only the disk touches the buffer from here on: the guest waits for the request.
    let mut handler = Handler::start(&last, &kept.join("memory"), &["--stall-at", &buffer()]);
    let mut vmm = Vmm::start(&binary, &last, &[]);
    let _load = send_load(&last, &handler.body(&kept, true));
    handler.until("stalled");
    let killed = Instant::now();
    handler.kill();
    is_lost(&mut vmm, killed, AT_ONCE, "the page fault handler is gone");
}

#[test]
fn a_handler_that_closes_without_serving_ends_the_vm() {
    let Some(binary) = vmm_binary() else { return };
    let saved = Saved::make(&binary);
    let mut handler = saved.handler("a", &["--mode", "close"]);
    let mut vmm = Vmm::start(&binary, &saved.folder("a"), &[]);
    let _load = send_load(&saved.folder("a"), &handler.body(&saved.kept, true));
    handler.until("closed");
    is_lost(&mut vmm, Instant::now(), AT_ONCE, "the page fault handler is gone");
}

#[test]
fn a_handler_that_never_answers_is_given_up_at_the_deadline() {
    let Some(binary) = vmm_binary() else { return };
    let saved = Saved::make(&binary);
    let handler = saved.handler("a", &["--mode", "mute"]);
    let mut vmm = Vmm::start(&binary, &saved.folder("a"), &[]);
    let begun = Instant::now();
    let _load = send_load(&saved.folder("a"), &handler.body(&saved.kept, true));
    is_lost(
        &mut vmm,
        begun,
        Duration::from_secs(40),
        "has not let the snapshot be loaded within 30 s",
    );
}

/// A page may take two seconds; looks are an eighth of that apart.
const TWO_SECONDS: [&str; 2] = ["--page-fault-timeout", "2"];
const LATE: &str = "has not answered a page fault for 2 s";

#[test]
fn a_handler_that_lives_and_does_not_answer_ends_the_vm_in_time() {
    let Some(binary) = vmm_binary() else { return };
    let saved = Saved::make(&binary);
    // Nobody reads the VMM's first fault: the handler has the mappings and does nothing, or does not even take them.
    for mode in ["mute", "deaf"] {
        saved.free();
        let mut handler = saved.handler(mode, &["--mode", mode]);
        let mut vmm = Vmm::start(&binary, &saved.folder(mode), &TWO_SECONDS);
        let begun = Instant::now();
        let _load = send_load(&saved.folder(mode), &handler.body(&saved.kept, true));
        is_lost(&mut vmm, begun, Duration::from_secs(5), LATE);
        assert!(
            begun.elapsed() >= Duration::from_secs(2),
            "it took {:?}",
            begun.elapsed()
        );
        assert!(handler.child.try_wait().expect("a child").is_none(), "it has ended");
    }
    // It has read the fault of a vCPU, and does not answer it.
    saved.free();
    let mut handler = saved.handler("vcpu", &["--stall-at", "0x1000000"]);
    let mut vmm = Vmm::start(&binary, &saved.folder("vcpu"), &TWO_SECONDS);
    vmm.put("/snapshot/load", &handler.body(&saved.kept, true));
    assert_eq!(vmm.tell(b'x'), "nothing: ok");
    vmm.key(b's');
    handler.until("stalled");
    is_lost(&mut vmm, Instant::now(), Duration::from_secs(5), LATE);
    // Stopped from outside, as by a debugger.
    saved.free();
    let handler = saved.handler("stopped", &[]);
    let mut vmm = Vmm::start(&binary, &saved.folder("stopped"), &TWO_SECONDS);
    vmm.put("/snapshot/load", &handler.body(&saved.kept, true));
    assert_eq!(vmm.tell(b'x'), "nothing: ok");
    let pid = rustix::process::Pid::from_child(&handler.child);
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).expect("stopped");
    vmm.key(b's');
    is_lost(&mut vmm, Instant::now(), Duration::from_secs(5), LATE);
}

#[test]
fn a_handler_that_answers_slowly_is_not_ended() {
    let Some(binary) = vmm_binary() else { return };
    let saved = Saved::make(&binary);
    // Each page takes 0.3 s, so that a fault waits at almost every look of this second.
    let handler = saved.handler("a", &["--delay-ms", "300", "--pages", "1"]);
    let mut vmm = Vmm::start(&binary, &saved.folder("a"), &["--page-fault-timeout", "1"]);
    vmm.put("/snapshot/load", &handler.body(&saved.kept, true));
    // 2,048 pages: it is at it for as long as this looks.
    vmm.key(b's');
    std::thread::sleep(Duration::from_secs(5));
    assert!(vmm.child.try_wait().expect("a child").is_none(), "{}", vmm.log());
    assert_eq!(vmm.ask("GET", "/", None).0, 200);
    // Nor is one that does nothing while there is nothing to do.
    saved.free();
    let handler = saved.handler("b", &[]);
    let mut vmm = Vmm::start(&binary, &saved.folder("b"), &["--page-fault-timeout", "1"]);
    vmm.put("/snapshot/load", &handler.body(&saved.kept, true));
    assert_eq!(vmm.tell(b's'), saved.sum);
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(vmm.tell(b's'), saved.sum);
}

#[test]
fn without_a_timeout_a_page_may_take_any_time() {
    let Some(binary) = vmm_binary() else { return };
    let saved = Saved::make(&binary);
    let mut handler = saved.handler("a", &["--stall-at", "0x1000000"]);
    let mut vmm = Vmm::start(&binary, &saved.folder("a"), &["--page-fault-timeout", "0"]);
    vmm.put("/snapshot/load", &handler.body(&saved.kept, true));
    vmm.key(b's');
    handler.until("stalled");
    std::thread::sleep(Duration::from_secs(3));
    assert!(vmm.child.try_wait().expect("a child").is_none(), "{}", vmm.log());
}

#[test]
fn a_slow_handler_slows_the_load_and_no_more() {
    let Some(binary) = vmm_binary() else { return };
    let saved = Saved::make(&binary);
    let handler = saved.handler("a", &["--delay-ms", "200", "--pages", "1"]);
    let mut vmm = Vmm::start(&binary, &saved.folder("a"), &[]);
    let begun = Instant::now();
    vmm.put("/snapshot/load", &handler.body(&saved.kept, true));
    println!("the load took {:?}", begun.elapsed());
    assert_eq!(vmm.ask("GET", "/", None).0, 200);
    assert_eq!(vmm.tell(b'x'), "nothing: ok");
    vmm.pause();
    vmm.resume();
    assert_eq!(vmm.tell(b'r'), "rng: ok");
}

/// A program in the VMM's place, which starts it with fewer rights: root's without `CAP_SYS_PTRACE`, and `more` done before.
fn restricted(binary: &Path, at: &Path, more: &str) -> PathBuf {
    let text = format!(
        "#!/bin/sh\n{more}\nexec setpriv --inh-caps=-sys_ptrace --bounding-set=-sys_ptrace {} \"$@\"\n",
        binary.display()
    );
    fs::write(at, text).expect("written");
    fs::set_permissions(at, fs::Permissions::from_mode(0o700)).expect("set");
    at.to_owned()
}

#[test]
fn without_the_right_to_the_system_call_the_device_serves_and_without_both_the_error_says_what_to_do() {
    let Some(binary) = vmm_binary() else { return };
    let sysctl = fs::read_to_string("/proc/sys/vm/unprivileged_userfaultfd").unwrap_or_default();
    if !rustix::process::geteuid().is_root() || sysctl.trim() != "0" || !Path::new("/dev/userfaultfd").exists() {
        println!("SKIPPED: needs root, vm.unprivileged_userfaultfd=0 and /dev/userfaultfd");
        return;
    }
    let saved = Saved::make(&binary);
    let handler = saved.handler("a", &[]);
    let by_device = restricted(&binary, &saved.folder("by-device"), "");
    let mut vmm = Vmm::start(&by_device, &saved.folder("a"), &[]);
    vmm.put("/snapshot/load", &handler.body(&saved.kept, true));
    assert_eq!(vmm.tell(b's'), saved.sum);
    drop((vmm, handler));
    saved.free();
    // A mount namespace of its own, where the device is another.
    let hidden = "[ \"$HIDDEN\" ] || HIDDEN=1 exec unshare --mount \"$0\" \"$@\"\nmount --bind /dev/null /dev/userfaultfd || exit 9";
    let by_nothing = restricted(&binary, &saved.folder("by-nothing"), hidden);
    let handler = saved.handler("b", &[]);
    let vmm = Vmm::start(&by_nothing, &saved.folder("b"), &[]);
    let (status, text) = vmm.ask("PUT", "/snapshot/load", Some(&handler.body(&saved.kept, true)));
    assert_eq!(status, 400, "{text}");
    assert!(text.contains("vm.unprivileged_userfaultfd"), "{text}");
    assert!(text.contains("/dev/userfaultfd"), "{text}");
}

#[test]
fn a_socket_without_handler_is_an_error_and_the_vmm_lives() {
    let Some(binary) = vmm_binary() else { return };
    let saved = Saved::make(&binary);
    let mut vmm = Vmm::start(&binary, &saved.folder("a"), &[]);
    let stale = saved.folder("stale");
    drop(std::os::unix::net::UnixListener::bind(&stale).expect("bound"));
    for path in [saved.folder("none"), stale, saved.kept.join("memory")] {
        let mut body = load_body(&saved.kept, true);
        body["mem_backend"] = json!({"backend_type": "Uffd", "backend_path": path});
        let (status, text) = vmm.ask("PUT", "/snapshot/load", Some(&body));
        assert_eq!(status, 400, "{text}");
        let wanted = format!("can't connect to the page fault handler at {}", path.display());
        assert!(text.contains(&wanted), "{text}");
        assert!(vmm.child.try_wait().expect("a child").is_none(), "it has ended");
    }
}
