//! `ringwall serve` under test: a server with a state directory and port of its own, and a small blocking client.
//!
//! The server can be killed and started again on the same directory and port. Keepers outlive it by design, so dropping a [`Server`]
//! kills the server and then every keeper of its directory, and with them all that runs in the sandboxes.

use std::collections::BTreeSet;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::{User, World};

/// How long anything may take that should take moments: the machine is shared, and the build under test may be a debug build.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A `ringwall serve` of its own.
#[derive(Debug)]
pub struct Server {
    world: World,
    flags: Vec<String>,
    port: u16,
    /// Where our own client goes in place of that port.
    front: Option<SocketAddr>,
    key: String,
    running: Option<(Child, BufReader<ChildStdout>)>,
    /// Processes of sandboxes that were seen, by pid and start.
    seen: BTreeSet<(i32, u64)>,
    /// Their control groups.
    seen_groups: BTreeSet<PathBuf>,
}

/// Returns a free port below the range that the kernel gives to clients: a client that connects while the server is away must not be
/// given the server's port, or even be connected to itself.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let begin = u16::try_from(std::process::id() % 20_000).unwrap_or(0);
    (0..20_000)
        .map(|_| 11_000 + (begin + NEXT.fetch_add(7, Ordering::Relaxed) % 20_000) % 20_000)
        .find(|&port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok())
        .expect("a free port")
}

impl Server {
    /// Starts one without a pool.
    #[must_use]
    pub fn new(user: User) -> Self {
        Self::with(user, &["--pool", "0"])
    }

    /// Starts one with these flags.
    #[must_use]
    pub fn with(user: User, flags: &[&str]) -> Self {
        Self::within(World::new(user), free_port(), flags, None)
    }

    /// Starts one in a world, at a port, with these flags. Where it does not speak plain HTTP, `front` does in its place.
    #[must_use]
    pub fn within(world: World, port: u16, flags: &[&str], front: Option<SocketAddr>) -> Self {
        let mut server = Server {
            world,
            flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
            port,
            front,
            key: String::new(),
            running: None,
            seen: BTreeSet::new(),
            seen_groups: BTreeSet::new(),
        };
        server.start();
        // Whether the first key is good at once is a test of its own.
        eventually("the first key is known", PATIENCE, || {
            server
                .client()
                .get("/v2/sandboxes")
                .is_ok_and(|answer| answer.status == 200)
        });
        server
    }

    /// Replaces its flags, from the next start on.
    pub fn set_flags(&mut self, flags: &[&str]) {
        self.flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
    }

    /// Returns the command that serves the same directory, at a port.
    pub fn command(&self, port: u16) -> Command {
        let state = self.state();
        let mut command = self.world.command(&["serve", "--state"]);
        command
            .arg(state)
            .arg("--listen")
            .arg(format!("127.0.0.1:{port}"))
            .args(&self.flags)
            .env(
                "RINGWALL_LOG",
                std::env::var("RINGWALL_TEST_LOG").unwrap_or_else(|_| "info".to_owned()),
            );
        command
    }

