//! What a `ringwall-vmm` process can't do, seen from outside: each thread's filter and capabilities, limits, files that it may not open, and a
//! VM that runs and is restored with nothing but descriptors.
#![cfg(target_arch = "x86_64")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use ringwall_e2e::vmm::{MEMORY_MIB, Vmm, binary, eventually, free_socket, guest, load_body, snapshot_body};
use serde_json::{Value, json};

/// Any user but root; it need not be known to the system.
const SOMEBODY: u32 = 4711;
/// Descriptors as these tests give them.
const API: &str = "5";
const KVM: &str = "6";
const KERNEL: &str = "10";
const DISK: &str = "11";
const STATE: &str = "12";
const MEMORY: &str = "13";
const VSOCK: &str = "14";
const HANDLER: &str = "15";
const SERIAL: &str = "16";

fn fd(number: &str) -> String {
    format!("fd:{number}")
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// What a VMM is given, and where it is kept.
struct Launch {
    folder: PathBuf,
    descriptors: BTreeMap<&'static str, Value>,
    flags: Vec<String>,
    root: Option<PathBuf>,
    user: Option<u32>,
}

impl Launch {
    /// With its API and KVM.
    fn new(folder: PathBuf, flags: &[&str]) -> Self {
        fs::create_dir_all(&folder).expect("made");
        let api = json!({"listen": folder.join("api")});
        let kvm = json!({"path": "/dev/kvm", "mode": "rw"});
        Launch {
            folder,
            descriptors: BTreeMap::from([(API, api), (KVM, kvm)]),
            flags: flags.iter().map(|&flag| flag.to_owned()).collect(),
            root: None,
            user: None,
        }
    }

    fn give(mut self, number: &'static str, what: Value) -> Self {
        self.descriptors.insert(number, what);
        self
    }

    fn file(self, number: &'static str, path: &Path, mode: &str) -> Self {
        self.give(number, json!({"path": path, "mode": mode}))
    }

    fn spawn(&self, binary: &Path) -> Vmm {
        let program = match &self.root {
            Some(_) => Path::new("/vmm"),
            None => binary,
        };
        let mut arguments = vec![program.display().to_string()];
        arguments.extend(["--api-fd", API, "--kvm-fd", KVM, "--level", "Info"].map(str::to_owned));
        arguments.extend(self.flags.iter().cloned());
        let mut spec = json!({"descriptors": self.descriptors, "arguments": arguments});
        if let Some(root) = &self.root {
            spec["root"] = json!(root);
        }
        if let Some(user) = self.user {
            spec["user"] = json!(user);
        }
        let mut command = Command::new("python3");
        command.arg("-B");
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vmm_confine/launch.py"));
        command.arg(spec.to_string());
        Vmm::spawn(command, &self.folder)
    }

    fn start(self, binary: &Path) -> Vmm {
        let vmm = self.spawn(binary);
        eventually("the API", || {
            UnixStream::connect(self.folder.join("api")).is_ok() && vmm.ask("GET", "/", None).0 == 200
        });
        vmm
    }
}

/// A directory with the VMM and its libraries, and nothing else: no /proc, no /dev.
fn root_with(binary: &Path, root: &Path) {
    fs::create_dir_all(root).expect("made");
    fs::copy(binary, root.join("vmm")).expect("copied");
    let listed = Command::new("ldd").arg(binary).output().expect("ldd");
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    for library in listed.split_whitespace().filter(|word| word.starts_with('/')) {
        let target = root.join(library.trim_start_matches('/'));
        fs::create_dir_all(target.parent().expect("a directory")).expect("made");
        fs::copy(library, target).expect("copied");
    }
}

fn disk(folder: &Path) -> PathBuf {
    fs::create_dir_all(folder).expect("made");
    let path = folder.join("disk");
    File::create(&path).expect("made").set_len(16 << 20).expect("sized");
    path
}

/// The files of a VM that is snapshotted and restored, which gets all of them as descriptors.
struct Files {
    work: tempfile::TempDir,
    state: PathBuf,
    memory: PathBuf,
    disk: PathBuf,
}

impl Files {
    fn new() -> Self {
        let work = tempfile::tempdir().expect("a directory");
        let make = |name| {
            let path = work.path().join(name);
            File::create(&path).expect("made");
            path
        };
        Self {
            state: make("state"),
            memory: make("memory"),
            disk: disk(work.path()),
            work,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.work.path().join(name)
    }

    /// A VMM to be started with them, but for the memory file, with its own files in the folder `name`.
    fn launch(&self, name: &str) -> Launch {
        Launch::new(self.path(name), &["--no-paths"])
            .file(KERNEL, guest(), "r")
            .file(DISK, &self.disk, "rw")
            .file(STATE, &self.state, "rw")
            .give(VSOCK, json!({"listen": self.path(&format!("{name}.vsock"))}))
    }
}

/// Boots the guest with descriptors only; `io_engine` "Sync" is threads.
fn boot(vmm: &mut Vmm) {
    vmm.put("/machine-config", &json!({"vcpu_count": 2, "mem_size_mib": MEMORY_MIB}));
    vmm.put("/boot-source", &json!({"kernel_image_path": fd(KERNEL)}));
    vmm.put("/drives/data", &drive(&fd(DISK)));
    vmm.put("/entropy", &json!({}));
    vmm.put("/vsock", &json!({"guest_cid": 3, "uds_path": fd(VSOCK)}));
    vmm.put("/actions", &json!({"action_type": "InstanceStart"}));
    vmm.until("READY\n");
}

fn drive(path: &str) -> Value {
    json!({"drive_id": "data", "path_on_host": path, "is_root_device": false, "is_read_only": false, "io_engine": "Sync"})
}

fn status(pid: u32) -> Vec<(String, BTreeMap<String, String>)> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
    let texts = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("status")).ok());
    texts
        .map(|text| {
            let fields: BTreeMap<_, _> = text
                .lines()
                .filter_map(|line| line.split_once(':'))
                .map(|(key, value)| (key.to_owned(), value.trim().to_owned()))
                .collect();
            (fields["Name"].clone(), fields)
        })
        .collect()
}

