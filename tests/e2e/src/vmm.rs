//! `ringwall-vmm` under test, with a guest of a few hundred instructions (`payload/`) that does what single letters on its serial port say.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Longest wait for anything; far above what is needed on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How much memory the guest has.
pub const MEMORY_MIB: u64 = 128;

/// The VMM, unless there can be none here.
///
/// # Panics
/// `RINGWALL_VMM_BIN` does not name it.
#[must_use]
#[expect(
    clippy::print_stdout,
    reason = "a skipped test must be seen, and stdout is where tests report"
)]
pub fn binary() -> Option<PathBuf> {
    if !Path::new("/dev/kvm").exists() {
        println!("SKIPPED: there is no /dev/kvm");
        return None;
    }
    let path = std::env::var_os("RINGWALL_VMM_BIN").expect("RINGWALL_VMM_BIN names the VMM under test");
    Some(PathBuf::from(path))
}

/// The guest, assembled once.
///
/// # Panics
/// There is no gcc.
#[must_use]
pub fn guest() -> &'static Path {
    static GUEST: OnceLock<PathBuf> = OnceLock::new();
    GUEST.get_or_init(|| {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("payload");
        // Beside the test program, where the next run makes it anew: nobody drops a static, so a temporary directory would stay for ever.
        let program = std::env::current_exe().expect("this program's path");
        let target = program.with_extension("guest.elf");
        let made_at = program.with_extension(format!("guest.{}", std::process::id()));
        let flags = "-m64 -O2 -ffreestanding -fno-pic -no-pie -mno-sse -mgeneral-regs-only -mno-red-zone -fno-stack-protector \
                     -mcmodel=small -nostdlib -static -Wall -Wextra -Werror -Wl,-z,noexecstack -Wl,--no-warn-rwx-segments \
                     -Wl,--build-id=none";
        let made = Command::new("gcc")
            .args(flags.split_whitespace())
            .arg("-T")
            .arg(sources.join("guest.ld"))
            .arg("-o")
            .arg(&made_at)
            .args([sources.join("start.S"), sources.join("guest.c")])
            .output()
            .expect("gcc is needed for the guest");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        // Another run of the same program may be at it too: renamed, it is whole at all times.
        fs::rename(made_at, &target).expect("the guest in its place");
        target
    })
}

/// A VMM and its guest's serial port.
#[derive(Debug)]
pub struct Vmm {
    /// The process.
    pub child: Child,
    folder: PathBuf,
    seen: usize,
}

impl Drop for Vmm {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Files for a VMM's console and log.
fn outputs(folder: &Path) -> (File, File) {
    fs::create_dir_all(folder).expect("made");
    let make = |name| File::create(folder.join(name)).expect("made");
    (make("console"), make("log"))
}

impl Vmm {
    /// Starts one with its socket, log and console in `folder`.
    #[must_use]
    pub fn start(binary: &Path, folder: &Path, flags: &[&str]) -> Self {
        let (console, log) = outputs(folder);
        Vmm::start_with(binary, folder, flags, console, log)
    }

    /// Starts one with its socket in `folder`, and its console and log wherever.
    #[must_use]
    pub fn start_with(
        binary: &Path,
        folder: &Path,
        flags: &[&str],
        console: impl Into<Stdio>,
        log: impl Into<Stdio>,
    ) -> Self {
        fs::create_dir_all(folder).expect("made");
        let mut command = Command::new(binary);
        command.arg("--api-sock").arg(folder.join("api")).args(flags);
        let vmm = Vmm::spawn_with(command, folder, console, log);
        eventually("the socket", || UnixStream::connect(folder.join("api")).is_ok());
        vmm
    }

    /// Starts one by a command, its log and console in `folder`.
    #[must_use]
    pub fn spawn(command: Command, folder: &Path) -> Self {
        let (console, log) = outputs(folder);
        Vmm::spawn_with(command, folder, console, log)
    }

    fn spawn_with(mut command: Command, folder: &Path, console: impl Into<Stdio>, log: impl Into<Stdio>) -> Self {
        let child = command
            .stdin(Stdio::piped())
            .stdout(console)
            .stderr(log)
            .spawn()
            .expect("ringwall-vmm starts");
        Vmm {
            child,
            folder: folder.to_owned(),
            seen: 0,
        }
    }

    /// Boots the guest with a disk, entropy, vsock and a balloon.
    #[must_use]
    pub fn boot(binary: &Path, folder: &Path, more: &Value) -> Self {
        let mut vmm = Vmm::start(binary, folder, &[]);
        vmm.configure(more);
        vmm.put("/actions", &json!({"action_type": "InstanceStart"}));
        vmm.until("READY\n");
        vmm
    }