    /// Starts the server, which must not be running, and waits until it is ready.
    ///
    /// # Panics
    /// When it does not get ready; with what it said.
    pub fn start(&mut self) {
        assert!(self.running.is_none(), "it is running");
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.log_path())
            .expect("the log");
        let mut child = loop {
            let mut command = self.command(self.port);
            command
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(log.try_clone().expect("the log"));
            match command.spawn() {
                Ok(child) => break child,
                // Another thread's fork holds the copied binary open for writing, until its exec.
                Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(error) => panic!("the server can't be started: {error}"),
            }
        };
        let mut said = BufReader::new(child.stdout.take().expect("its output"));
        self.key.clear();
        let mut line = String::new();
        while self.key.is_empty() {
            line.clear();
            let count = said.read_line(&mut line).expect("its output");
            if count == 0 {
                let ended = child.wait();
                panic!("the server ended before it was ready ({ended:?}):\n{}", self.log());
            }
            if let Some(key) = line.strip_prefix("export E2B_API_KEY=") {
                key.trim().clone_into(&mut self.key);
            }
        }
        self.running = Some((child, said));
    }

    /// Kills the server as a crash does. Its sandboxes go on.
    ///
    /// # Panics
    /// When it is not running.
    pub fn crash(&mut self) {
        let (mut child, _said) = self.running.take().expect("it is running");
        let ended = child.try_wait().expect("its state");
        assert!(
            ended.is_none(),
            "the server had ended by itself: {ended:?}\n{}",
            self.log()
        );
        child.kill().expect("SIGKILL");
        child.wait().expect("its end");
    }

    /// [`Server::crash`], and starts it again at once.
    pub fn crash_and_start(&mut self) {
        self.crash();
        self.start();
    }

    /// Returns the client of the operator's own key.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client_with(&self.key)
    }

    /// Returns the client of a key.
    #[must_use]
    pub fn client_with(&self, key: &str) -> Client {
        Client {
            address: self.front.unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))),
            key: key.to_owned(),
        }
    }

    /// Runs `ringwall key ARGS` on the server's directory.
    pub fn key(&self, args: &[&str]) -> crate::Outcome {
        let state = self.state();
        let mut command = self.world.command(&["key"]);
        command.args(args).arg("--state").arg(state);
        command.output().expect("ringwall starts").into()
    }

    /// Returns the directory of its state.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.world.path("state/serve")
    }

    /// Returns the world that it is in.
    #[must_use]
    pub fn world(&self) -> &World {
        &self.world
    }

    /// Returns whose it is.
    #[must_use]
    pub fn user(&self) -> User {
        self.world.user()
    }

    /// Returns its pid.
    ///
    /// # Panics
    /// When it is not running.
    #[must_use]
    pub fn pid(&self) -> i32 {
        let (child, _) = self.running.as_ref().expect("it is running");
        i32::try_from(child.id()).expect("a pid")
    }

    fn log_path(&self) -> PathBuf {
        self.world.path("serve.log")
    }

    /// Returns all it has ever said on standard error.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read(self.log_path())
            .map(|text| String::from_utf8_lossy(&text).into_owned())
            .unwrap_or_default()
    }

    /// Asserts that it still runs, answers and has never panicked.
    ///
    /// # Panics
    /// When it has, or doesn't answer.
    #[track_caller]
    pub fn assert_sound(&self) {
        let log = self.log();
        if let Some(at) = log.find("panicked at") {
            let line = log.get(at..).and_then(|rest| rest.get(..600)).unwrap_or(&log);
            panic!("the server panicked: {line}");
        }
        let health = self.client().request("GET", "/health", &[], b"").expect("an answer");
        assert_eq!(health.status, 200, "{health:?}");
        assert_eq!(
            self.client().call("GET", "/v2/sandboxes", &Value::Null).status(),
            200,
            "the control plane answers"
        );
    }

    /// Returns a field of what a sandbox's keeper has written down; 0 when there is nothing.
    #[must_use]
    pub fn recorded(&self, id: &str, field: &str) -> i32 {
        let path = self.state().join("sandboxes").join(id).join("record.json");
        let record: Value = std::fs::read(path)
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_default();
        record
            .get(field)
            .and_then(Value::as_i64)
            .and_then(|pid| pid.try_into().ok())
            .unwrap_or(0)
    }

    /// Returns the control groups of a sandbox, as its keeper has written them down.
    #[must_use]
    pub fn groups(&self, id: &str) -> Vec<PathBuf> {
        let path = self.state().join("sandboxes").join(id).join("record.json");
        let record: Value = std::fs::read(path)
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_default();
        let paths = record.get("cgroups").and_then(Value::as_array).into_iter().flatten();
        paths.filter_map(Value::as_str).map(PathBuf::from).collect()
    }

    /// Asserts that a paused sandbox stands still: its group is frozen with all of it inside, or every process is stopped.
    ///
    /// # Panics
    /// When something of it can run.
    #[track_caller]
    pub fn assert_still(&self, id: &str) {
        let all = family(self.recorded(id, "init"));
        let read = |path: &Path, file| std::fs::read_to_string(path.join(file)).unwrap_or_default();
        let groups = self.groups(id);
        let frozen = groups
            .iter()
            .find(|path| read(path, "cgroup.events").contains("frozen 1"));
        let inside: Vec<i32> = frozen
            .map(|path| read(path, "cgroup.procs"))
            .unwrap_or_default()
            .lines()
            .filter_map(|pid| pid.parse().ok())
            .collect();
        for pid in all {
            let state = stat(pid).map(|stat| stat.state);
            assert!(
                inside.contains(&pid) || matches!(state, None | Some('T' | 'Z')),
                "{pid} is in state {state:?} and not frozen by {groups:?}"
            );
        }
    }

    /// Returns the names in a directory of the state.
    #[must_use]
    pub fn names(&self, directory: &str) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.state().join(directory))
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    /// Returns the keepers of this server's sandboxes that run now.
    #[must_use]
    pub fn keepers(&self) -> Vec<i32> {
        let binary = self.world.path("bin/ringwall");
        let wanted = [binary.as_os_str().as_encoded_bytes(), b"\0keeper\0"].concat();
        processes()
            .into_iter()
            .filter(|pid| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line == wanted))
            .collect()
    }

    /// Takes down which processes belong to the sandboxes, to find those that outlive them.
    pub fn note_processes(&mut self) {
        let mut family: BTreeSet<i32> = self.keepers().into_iter().collect();
        loop {
            let before = family.len();
            for pid in processes() {
                if stat(pid).is_some_and(|stat| family.contains(&stat.parent)) {
                    family.insert(pid);
                }
            }
            if family.len() == before {
                break;
            }
        }
        for id in self.names("sandboxes") {
            let groups = self.groups(&id);
            self.seen_groups.extend(groups);
        }
        self.seen
            .extend(family.into_iter().filter_map(|pid| Some((pid, stat(pid)?.start))));
    }

    /// Returns what still runs of all sandboxes there ever were.
    #[must_use]
    pub fn left_over(&self) -> Vec<i32> {
        let mut found = self.keepers();
        for &(pid, start) in &self.seen {
            if stat(pid).is_some_and(|stat| stat.start == start && stat.state != 'Z') && !found.contains(&pid) {
                found.push(pid);
            }
        }
        found
    }

    /// Asserts that nothing is left once the last sandbox, snapshot and template are removed.
    ///
    /// # Panics
    /// When something is, even after a while.
    #[track_caller]
    pub fn assert_nothing_left(&mut self) {
        let looked = || {
            let mut left = Vec::new();
            for directory in ["sandboxes", "trash", "new"] {
                left.extend(self.names(directory).iter().map(|name| format!("{directory}/{name}")));
            }
            let layers = self.names("layers");
            left.extend(
                layers
                    .iter()
                    .filter(|name| !name.starts_with("base-"))
                    .map(|name| format!("layers/{name}")),
            );
            left.extend(
                self.seen_groups
                    .iter()
                    .filter(|path| path.exists())
                    .map(|path| path.display().to_string()),
            );
            left.extend(self.left_over().iter().map(|pid| {
                let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                format!("process {pid} {}", String::from_utf8_lossy(&line).replace('\0', " "))
            }));
            left
        };
        let begun = Instant::now();
        let mut left = looked();
        while !left.is_empty() && begun.elapsed() < Duration::from_secs(15) {
            std::thread::sleep(Duration::from_millis(50));
            left = looked();
        }
        assert!(left.is_empty(), "left behind: {left:#?}");
    }

    /// Removes all sandboxes, snapshots and templates of a key.
    ///
    /// # Panics
    /// When one of them can't be removed.
    #[track_caller]
    pub fn remove_all(&mut self) {
        self.note_processes();
        let client = self.client();
        for (list, one, field) in [
            ("/v2/sandboxes", "/sandboxes/", "sandboxID"),
            ("/snapshots", "/templates/", "snapshotID"),
            ("/templates", "/templates/", "templateID"),
        ] {
            for found in client.list(list).expect("a list") {
                let id = text(&found, field);
                if id == "base" {
                    continue;
                }
                let removed = client.call("DELETE", &format!("{one}{id}"), &Value::Null);
                let status = removed.status();
                assert!(matches!(status, 204 | 404), "{one}{id}: {status}");
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some((mut child, _said)) = self.running.take() {
            drop(child.kill());
            drop(child.wait());
        }
        let begun = Instant::now();
        // Again and again: one may just be starting.
        loop {
            let keepers = self.keepers();
            if keepers.is_empty() || begun.elapsed() > PATIENCE {
                break;
            }
            for pid in keepers {
                kill(pid);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        // What the next start of the server would have done.
        for id in self.names("sandboxes") {
            self.seen_groups.extend(self.groups(&id));
        }
        for group in &self.seen_groups {
            while std::fs::remove_dir(group).is_err_and(|error| error.kind() == io::ErrorKind::ResourceBusy)
                && begun.elapsed() < PATIENCE
            {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().filter(|line| !line.contains("\"answered\"")).collect();
            let tail = lines.len().saturating_sub(20);
            eprintln!("the server's log ends with:\n{}", lines[tail..].join("\n"));
        }
    }
}

/// Sends SIGKILL.
pub fn kill(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        // One that is gone is what is wanted.
        let _gone = kill_process(pid, Signal::KILL);
    }
}

fn processes() -> Vec<i32> {
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// What proc_pid_stat(5) says.
#[derive(Debug, Clone, Copy)]
pub struct Stat {
    /// Its state letter.
    pub state: char,
    /// Its parent.
    pub parent: i32,
    /// When it started, in clock ticks since boot.
    pub start: u64,
}

/// Looks at a process.
#[must_use]
pub fn stat(pid: i32) -> Option<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything.
    let fields: Vec<&str> = text.get(text.rfind(')')? + 2..)?.split(' ').collect();
    Some(Stat {
        state: fields.first()?.chars().next()?,
        parent: fields.get(1)?.parse().ok()?,
        start: fields.get(19)?.parse().ok()?,
    })
}

/// Returns a process and all that descend from it.
#[must_use]
pub fn family(root: i32) -> BTreeSet<i32> {
    let mut found = BTreeSet::from([root]);
    loop {
        let before = found.len();
        for pid in processes() {
            if stat(pid).is_some_and(|stat| found.contains(&stat.parent)) {
                found.insert(pid);
            }
        }
        if found.len() == before {
            return found;
        }
    }
}

/// Waits until something holds.
///
/// # Panics
/// When it never does.
#[track_caller]
pub fn eventually(what: &str, patience: Duration, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < patience, "not within {patience:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Returns a text field of an object; empty when there is none.
#[must_use]
pub fn text(value: &Value, field: &str) -> String {
    value.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// Encodes everything but letters and digits as `%XX`.
#[must_use]
pub fn percent(text: &str) -> String {
    use std::fmt::Write as _;
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.') {
            encoded.push(char::from(byte));
        } else {
            write!(encoded, "%{byte:02X}").expect("a string takes all");
        }
    }
    encoded
}

/// A client: one connection for each request.
#[derive(Debug, Clone)]
pub struct Client {
    address: SocketAddr,
    key: String,
}

/// A sandbox as `create` answered.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sandbox {
    /// Its id.
    pub id: String,
    /// The token for its agent.
    pub token: String,
}

impl Sandbox {
    /// Reads it from an answer.
    #[must_use]
    pub fn from_json(value: &Value) -> Self {
        Sandbox {
            id: text(value, "sandboxID"),
            token: text(value, "envdAccessToken"),
        }
    }

    /// Returns the headers of requests to its agent.
    #[must_use]
    pub fn headers(&self) -> [(&str, &str); 3] {
        [
            ("E2b-Sandbox-Id", &self.id),
            ("E2b-Sandbox-Port", "49983"),
            ("X-Access-Token", &self.token),
        ]
    }
}

/// An answer.
#[derive(Clone)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: Vec<u8>,
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = self.body.get(..500).unwrap_or(&self.body);
        write!(
            f,
            "{} {:?} {}",
            self.status,
            self.headers,
            String::from_utf8_lossy(shown)
        )
    }
}