#[track_caller]
fn assert_confined(pid: u32) -> Vec<String> {
    let threads = status(pid);
    for (name, fields) in &threads {
        assert_eq!(fields["Seccomp"], "2", "{name}");
        assert_eq!(fields["NoNewPrivs"], "1", "{name}");
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            // Nobody but who has CAP_SETPCAP can empty the bounding set; without a way to gain any it is of no use.
            if set != "CapBnd" || is_root() {
                assert_eq!(fields[set], "0000000000000000", "{set} of {name}");
            }
        }
    }
    threads.into_iter().map(|(name, _)| name).collect()
}

#[track_caller]
fn refused(vmm: &Vmm, path: &str, body: &Value) -> String {
    let (status, text) = vmm.ask("PUT", path, Some(body));
    assert_eq!(status, 400, "PUT {path} {body}: {text}\n{}", vmm.log());
    text
}

#[test]
fn every_thread_is_filtered_and_has_no_capability() {
    let Some(binary) = binary() else { return };
    let work = tempfile::tempdir().expect("a directory");
    let mut vmm = Vmm::boot(&binary, &work.path().join("vm"), &json!({}));
    assert_eq!(vmm.tell(b'b'), "block: ok");
    let names = assert_confined(vmm.child.id());
    for wanted in ["ringwall-vmm", "vcpu", "api", "block-"] {
        assert!(names.iter().any(|name| name.contains(wanted)), "{wanted} in {names:?}");
    }
    let limits = fs::read_to_string(format!("/proc/{}/limits", vmm.child.id())).expect("there");
    let limit = |name: &str| {
        let line = limits.lines().find(|line| line.starts_with(name)).expect("listed");
        let values = line[name.len()..].split_whitespace().take(2);
        values
            .map(|value| value.parse().unwrap_or(u64::MAX))
            .collect::<Vec<_>>()
    };
    assert_eq!(limit("Max core file size"), [0, 0]);
    assert_eq!(limit("Max msgqueue size"), [0, 0]);
    let files = limit("Max open files");
    assert!(files[0] <= 4096 && files[0] == files[1], "{files:?}");
}

