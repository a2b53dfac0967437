//! The suite: plants what the attempts look for, proves that each attempt succeeds unconfined, runs all in a tier, and looks for harm
//! that only the outside can see (a dead canary, a changed file, a process that lives on).

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Output, Stdio};
use std::time::{Duration, Instant};

use crate::calls::{call, text};
use crate::{Attempt, Proof, all};

const ORDINARY: u32 = 54321;
const SECRET: &str = "the secret that was planted";

struct Options {
    ringwall: PathBuf,
    tier: String,
    is_root: bool,
    prove: bool,
    only: Option<String>,
}

/// Runs the suite.
pub(crate) fn run(args: &[&str]) -> ExitCode {
    let value = |name: &str| {
        args.iter()
            .position(|arg| *arg == name)
            .and_then(|index| args.get(index + 1))
            .copied()
    };
    let am_root = call(libc::SYS_geteuid, &[]) == Ok(0);
    let options = Options {
        ringwall: PathBuf::from(value("--ringwall").unwrap_or("ringwall")),
        tier: value("--tier").unwrap_or("namespace").to_owned(),
        is_root: am_root && value("--user").unwrap_or("root") == "root",
        prove: args.contains(&"--prove"),
        only: value("--only").map(str::to_owned),
    };
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    let mut field = Field::plant(&options);
    for attempt in all() {
        if options.only.as_ref().is_some_and(|only| only != attempt.name) {
            continue;
        }
        let results = if options.prove {
            vec![field.prove(attempt, am_root)]
        } else {
            vec![field.confine(attempt, &options)]
        };
        for result in results {
            match result {
                Outcome::Pass(text) => {
                    passed += 1;
                    if options.only.is_some() {
                        println!("ok      {}: {text}", attempt.name);
                    }
                }
                Outcome::Fail(text) => {
                    failed += 1;
                    println!("FAILED: {} ({}): {text}", attempt.name, attempt.why);
                }
                Outcome::Skip(text) => {
                    skipped += 1;
                    println!("SKIPPED: {}: {text}", attempt.name);
                }
            }
        }
    }
    drop(field);
    let what = if options.prove {
        "proofs".to_owned()
    } else {
        format!("{}-{}", options.tier, if options.is_root { "root" } else { "ordinary" })
    };
    println!("attempts, {what}:");
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    if failed == 0 && passed > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

enum Outcome {
    Pass(String),
    Fail(String),
    Skip(String),
}

/// What is planted.
struct Field {
    base: PathBuf,
    uid: u32,
    is_root: bool,
    canary: Child,
    port: u16,
    shm: Option<usize>,
    _unix: (UnixListener, UnixListener, UnixDatagram),
    binary: PathBuf,
}

impl Field {
    fn plant(options: &Options) -> Self {
        let am_root = call(libc::SYS_geteuid, &[]) == Ok(0);
        let uid = if options.is_root {
            0
        } else if am_root {
            ORDINARY
        } else {
            u32::try_from(call(libc::SYS_geteuid, &[]).unwrap_or(0)).unwrap_or(0)
        };
        let base = PathBuf::from(format!("/tmp/rw-attempts-{}", std::process::id()));
        for directory in ["", "bin", "outside", "project", "state", "home", "home/.ssh"] {
            make_dir(&base.join(directory), uid);
        }
        fs::set_permissions(base.join("state"), fs::Permissions::from_mode(0o700)).expect("permissions");
        for (file, content) in [
            ("outside/secret", SECRET),
            ("home/.ssh/id_test", SECRET),
            ("outside/victim", "unharmed"),
        ] {
            fs::write(base.join(file), content).expect("write");
            give(&base.join(file), uid);
        }
        let binary = base.join("bin/attempts");
        fs::copy(std::env::current_exe().expect("own path"), &binary).expect("copy");
        fs::copy(&options.ringwall, base.join("bin/ringwall")).expect("a copy of ringwall");
        if am_root {
            let setuid = base.join("bin/setuid");
            fs::copy(&binary, &setuid).expect("copy");
            chown(&setuid, Some(1), Some(1)).expect("chown");
            fs::set_permissions(&setuid, fs::Permissions::from_mode(0o4755)).expect("chmod");
            let capable = base.join("bin/filecaps");
            fs::copy(&binary, &capable).expect("copy");
            // `struct vfs_cap_data`, revision 2, effective: CAP_NET_RAW and CAP_SYS_ADMIN permitted (linux/capability.h).
            let mut data = Vec::new();
            for word in [0x0200_0001_u32, (1 << 13) | (1 << 21), 0, 0, 0] {
                data.extend(word.to_le_bytes());
            }
            let set = call(
                libc::SYS_setxattr,
                &[
                    text(&capable.to_string_lossy()).as_ptr() as usize,
                    text("security.capability").as_ptr() as usize,
                    data.as_ptr() as usize,
                    data.len(),
                    0,
                ],
            );
            if set.is_err() {
                drop(fs::remove_file(&capable));
            }
        }
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let port = listener.local_addr().expect("address").port();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut stream = stream;
                drop(stream.write_all(b"rw-listener\n"));
            }
        });
        use std::os::linux::net::SocketAddrExt;
        let name = std::os::unix::net::SocketAddr::from_abstract_name(abstract_name()).expect("name");
        let sockets = (
            UnixListener::bind_addr(&name).expect("listen"),
            UnixListener::bind(base.join("outside/sock")).expect("listen"),
            UnixDatagram::bind(base.join("outside/dgram")).expect("bind"),
        );
        for socket in ["outside/sock", "outside/dgram"] {
            fs::set_permissions(base.join(socket), fs::Permissions::from_mode(0o777)).expect("chmod");
        }
        // IPC_CREAT | 0666: anybody of the host may attach.
        let key = usize::try_from(0x5257_0000 + (std::process::id() & 0xffff)).unwrap_or(0);
        let shm = call(libc::SYS_shmget, &[key, 4096, 0o1666]).ok().map(|_| key);
        let _ = call(libc::SYS_mq_open, &[c"rw-attempts".as_ptr() as usize, 0o102, 0o666, 0]);
        let canary = canary(&base, uid, am_root);
        Field {
            base,
            uid,
            is_root: options.is_root,
            canary,
            port,
            shm,
            _unix: sockets,
            binary,
        }
    }

    fn environment(&self) -> Vec<(&'static str, String)> {
        let path = |relative: &str| self.base.join(relative).to_string_lossy().into_owned();
        let mut variables = vec![
            ("RW_SECRET_TEXT", SECRET.to_owned()),
            ("RW_SECRET_FILE", path("outside/secret")),
            ("RW_VICTIM", path("outside/victim")),
            ("RW_HOME_SECRET", path("home/.ssh/id_test")),
            ("RW_OUTSIDE_DIR", path("outside")),
            ("RW_STATE", path("state")),
            ("RW_UNIX_PATH", path("outside/sock")),
            ("RW_UNIX_DGRAM", path("outside/dgram")),
            ("RW_SETUID", path("bin/setuid")),
            ("RW_FILECAPS", path("bin/filecaps")),
            ("RW_HOST_PID", self.canary.id().to_string()),
            ("RW_HOST_PORT", self.port.to_string()),
            ("RW_ABSTRACT", abstract_name()),
            ("RW_OUTLIVE", outlive_name()),
        ];
        if let Some(key) = self.shm {
            variables.push(("RW_SHM_KEY", key.to_string()));
        }
        variables
    }

    fn command(&self, program: &Path, uid: u32) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(self.base.join("project"))
            .env_clear()
            .env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin")
            .env("HOME", self.base.join("home"));
        command
            .env("RINGWALL_STATE_DIR", self.base.join("state"))
            .env("RW_CANARY_ENV", "leaked");
        command
            .stdin(Stdio::null())
            .process_group(i32::try_from(self.canary.id()).unwrap_or(0));
        if uid != 0 && call(libc::SYS_geteuid, &[]) == Ok(0) {
            command.uid(uid).gid(uid);
        }
        command
    }

    /// Runs an attempt where nothing confines it: it must succeed.
    fn prove(&mut self, attempt: &Attempt, am_root: bool) -> Outcome {
        let uid = match attempt.proof {
            Proof::Nowhere(why) => return Outcome::Skip(format!("proof: {why}")),
            Proof::Root if !am_root => return Outcome::Skip("proof: it needs root".to_owned()),
            Proof::Root => 0,
            Proof::Ordinary if am_root => ORDINARY,
            Proof::Ordinary => self.uid,
        };
        self.renew(uid);
        let mut command = self.command(&self.binary, uid);
        command
            .args(["attempt", attempt.name])
            .env("RW_UNCONFINED", "1")
            .envs(self.environment());
        leak_descriptor(&mut command, &self.base);
        if uid == 0 {
            in_own_namespaces(&mut command);
        }
        let output = match finish(command, Duration::from_secs(20)) {
            Ok(output) => output,
            Err(why) => return Outcome::Fail(format!("proof: {why}")),
        };
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        match output.status.code() {
            Some(0) => Outcome::Pass(text),
            Some(2) => Outcome::Skip(format!("proof: {text}")),
            // ENOSYS, ENOENT: a smaller kernel, which has nothing to protect there.
            _ if text.contains("errno 38") || text.contains("os error 2)") => {
                Outcome::Skip(format!("proof: this kernel does not have it: {text}"))
            }
            _ => Outcome::Fail(format!(
                "it does not succeed unconfined either, so it shows nothing: {text} {}",
                output.status
            )),
        }
    }

    /// Runs an attempt in a sandbox: it must be stopped, and nothing outside may be harmed.
    fn confine(&mut self, attempt: &Attempt, options: &Options) -> Outcome {
        let limited = attempt.flags.first().copied().unwrap_or("");
        if options.tier == "landlock" && limited == "--disk" {
            return Outcome::Skip("the landlock tier can't capture writes yet, and refuses --disk".to_owned());
        }
        self.renew(self.uid);
        let ringwall = self.base.join("bin/ringwall");
        let mut command = self.command(&ringwall, self.uid);
        command
            .args(["run", "--quiet", "--isolation", &options.tier, "--read"])
            .arg(self.base.join("bin"));
        if options.tier == "namespace" {
            command.args(["--changes", "discard"]);
        }
        command.args(attempt.flags);
        if !attempt.flags.contains(&"--timeout") {
            command.args(["--timeout", "30s"]);
        }
        for degraded in ["memory", "pids"] {
            command.args(["--allow-degraded", degraded]);
        }
        for (name, value) in self.environment() {
            command.arg("-e").arg(format!("{name}={value}"));
        }
        command.arg("--").arg(&self.binary).args(["attempt", attempt.name]);
        leak_descriptor(&mut command, &self.base);
        let output = match finish(command, Duration::from_secs(60)) {
            Ok(output) => output,
            Err(why) => return Outcome::Fail(why),
        };
        let text = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
        .trim()
        .to_owned();
        if let Some(harm) = self.harm() {
            return Outcome::Fail(format!("{harm}; {text}"));
        }
        match output.status.code() {
            Some(0) => Outcome::Fail(text),
            Some(1) => Outcome::Pass(text),
            Some(2) if text.starts_with("SKIPPED") => Outcome::Skip(text),
            // Killed by seccomp, a limit or the clock.
            Some(code @ (124 | 137 | 159 | 153)) => Outcome::Pass(format!("exit code {code}")),
            _ => Outcome::Fail(format!("no verdict: {} {text}", output.status)),
        }
    }

    /// Says what harm an attempt did, as seen from outside.
    fn harm(&mut self) -> Option<String> {
        if !matches!(self.canary.try_wait(), Ok(None)) {
            return Some("the canary is dead".to_owned());
        }
        if fs::read_to_string(self.base.join("outside/secret")).ok().as_deref() != Some(SECRET) {
            return Some("the secret was changed".to_owned());
        }
        if fs::read_to_string(self.base.join("outside/victim")).ok().as_deref() != Some("unharmed") {
            return Some("the victim was changed".to_owned());
        }
        if self.base.join("outside/written").exists() || self.base.join("outside/renamed").exists() {
            return Some("a file was written outside".to_owned());
        }
        if fs::read_dir(self.base.join("project")).is_ok_and(|mut entries| entries.next().is_some()) {
            return Some("the project was changed".to_owned());
        }
        let survivor = fs::read_dir("/proc").ok()?.flatten().find(|entry| {
            fs::read(entry.path().join("cmdline")).is_ok_and(|text| text.starts_with(outlive_name().as_bytes()))
        })?;
        Some(format!("process {} lives on", survivor.file_name().to_string_lossy()))
    }

    /// Puts things back as they were, for the next attempt.
    fn renew(&mut self, uid: u32) {
        let am_root = call(libc::SYS_geteuid, &[]) == Ok(0);
        for (file, content) in [("outside/secret", SECRET), ("outside/victim", "unharmed")] {
            drop(fs::write(self.base.join(file), content));
            give(&self.base.join(file), uid);
        }
        for directory in ["outside", "project", "state", "home", "home/.ssh"] {
            give(&self.base.join(directory), uid);
        }
        give(&self.base.join("home/.ssh/id_test"), uid);
        // The canary belongs to who attempts: a signal to it then needs no privilege.
        drop(self.canary.kill());
        drop(self.canary.wait());
        self.canary = canary(&self.base, uid, am_root);
        drop(fs::remove_file(self.base.join("outside/written")));
        if let Ok(entries) = fs::read_dir(self.base.join("project")) {
            for entry in entries.flatten() {
                drop(fs::remove_file(entry.path()).or_else(|_| fs::remove_dir_all(entry.path())));
            }
        }
        let _ = self.is_root;
    }
}