impl Answer {
    /// Returns a header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(had, _)| had == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Returns the body as JSON; null when it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// Returns the body's `message`.
    #[must_use]
    pub fn message(&self) -> String {
        text(&self.json(), "message")
    }

    /// Asserts the status.
    ///
    /// # Panics
    /// When it is another.
    #[track_caller]
    #[must_use]
    pub fn expect_status(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self:?}");
        self
    }
}

/// Shortens what tests do with an answer that must have come.
pub trait Answered {
    /// Returns the status.
    ///
    /// # Panics
    /// When there was no answer.
    fn status(&self) -> u16;

    /// Asserts the status and returns the JSON body.
    ///
    /// # Panics
    /// When it is another, or there was no answer.
    fn json_of(self, status: u16) -> Value;
}

impl Answered for io::Result<Answer> {
    #[track_caller]
    fn status(&self) -> u16 {
        self.as_ref().expect("an answer").status
    }

    #[track_caller]
    fn json_of(self, status: u16) -> Value {
        self.expect("an answer").expect_status(status).json()
    }
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

/// Reads a body in chunks.
#[derive(Debug)]
struct Chunks {
    stream: BufReader<TcpStream>,
    left: usize,
    is_over: bool,
}

impl Read for Chunks {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.is_over {
            return Ok(0);
        }
        if self.left == 0 {
            let mut line = String::new();
            if self.stream.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let size = line.trim().split(';').next().unwrap_or_default();
            self.left = usize::from_str_radix(size, 16).map_err(|_| bad("a chunk's size"))?;
            if self.left == 0 {
                self.is_over = true;
                self.stream.read_line(&mut line)?;
                return Ok(0);
            }
        }
        let most = into.len().min(self.left);
        let count = self.stream.read(&mut into[..most])?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= count;
        if self.left == 0 {
            let mut end = [0; 2];
            self.stream.read_exact(&mut end)?;
        }
        Ok(count)
    }
}