#[test]
fn a_vmm_is_kept_below_its_directories() {
    let Some(binary) = binary() else { return };
    let work = tempfile::tempdir().expect("a directory");
    let (inside, outside) = (work.path().join("inside"), work.path().join("outside"));
    let kept = disk(&outside);
    fs::create_dir_all(&inside).expect("made");
    fs::copy(guest(), inside.join("kernel")).expect("copied");
    let flags = ["--confine-to", inside.to_str().expect("text"), "--level", "Info"];
    let mut vmm = Vmm::start(&binary, &inside, &flags);
    // What is outside can be opened by others: it is this process that can't.
    assert!(File::open(&kept).is_ok());
    let text = refused(&vmm, "/drives/data", &drive(kept.to_str().expect("text")));
    assert!(text.contains("outside of") && text.contains("inside"), "{text}");
    // Nor by a link from inside, nor through the parent directory.
    std::os::unix::fs::symlink(&kept, inside.join("link")).expect("linked");
    for path in [inside.join("link"), inside.join("../outside/disk")] {
        let text = refused(&vmm, "/drives/data", &drive(path.to_str().expect("text")));
        assert!(
            text.contains("Permission denied") || text.contains("outside of"),
            "{text}"
        );
    }
    let link = inside.join("log");
    let text = refused(&vmm, "/logger", &json!({"log_path": outside.join("log")}));
    assert!(text.contains("outside of"), "{text}");
    assert!(link.exists() && !outside.join("log").exists());
    let own = disk(&inside);
    vmm.put("/drives/data", &drive(own.to_str().expect("text")));
    vmm.put("/boot-source", &json!({"kernel_image_path": inside.join("kernel")}));
    vmm.put("/vsock", &json!({"guest_cid": 3, "uds_path": inside.join("v.sock")}));
    vmm.put("/actions", &json!({"action_type": "InstanceStart"}));
    vmm.until("READY\n");
    assert_eq!(vmm.tell(b'b'), "block: ok");
    vmm.pause();
    let text = refused(&vmm, "/snapshot/create", &snapshot_body("Full", &outside));
    assert!(text.contains("outside of"), "{text}");
    assert!(!outside.join("memory").exists() && !outside.join("memory.partial").exists());
    vmm.snapshot("Full", &inside.join("snapshot"));
    drop(vmm);
    free_socket(&inside);
    fs::remove_file(inside.join("api")).expect("left by the VMM that was killed");
    // Landlock has no say in connecting to a socket; the VMM has, for what its clients name.
    let handler = outside.join("handler");
    let _listener = UnixListener::bind(&handler).expect("bound");
    let vmm = Vmm::start(&binary, &inside, &flags);
    let mut load = load_body(&inside.join("snapshot"), true);
    load["mem_backend"] = json!({"backend_type": "Uffd", "backend_path": handler});
    let text = refused(&vmm, "/snapshot/load", &load);
    assert!(text.contains("outside of"), "{text}");
    drop(vmm);
    // Without the flag the same VMM opens it.
    let vmm = Vmm::start(&binary, &work.path().join("free"), &[]);
    vmm.put("/drives/data", &drive(kept.to_str().expect("text")));
}

#[test]
fn a_vmm_without_an_api_is_closed_when_its_machine_runs() {
    let Some(binary) = binary() else { return };
    let work = tempfile::tempdir().expect("a directory");
    let folder = work.path().join("vm");
    let own = disk(&folder);
    let config = json!({
        "boot-source": {"kernel_image_path": guest()},
        "machine-config": {"vcpu_count": 1, "mem_size_mib": MEMORY_MIB},
        "drives": [drive(own.to_str().expect("text"))],
        "entropy": {},
    });
    fs::write(folder.join("config"), config.to_string()).expect("written");
    let run = |more: &[&str]| {
        let mut command = Command::new(&binary);
        command
            .args(["--no-api", "--level", "Info", "--config-file"])
            .arg(folder.join("config"))
            .args(more);
        let mut vmm = Vmm::spawn(command, &folder);
        vmm.until("READY\n");
        assert_eq!(vmm.tell(b'b'), "block: ok");
        vmm
    };
    let mut vmm = run(&[]);
    assert!(vmm.log().contains("no file can be opened any more"), "{}", vmm.log());
    assert_confined(vmm.child.id());
    // What refuses paths is one filter more than the two that every thread has; vCPUs have those of the thread that started them, too.
    for (name, fields) in status(vmm.child.id()) {
        let wanted = match &*name {
            name if name.starts_with("vcpu") => "5",
            "ringwall-vmm" => "3",
            // A disk's, or one that KVM has started (kvm-nx-lpage-recovery), whose is that of who was first to need it.
            _ => continue,
        };
        assert_eq!(fields["Seccomp_filters"], wanted, "{name}");
    }
    vmm.key(b'q');
    assert_eq!(vmm.ended().code(), Some(0), "{}", vmm.log());
    let vmm = run(&["--no-landlock"]);
    assert!(!vmm.log().contains("no file can be opened"), "{}", vmm.log());
}