impl Drop for Field {
    fn drop(&mut self) {
        drop(self.canary.kill());
        drop(self.canary.wait());
        if let Some(key) = self.shm
            && let Ok(id) = call(libc::SYS_shmget, &[key, 0, 0])
        {
            let _ = call(libc::SYS_shmctl, &[usize::try_from(id).unwrap_or(0), 0, 0]);
        }
        let _ = call(libc::SYS_mq_unlink, &[c"rw-attempts".as_ptr() as usize]);
        drop(fs::remove_dir_all(&self.base));
    }
}

fn abstract_name() -> String {
    format!("rw-attempts-{}", std::process::id())
}

fn outlive_name() -> String {
    format!("rw-outlive-{}", std::process::id())
}

fn make_dir(path: &Path, uid: u32) {
    fs::create_dir_all(path).expect("a directory");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("permissions");
    give(path, uid);
}

fn give(path: &Path, uid: u32) {
    if call(libc::SYS_geteuid, &[]) == Ok(0) {
        drop(chown(path, Some(uid), Some(uid)));
    }
}

/// A process of the host for attempts to aim at: in a process group of its own, the secret open as descriptor 7.
fn canary(base: &Path, uid: u32, am_root: bool) -> Child {
    let mut command = Command::new("sh");
    command
        .args(["-c", "exec 7<\"$1\"; exec sleep 100000", "rw-canary"])
        .arg(base.join("outside/secret"));
    command
        .current_dir(base.join("outside"))
        .env("RW_CANARY", "secret")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .process_group(0);
    if am_root && uid != 0 {
        command.uid(uid).gid(uid);
    }
    let child = command.spawn().expect("a canary");
    // Until it has executed sleep, its descriptor is not there yet.
    let path = format!("/proc/{}/cmdline", child.id());
    let deadline = Instant::now() + Duration::from_secs(10);
    while Instant::now() < deadline && !fs::read(&path).is_ok_and(|text| text.starts_with(b"sleep")) {
        std::thread::sleep(Duration::from_millis(1));
    }
    child
}

/// Lets the command inherit a descriptor of the outside directory, as a careless caller would.
fn leak_descriptor(command: &mut Command, base: &Path) {
    if let Ok(directory) = fs::File::open(base.join("outside")) {
        crate::calls::keep_in_child(command, directory);
    }
}

/// Unconfined attempts of root change mounts and names of their own only.
fn in_own_namespaces(command: &mut Command) {
    crate::calls::unshare_in_child(command);
}

/// Runs to the end, or kills after `limit`.
fn finish(mut command: Command, limit: Duration) -> Result<Output, String> {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("can't start: {error}"))?;
    let deadline = Instant::now() + limit;
    loop {
        match child.try_wait() {
            Ok(Some(_)) => return child.wait_with_output().map_err(|error| error.to_string()),
            Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(2)),
            Ok(None) => {
                drop(child.kill());
                let output = child.wait_with_output().map_err(|error| error.to_string())?;
                return Err(format!(
                    "it hung: {} {}",
                    output.status.signal().unwrap_or(0),
                    String::from_utf8_lossy(&output.stdout)
                ));
            }
            Err(error) => return Err(error.to_string()),
        }
    }
}