/// Reads the head of an answer.
///
/// # Errors
/// When there is none.
pub fn read_head(stream: &mut impl BufRead) -> io::Result<Answer> {
    let mut line = String::new();
    if stream.read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let status = line
        .split(' ')
        .nth(1)
        .and_then(|code| code.trim().parse().ok())
        .ok_or_else(|| bad(&format!("not a status line: {line:?}")))?;
    let mut headers = Vec::new();
    loop {
        line.clear();
        if stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match line.trim_end().split_once(':') {
            Some((name, value)) => headers.push((name.to_ascii_lowercase(), value.trim().to_owned())),
            None => break,
        }
    }
    Ok(Answer {
        status,
        headers,
        body: Vec::new(),
    })
}

/// Reads a whole answer.
///
/// # Errors
/// When it does not come whole.
pub fn read_answer(stream: TcpStream) -> io::Result<Answer> {
    let mut stream = BufReader::new(stream);
    let mut answer = read_head(&mut stream)?;
    let length = answer.header("content-length").and_then(|length| length.parse().ok());
    if answer.header("transfer-encoding").is_some() {
        let mut chunks = Chunks {
            stream,
            left: 0,
            is_over: false,
        };
        chunks.read_to_end(&mut answer.body)?;
    } else if let Some(length) = length {
        answer.body = vec![0; length];
        stream.read_exact(&mut answer.body)?;
    } else if answer.status != 204 {
        stream.read_to_end(&mut answer.body)?;
    }
    Ok(answer)
}