#[test]
fn a_vm_runs_and_is_restored_in_an_empty_root_with_descriptors_only() {
    let Some(binary) = binary() else { return };
    if !is_root() {
        println!("SKIPPED: only root can lock a process into a directory and change its user");
        return;
    }
    let files = Files::new();
    let root = files.path("root");
    root_with(&binary, &root);
    let mut launch = files.launch("first").file(MEMORY, &files.memory, "rw");
    launch.root = Some(root.clone());
    launch.user = Some(SOMEBODY);
    let mut vmm = launch.start(&binary);
    let owner = fs::metadata(format!("/proc/{}", vmm.child.id()))
        .expect("it runs")
        .uid();
    assert_eq!(owner, SOMEBODY);
    boot(&mut vmm);
    assert_eq!(vmm.tell(b'b'), "block: ok");
    vmm.patch("/drives/data", &json!({"drive_id": "data", "path_on_host": fd(DISK)}));
    assert_eq!(vmm.tell(b'b'), "block: ok");
    let sum = vmm.tell(b's');
    vmm.pause();
    let both = json!({"snapshot_path": fd(STATE), "mem_file_path": fd(MEMORY)});
    vmm.put("/snapshot/create", &both);
    for (name, fields) in status(vmm.child.id()) {
        assert_eq!(
            (fields["Seccomp"].as_str(), fields["CapEff"].as_str()),
            ("2", "0000000000000000"),
            "{name}"
        );
    }
    drop(vmm);
    let held = fs::metadata(&files.memory).expect("there");
    assert!(
        held.len() == MEMORY_MIB << 20 && held.blocks() * 512 < 16 << 20,
        "{held:?}"
    );

    // Another drive's number, and everything read-only that can be.
    let mut launch = Launch::new(files.path("second"), &["--no-paths", "--prepared-for", "fd:12"])
        .file(STATE, &files.state, "r")
        .file(MEMORY, &files.memory, "r")
        .file("20", &files.disk, "rw")
        .give(VSOCK, json!({"listen": files.path("v2")}));
    launch.root = Some(root);
    launch.user = Some(SOMEBODY);
    let mut vmm = launch.start(&binary);
    let load = |overrides: Value| {
        json!({
            "snapshot_path": fd(STATE),
            "mem_backend": {"backend_type": "File", "backend_path": fd(MEMORY)},
            "resume_vm": true,
            "drive_overrides": overrides,
        })
    };
    let text = refused(&vmm, "/snapshot/load", &load(json!([])));
    assert!(text.contains("descriptor 11, which was not open"), "{text}");
    vmm.put(
        "/snapshot/load",
        &load(json!([{"drive_id": "data", "path_on_host": "fd:20"}])),
    );
    assert_eq!(vmm.tell(b's'), sum);
    assert_eq!(vmm.tell(b'b'), "block: ok");
    vmm.pause();
    // Its memory is in that file; and it was given for reading.
    let text = refused(&vmm, "/snapshot/create", &both);
    assert!(text.contains("not open for reading and writing"), "{text}");
}