    /// Says what the machine is, with `more` for `/machine-config`.
    pub fn configure(&self, more: &Value) {
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
    #[must_use]
    pub fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, String) {
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

    /// Puts something, which must succeed.
    #[track_caller]
    pub fn put(&self, path: &str, body: &Value) {
        let answer = self.ask("PUT", path, Some(body));
        assert_eq!(answer.0, 204, "PUT {path} {body}: {answer:?}\n{}", self.log());
    }

    /// Patches something, which must succeed.
    #[track_caller]
    pub fn patch(&self, path: &str, body: &Value) {
        let answer = self.ask("PATCH", path, Some(body));
        assert_eq!(answer.0, 204, "PATCH {path} {body}: {answer:?}\n{}", self.log());
    }

    /// What it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// What the guest has said.
    #[must_use]
    pub fn console(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.folder.join("console")).unwrap_or_default()).into_owned()
    }

    /// Waits until the guest has said something more than before, and returns all up to it.
    #[track_caller]
    pub fn until(&mut self, wanted: &str) -> String {
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

    /// Presses a letter.
    pub fn key(&mut self, letter: u8) {
        let stdin = self.child.stdin.as_mut().expect("a pipe");
        stdin.write_all(&[letter]).expect("written");
    }

    /// Presses a letter and returns the guest's line.
    #[track_caller]
    pub fn tell(&mut self, letter: u8) -> String {
        self.key(letter);
        self.until("\n").trim_end().to_owned()
    }

    /// Stops the guest.
    pub fn pause(&self) {
        self.patch("/vm", &json!({"state": "Paused"}));
    }

    /// Lets it run again.
    pub fn resume(&self) {
        self.patch("/vm", &json!({"state": "Resumed"}));
    }

    /// Writes a snapshot to `to`.
    #[track_caller]
    pub fn snapshot(&self, kind: &str, to: &Path) {
        fs::create_dir_all(to).expect("made");
        self.put("/snapshot/create", &snapshot_body(kind, to));
    }

    /// Starts a VMM that goes on from a snapshot.
    #[track_caller]
    #[must_use]
    pub fn restore(binary: &Path, folder: &Path, from: &Path, flags: &[&str]) -> Self {
        let vmm = Vmm::start(binary, folder, flags);
        vmm.put("/snapshot/load", &load_body(from, true));
        vmm
    }

    /// Waits for its end.
    pub fn ended(&mut self) -> ExitStatus {
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

/// A client of `GET /events`.
#[derive(Debug)]
pub struct Follower {
    stream: UnixStream,
}

impl Follower {
    /// Asks the VMM in `folder`; the status of its answer too.
    #[must_use]
    pub fn begin(folder: &Path) -> (Self, u16) {
        let mut stream = UnixStream::connect(folder.join("api")).expect("the API answers");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        stream
            .write_all(b"GET /events HTTP/1.1\r\nhost: x\r\n\r\n")
            .expect("sent");
        let mut follower = Follower { stream };
        let head = follower.line();
        let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
        while !follower.line().is_empty() {}
        (follower, status.expect("a status"))
    }

    /// Sends nothing more.
    pub fn end_requests(&self) {
        self.stream.shutdown(std::net::Shutdown::Write).expect("shut down");
    }

    fn line(&mut self) -> String {
        let (mut line, mut byte) = (Vec::new(), [0]);
        while !line.ends_with(b"\r\n") {
            self.stream.read_exact(&mut byte).expect("the answer goes on");
            line.push(byte[0]);
        }
        line.truncate(line.len() - 2);
        String::from_utf8(line).expect("text")
    }

    /// The next event, or none at the answer's end.
    #[track_caller]
    pub fn event(&mut self) -> Option<Value> {
        let bytes = usize::from_str_radix(&self.line(), 16).expect("a chunk's length");
        let mut chunk = vec![0; bytes + 2];
        self.stream.read_exact(&mut chunk).expect("a chunk");
        assert!(chunk.ends_with(b"\r\n"), "{chunk:?}");
        if bytes == 0 {
            let mut more = Vec::new();
            self.stream.read_to_end(&mut more).expect("its end");
            assert!(more.is_empty(), "{more:?}");
            return None;
        }
        let line = chunk.strip_suffix(b"\n\r\n").expect("one line");
        Some(serde_json::from_slice(line).expect("JSON"))
    }
}

/// The body of a request for a snapshot.
#[must_use]
pub fn snapshot_body(kind: &str, to: &Path) -> Value {
    json!({"snapshot_type": kind, "snapshot_path": to.join("state"), "mem_file_path": to.join("memory")})
}

/// The body of a request to load one.
#[must_use]
pub fn load_body(from: &Path, resume: bool) -> Value {
    json!({
        "snapshot_path": from.join("state"),
        "mem_backend": {"backend_type": "File", "backend_path": from.join("memory")},
        "resume_vm": resume,
    })
}

/// Waits until something holds.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "{what} does not come");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A place for the snapshot's VMs: their vsock sockets are named in the snapshot, so only one at a time may have them.
pub fn free_socket(folder: &Path) {
    drop(fs::remove_file(folder.join("v.sock")));
}