impl Client {
    /// Returns the server's URL, as clients are told it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Opens a connection that gives up after [`PATIENCE`].
    ///
    /// # Errors
    /// When the server isn't there.
    pub fn connect(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect_timeout(&self.address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// Returns the key.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Sends a request and returns the connection, unread. `Host` is ours unless it is among the headers.
    ///
    /// # Errors
    /// When it can't be sent.
    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> io::Result<TcpStream> {
        use std::fmt::Write as _;
        let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            write!(head, "Host: {}\r\n", self.address).map_err(io::Error::other)?;
        }
        for (name, value) in headers {
            write!(head, "{name}: {value}\r\n").map_err(io::Error::other)?;
        }
        if !body.is_empty() || method != "GET" {
            write!(head, "Content-Length: {}\r\n", body.len()).map_err(io::Error::other)?;
        }
        head.push_str("\r\n");
        let mut stream = self.connect()?;
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(body);
        stream.write_all(&bytes)?;
        Ok(stream)
    }

    /// Sends a request and reads its answer.
    ///
    /// # Errors
    /// When there is none.
    pub fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> io::Result<Answer> {
        read_answer(self.send(method, path, headers, body)?)
    }

    /// Calls the control plane; no body when it is null.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn call(&self, method: &str, path: &str, body: &Value) -> io::Result<Answer> {
        let body = if body.is_null() {
            Vec::new()
        } else {
            body.to_string().into_bytes()
        };
        let headers = [("X-API-Key", self.key.as_str()), ("Content-Type", "application/json")];
        self.request(method, path, &headers, &body)
    }