#[test]
fn an_ordinary_user_who_may_open_kvm_needs_no_more() {
    let Some(binary) = binary() else { return };
    if !is_root() {
        println!("SKIPPED: this user is an ordinary one, and every other test shows it");
        return;
    }
    let work = tempfile::tempdir().expect("a directory");
    let folder = work.path().join("vm");
    let own = disk(&folder);
    let node = work.path().join("kvm");
    // The host's own node stays as it is: in a mount namespace, another one of the same device is over it.
    let script = r#"
        set -e
        mknod "$1" c 10 232
        chown -R 4711 "$1" "$2" "$(dirname "$2")"
        mount --bind "$1" /dev/kvm
        shift 2
        exec setpriv --reuid 4711 --regid 4711 --clear-groups -- "$@"
    "#;
    let can_mount = Command::new("unshare").args(["-m", "true"]).status();
    if !can_mount.is_ok_and(|status| status.success()) {
        println!("SKIPPED: no mount namespace");
        return;
    }
    fs::copy(guest(), folder.join("kernel")).expect("copied");
    // It is the user's way there.
    fs::set_permissions(work.path(), fs::Permissions::from_mode(0o755)).expect("set");
    let config = json!({
        "boot-source": {"kernel_image_path": folder.join("kernel")},
        "machine-config": {"vcpu_count": 2, "mem_size_mib": MEMORY_MIB},
        "drives": [drive(own.to_str().expect("text"))],
        "entropy": {},
        "vsock": {"guest_cid": 3, "uds_path": folder.join("v.sock")},
    });
    fs::write(folder.join("config"), config.to_string()).expect("written");
    fs::copy(&binary, folder.join("vmm")).expect("copied");
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", script, "sh"]).args([&node, &own]);
    command.arg(folder.join("vmm")).args(["--no-api", "--config-file"]);
    command.arg(folder.join("config"));
    let mut vmm = Vmm::spawn(command, &folder);
    vmm.until("READY\n");
    assert_eq!(vmm.tell(b'b'), "block: ok");
    for (name, fields) in status(vmm.child.id()) {
        assert!(fields["Uid"].starts_with("4711"), "{name}: {}", fields["Uid"]);
        for (field, wanted) in [("Seccomp", "2"), ("NoNewPrivs", "1"), ("CapEff", "0000000000000000")] {
            assert_eq!(fields[field], wanted, "{field} of {name}");
        }
    }
    vmm.key(b'q');
    assert_eq!(vmm.ended().code(), Some(0), "{}", vmm.log());
}

#[test]
fn a_page_fault_handler_can_be_a_connection() {
    let Some(binary) = binary() else { return };
    if !is_root() {
        println!("SKIPPED: only root may make a userfaultfd everywhere");
        return;
    }
    let files = Files::new();
    let mut vmm = files.launch("first").file(MEMORY, &files.memory, "rw").start(&binary);
    boot(&mut vmm);
    let sum = vmm.tell(b's');
    vmm.pause();
    vmm.put(
        "/snapshot/create",
        &json!({"snapshot_path": fd(STATE), "mem_file_path": fd(MEMORY)}),
    );
    drop(vmm);

    let socket = files.path("faults");
    let mut handler = Command::new("python3")
        .arg("-B")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vmm_uffd/handler.py"))
        .args([&socket, &files.memory])
        .spawn()
        .expect("python3 is needed for the handler");
    // Its one connection is the VMM's, so nothing else may try.
    eventually("the handler", || {
        let sockets = fs::read_to_string("/proc/net/unix").expect("there");
        let path = socket.to_str().expect("text");
        // __SO_ACCEPTCON (net/unix/af_unix.c, unix_seq_show).
        sockets
            .lines()
            .any(|line| line.ends_with(path) && line.contains(" 00010000 "))
    });
    let mut launch = files.launch("second").give(HANDLER, json!({"connect": socket}));
    if Path::new("/dev/userfaultfd").exists() {
        // A user who may make none by the system call, which needs CAP_SYS_PTRACE or a sysctl.
        launch = launch.file("22", Path::new("/dev/userfaultfd"), "rw");
        launch.flags.extend(["--userfault-fd", "22"].map(str::to_owned));
        launch.user = Some(SOMEBODY);
    } else {
        println!("SKIPPED: as an ordinary user: there is no /dev/userfaultfd");
    }
    let mut vmm = launch.start(&binary);
    let load = json!({
        "snapshot_path": fd(STATE),
        "mem_backend": {"backend_type": "Uffd", "backend_path": fd(HANDLER)},
        "resume_vm": true,
    });
    vmm.put("/snapshot/load", &load);
    assert_eq!(vmm.tell(b's'), sum);
    // The connection is the VMM's alone: it notices the handler's end.
    handler.kill().expect("killed");
    handler.wait().expect("ended");
    assert_eq!(vmm.ended().code(), Some(5), "{}", vmm.log());
}