    /// Posts to the control plane.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn post(&self, path: &str, body: &Value) -> io::Result<Answer> {
        self.call("POST", path, body)
    }

    /// Gets from the control plane.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn get(&self, path: &str) -> io::Result<Answer> {
        self.call("GET", path, &Value::Null)
    }

    /// Deletes.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn delete(&self, path: &str) -> io::Result<Answer> {
        self.call("DELETE", path, &Value::Null)
    }

    /// Reads all pages of a list.
    ///
    /// # Errors
    /// When there is no answer, or another than a list.
    pub fn list(&self, path: &str) -> io::Result<Vec<Value>> {
        let mut found = Vec::new();
        let mut next: Option<String> = None;
        loop {
            let sign = if path.contains('?') { '&' } else { '?' };
            let token = next.map(|next| format!("{sign}nextToken={next}")).unwrap_or_default();
            let answer = self.get(&format!("{path}{token}"))?;
            let Value::Array(items) = answer.json() else {
                return Err(bad(&format!("not a list: {answer:?}")));
            };
            found.extend(items);
            next = answer.header("x-next-token").map(str::to_owned);
            if next.is_none() {
                return Ok(found);
            }
        }
    }

    /// Makes a sandbox of the default template.
    ///
    /// # Panics
    /// When that fails.
    #[track_caller]
    #[must_use]
    pub fn create(&self, body: &Value) -> Sandbox {
        Sandbox::from_json(&self.try_create(body).json_of(201))
    }

    /// Asks for a sandbox of the default template that lives ten minutes; `body` adds to that.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn try_create(&self, body: &Value) -> io::Result<Answer> {
        let mut wanted = json!({"templateID": "base", "timeout": 600});
        if let (Some(wanted), Some(body)) = (wanted.as_object_mut(), body.as_object()) {
            wanted.extend(body.clone());
        }
        self.post("/v2/sandboxes", &wanted)
    }

    /// Returns what is known of a sandbox.
    ///
    /// # Panics
    /// When there is none.
    #[track_caller]
    #[must_use]
    pub fn detail(&self, id: &str) -> Value {
        self.get(&format!("/sandboxes/{id}")).json_of(200)
    }

    /// Returns `running`, `paused full`, `paused filesystem`, or the status when there is no such sandbox.
    ///
    /// # Panics
    /// When the server doesn't answer.
    #[track_caller]
    #[must_use]
    pub fn state(&self, id: &str) -> String {
        let answer = self.get(&format!("/sandboxes/{id}")).expect("an answer");
        if answer.status != 200 {
            return answer.status.to_string();
        }
        let json = answer.json();
        format!("{} {}", text(&json, "state"), text(&json, "pauseMode"))
            .trim_end()
            .to_owned()
    }

    /// Does something to a sandbox: posts to `/sandboxes/ID/VERB`.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn act(&self, sandbox: &Sandbox, verb: &str, body: &Value) -> io::Result<Answer> {
        self.post(&format!("/sandboxes/{}/{verb}", sandbox.id), body)
    }

    /// Resumes or prolongs.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn resume(&self, sandbox: &Sandbox, body: &Value) -> io::Result<Answer> {
        self.post(&format!("/v2/sandboxes/{}/connect", sandbox.id), body)
    }

    /// Ends.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn kill(&self, sandbox: &Sandbox) -> io::Result<Answer> {
        self.delete(&format!("/sandboxes/{}", sandbox.id))
    }

    /// Calls a method of the agent that streams.
    ///
    /// # Errors
    /// When the stream does not begin.
    pub fn stream(&self, sandbox: &Sandbox, method: &str, message: &Value) -> io::Result<Events> {
        let headers = [
            sandbox.headers().as_slice(),
            &[
                ("Content-Type", "application/connect+json"),
                ("Connect-Protocol-Version", "1"),
            ],
        ]
        .concat();
        let body = envelope(0, message.to_string().as_bytes());
        let mut stream = BufReader::new(self.send("POST", method, &headers, &body)?);
        let mut answer = read_head(&mut stream)?;
        if answer.status != 200 {
            drop(stream.read_to_end(&mut answer.body));
            return Err(io::Error::other(format!("{answer:?}")));
        }
        Ok(Events {
            chunks: Chunks {
                stream,
                left: 0,
                is_over: false,
            },
        })
    }

    /// Starts a command.
    ///
    /// # Errors
    /// When the stream does not begin.
    pub fn start(&self, sandbox: &Sandbox, command: &str) -> io::Result<Events> {
        let message = json!({"process": {"cmd": "/bin/bash", "args": ["-c", command]}, "stdin": false});
        self.stream(sandbox, "/process.Process/Start", &message)
    }

    /// Runs a command to its end.
    ///
    /// # Errors
    /// When its end is not told.
    pub fn run(&self, sandbox: &Sandbox, command: &str) -> io::Result<Ran> {
        self.start(sandbox, command)?.finish()
    }

    /// Runs a command that must succeed, and returns its output.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn shell(&self, sandbox: &Sandbox, command: &str) -> String {
        let ran = self.run(sandbox, command).expect("its end");
        assert_eq!(ran.code, 0, "{command}: {ran:?}");
        ran.out
    }

    /// Calls a method of the agent that does not stream.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn unary(&self, sandbox: &Sandbox, method: &str, message: &Value) -> io::Result<Answer> {
        let headers = [
            sandbox.headers().as_slice(),
            &[("Content-Type", "application/json"), ("Connect-Protocol-Version", "1")],
        ]
        .concat();
        self.request("POST", method, &headers, message.to_string().as_bytes())
    }

    /// Writes a file.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn write(&self, sandbox: &Sandbox, path: &str, content: &[u8]) -> io::Result<Answer> {
        let headers = [
            sandbox.headers().as_slice(),
            &[("Content-Type", "application/octet-stream")],
        ]
        .concat();
        self.request("POST", &format!("/files?path={}", percent(path)), &headers, content)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn read(&self, sandbox: &Sandbox, path: &str) -> io::Result<Answer> {
        self.request(
            "GET",
            &format!("/files?path={}", percent(path)),
            &sandbox.headers(),
            b"",
        )
    }
}

/// Puts a message into an envelope of the Connect protocol.
#[must_use]
pub fn envelope(flags: u8, message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("a small message").to_be_bytes();
    [&[flags], length.as_slice(), message].concat()
}

/// The events of a process.
#[derive(Debug)]
pub struct Events {
    chunks: Chunks,
}

/// What a command did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ran {
    /// Its exit code.
    pub code: i64,
    /// Its output.
    pub out: String,
    /// What it said on standard error.
    pub err: String,
}

impl Events {
    /// Returns the next event; `None` at the end of the stream.
    ///
    /// # Errors
    /// When the stream breaks off or ends with an error.
    pub fn next_event(&mut self) -> io::Result<Option<Value>> {
        let mut head = [0; 5];
        self.chunks.read_exact(&mut head)?;
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
        let mut message = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        self.chunks.read_exact(&mut message)?;
        let message: Value = serde_json::from_slice(&message)?;
        if head[0] & 2 == 0 {
            return Ok(Some(message.get("event").cloned().unwrap_or(message)));
        }
        match message.get("error") {
            Some(error) => Err(io::Error::other(error.to_string())),
            None => Ok(None),
        }
    }

    /// Waits for the first event and returns the pid inside.
    ///
    /// # Errors
    /// When the stream breaks off or begins otherwise.
    pub fn pid(&mut self) -> io::Result<i64> {
        let event = self.next_event()?.unwrap_or_default();
        event
            .pointer("/start/pid")
            .and_then(Value::as_i64)
            .ok_or_else(|| bad(&format!("not a start: {event}")))
    }