#[test]
fn a_snapshot_is_not_written_over_what_it_is_made_of() {
    let Some(binary) = binary() else { return };
    let files = Files::new();
    let given = |name| {
        let launch = files.launch(name);
        launch.file(MEMORY, &files.memory, "rw").file("21", &files.memory, "rw")
    };
    let mut vmm = given("first").start(&binary);
    boot(&mut vmm);
    let sum = vmm.tell(b's');
    vmm.pause();
    let body = |state: &str, memory: &str| json!({"snapshot_path": fd(state), "mem_file_path": fd(memory)});
    let text = refused(&vmm, "/snapshot/create", &body("21", MEMORY));
    assert!(text.contains("it is the memory file, too"), "{text}");
    let whole = fs::metadata(&files.disk).expect("there").len();
    let text = refused(&vmm, "/snapshot/create", &body(STATE, DISK));
    assert!(text.contains("it is a drive of this VM"), "{text}");
    assert_eq!(fs::metadata(&files.disk).expect("there").len(), whole);
    vmm.put("/snapshot/create", &body(STATE, MEMORY));
    drop(vmm);
    let before = fs::metadata(&files.memory).expect("there");
    let mut vmm = given("second").start(&binary);
    let load = json!({
        "snapshot_path": fd(STATE),
        "mem_backend": {"backend_type": "File", "backend_path": fd(MEMORY)},
        "resume_vm": true,
    });
    vmm.put("/snapshot/load", &load);
    assert_eq!(vmm.tell(b's'), sum);
    vmm.pause();
    let text = refused(&vmm, "/snapshot/create", &body(STATE, "21"));
    assert!(text.contains("this VM's memory is in it"), "{text}");
    let after = fs::metadata(&files.memory).expect("there");
    assert_eq!((before.len(), before.blocks()), (after.len(), after.blocks()));
}

#[test]
fn only_descriptors_that_were_given_can_be_named() {
    let Some(binary) = binary() else { return };
    let work = tempfile::tempdir().expect("a directory");
    let own = disk(work.path());
    let vmm = Launch::new(work.path().join("vm"), &["--no-paths"])
        .file(KERNEL, guest(), "r")
        .file(DISK, &own, "rw")
        .file(SERIAL, &work.path().join("serial"), "a")
        .start(&binary);
    let open = fs::read_dir(format!("/proc/{}/fd", vmm.child.id())).expect("it runs");
    let open = open.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let mut of_its_own = 0;
    for number in open.filter(|number| *number >= 3) {
        if [KERNEL, DISK, SERIAL].contains(&number.to_string().as_str()) {
            continue;
        }
        let text = refused(&vmm, "/drives/data", &drive(&format!("fd:{number}")));
        assert!(text.contains("was not open when"), "{number}: {text}");
        of_its_own += 1;
    }
    assert!(of_its_own >= 4, "KVM, the API's socket, epoll, events: {of_its_own}");
    for (number, wanted) in [
        (KERNEL, "not open for reading and writing"),
        (SERIAL, "not open for reading and writing"),
        ("2", "fd:3 to fd:1023"),
        ("99", "was not open when"),
    ] {
        let text = refused(&vmm, "/drives/data", &drive(&fd(number)));
        assert!(text.contains(wanted), "{number}: {text}");
    }
    for path in [own.to_str().expect("text"), "/dev/fd/11", "/proc/self/fd/11"] {
        let text = refused(&vmm, "/drives/data", &drive(path));
        assert!(text.contains("with --no-paths"), "{path}: {text}");
    }
    let interface = |device: &str| json!({"iface_id": "n", "host_dev_name": device});
    vmm.put("/network-interfaces/n", &interface("fd:11"));
    vmm.put("/boot-source", &json!({"kernel_image_path": fd(KERNEL)}));
    let text = refused(&vmm, "/actions", &json!({"action_type": "InstanceStart"}));
    assert!(text.contains("tap device"), "{text}");
}