    /// Reads until some output has come, and returns it.
    ///
    /// # Errors
    /// When the stream breaks off or ends.
    pub fn output(&mut self) -> io::Result<String> {
        loop {
            let event = self.next_event()?.ok_or_else(|| bad("the process has ended"))?;
            if let Some(out) = event.pointer("/data/stdout").and_then(Value::as_str) {
                return Ok(String::from_utf8_lossy(&decode_base64(out)).into_owned());
            }
        }
    }

    /// Reads to the end.
    ///
    /// # Errors
    /// When the stream breaks off.
    pub fn finish(mut self) -> io::Result<Ran> {
        let mut ran = Ran::default();
        let mut has_ended = false;
        while let Some(event) = self.next_event()? {
            for (stream, text) in [("stdout", &mut ran.out), ("stderr", &mut ran.err)] {
                if let Some(bytes) = event.pointer(&format!("/data/{stream}")).and_then(Value::as_str) {
                    text.push_str(&String::from_utf8_lossy(&decode_base64(bytes)));
                }
            }
            if let Some(end) = event.get("end") {
                has_ended = true;
                ran.code = end.get("exitCode").and_then(Value::as_i64).unwrap_or(0);
            }
        }
        if has_ended { Ok(ran) } else { Err(bad("no end event")) }
    }
}

/// Decodes base64 as the server writes it.
#[must_use]
pub fn decode_base64(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    let (mut bits, mut count) = (0_u32, 0);
    for letter in text.bytes() {
        let value = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => continue,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count).to_le_bytes()[0]);
        }
    }
    bytes
}

/// Returns how much memory a process holds, in KiB.
#[must_use]
pub fn resident_kib(pid: i32) -> u64 {
    std::fs::read_to_string(format!("/proc/{pid}/status"))
        .unwrap_or_default()
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok())
        .unwrap_or(0)
}