#[test]
fn what_flags_name_is_checked() {
    let Some(binary) = binary() else { return };
    let work = tempfile::tempdir().expect("a directory");
    let launch = |name: &str, flags: &[&str]| Launch::new(work.path().join(name), flags);
    let not_there = work.path().join("nowhere");
    for (launch, code, wanted) in [
        (
            launch("a", &[]).file(KVM, Path::new("/dev/null"), "rw"),
            2,
            "descriptor 6 is not /dev/kvm",
        ),
        (launch("b", &["--userfault-fd", "77"]), 2, "there is no descriptor 77"),
        // It was given to be the API's, and is no more to be had.
        (launch("c", &["--userfault-fd", API]), 2, "there is no descriptor 5"),
        (
            launch("d", &["--config-file", "fd:5"]),
            2,
            "descriptor 5, which was not open",
        ),
        (launch("e", &["--config-file", "fd:2"]), 2, "fd:3 to fd:1023"),
        (
            launch("f", &["--log-path", "fd:10"]).file(KERNEL, guest(), "r"),
            2,
            "not open for writing",
        ),
        (
            launch("g", &["--confine-to", not_there.to_str().expect("text")]),
            2,
            "it must be a directory",
        ),
    ] {
        let mut vmm = launch.spawn(&binary);
        let ended = vmm.ended();
        let log = vmm.log();
        assert!(log.contains(wanted), "{wanted}: {log}");
        assert_eq!(ended.code(), Some(code), "{log}");
    }
}

#[test]
fn outputs_and_taps_are_descriptors_too() {
    let Some(binary) = binary() else { return };
    let work = tempfile::tempdir().expect("a directory");
    let folder = |name: &str| work.path().join(name);
    let own = disk(work.path());
    let flags = ["--no-paths", "--log-path", "fd:17", "--metrics-path", "fd:18"];
    let mut launch = Launch::new(folder("vm"), &flags)
        .file(KERNEL, guest(), "r")
        .file(DISK, &own, "rw")
        .file(SERIAL, &folder("serial"), "a")
        .file("17", &folder("logged"), "a")
        .file("18", &folder("counted"), "a");
    let has_tap = is_root() && Path::new("/dev/net/tun").exists();
    if has_tap {
        let name = format!("rwj{}", std::process::id());
        launch = launch.give("19", json!({"tap": name}));
    } else {
        println!("SKIPPED: the tap device: this user may not make one");
    }
    launch.user = is_root().then_some(SOMEBODY);
    let vmm = launch.start(&binary);
    vmm.put("/serial", &json!({"serial_out_path": fd(SERIAL)}));
    vmm.put("/boot-source", &json!({"kernel_image_path": fd(KERNEL)}));
    if has_tap {
        vmm.put(
            "/network-interfaces/n",
            &json!({"iface_id": "n", "host_dev_name": "fd:19"}),
        );
    }
    vmm.put("/actions", &json!({"action_type": "InstanceStart"}));
    let read = |name: &str| fs::read_to_string(folder(name)).unwrap_or_default();
    eventually("the guest's word", || read("serial").contains("READY"));
    vmm.put("/actions", &json!({"action_type": "FlushMetrics"}));
    assert!(read("counted").contains("utc_timestamp_ms"));
    assert!(
        read("logged").contains("no file can be opened by a path"),
        "{}",
        read("logged")
    );
}

#[test]
fn a_prepared_vm_is_of_the_snapshots_kind() {
    let Some(binary) = binary() else { return };
    let work = tempfile::tempdir().expect("a directory");
    let first = work.path().join("first");
    let mut vmm = Vmm::boot(&binary, &first, &json!({"vcpu_count": 3, "mem_size_mib": 64}));
    let sum = vmm.tell(b's');
    let kept = work.path().join("kept");
    vmm.pause();
    vmm.snapshot("Full", &kept);
    drop(vmm);
    let state = kept.join("state");
    for (name, flags, fits) in [
        ("a", vec!["--prepared-for", state.to_str().expect("text")], true),
        ("b", vec!["--prepared"], false),
        (
            "c",
            vec![
                "--prepared-for",
                state.to_str().expect("text"),
                "--prepared-track-dirty",
            ],
            false,
        ),
    ] {
        free_socket(&first);
        let mut vmm = Vmm::restore(&binary, &work.path().join(name), &kept, &flags);
        assert_eq!(vmm.tell(b's'), sum);
        let said = vmm.log().contains("the VM that was prepared is of another kind");
        assert_eq!(said, !fits, "{flags:?}: {}", vmm.log());
    }
}
