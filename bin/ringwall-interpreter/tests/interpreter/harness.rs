//! Starts the real program and speaks HTTP to it with nothing but the standard library, so that what is on the wire is
//! what is checked.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

/// No answer takes longer, even on a busy machine.
const READ_TIMEOUT: Duration = Duration::from_secs(90);

/// A running interpreter; dropping it ends it.
pub(crate) struct Interpreter {
    child: Child,
    port: u16,
    pub(crate) home: tempfile::TempDir,
}

/// A whole response.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) text: String,
}

/// A response being read.
pub(crate) struct Stream {
    pub(crate) status: u16,
    reader: BufReader<TcpStream>,
    is_chunked: bool,
    length: usize,
    /// What was received and isn't a whole line yet.
    rest: Vec<u8>,
    is_ended: bool,
}

/// The directory of the python with kernels, or `None` after saying why the test is skipped.
pub(crate) fn python_directory() -> Option<PathBuf> {
    let Some(python) = std::env::var_os("RINGWALL_TEST_PYTHON") else {
        eprintln!("SKIPPED: RINGWALL_TEST_PYTHON doesn't name a python with ipykernel");
        return None;
    };
    Path::new(&python).parent().map(Path::to_owned)
}

/// An interpreter that finds the kernels of the tests' python, or `None` after saying why the test is skipped.
pub(crate) fn with_python() -> Option<Interpreter> {
    let mut path = OsString::from(python_directory()?);
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    Some(Interpreter::start(&path))
}

impl Interpreter {
    /// Starts one with this `PATH` and an empty home.
    pub(crate) fn start(path: &OsString) -> Self {
        let home = tempfile::tempdir().expect("a home");
        let mut child = Command::new(env!("CARGO_BIN_EXE_ringwall-interpreter"))
            .args(["--port", "0"])
            .env("PATH", path)
            .env("HOME", home.path())
            .env("GLOBAL", "from-outside")
            .env_remove("JUPYTER_PATH")
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut line = String::new();
        BufReader::new(child.stderr.take().expect("piped"))
            .read_line(&mut line)
            .expect("a line");
        let port = line
            .trim()
            .rsplit(':')
            .next()
            .and_then(|port| port.parse().ok())
            .expect("a port");
        Self { child, port, home }
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The largest amount of memory it has had, in bytes.
    pub(crate) fn peak_memory_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).expect("it runs");
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("a peak");
        line.split_whitespace()
            .nth(1)
            .and_then(|number| number.parse::<u64>().ok())
            .expect("a number")
            * 1024
    }

    /// Sends SIGTERM and returns the exit code.
    pub(crate) fn terminate(&mut self) -> Option<i32> {
        // A process already reaped may have left its number to another.
        if matches!(self.child.try_wait(), Ok(None)) {
            signal("TERM", self.id());
        }
        self.child.wait().expect("it ends").code()
    }

    /// Sends a request and reads the head of the answer.
    pub(crate) fn open(&self, method: &str, path: &str, body: &str) -> Stream {
        let mut socket = TcpStream::connect(("127.0.0.1", self.port)).expect("it listens");
        socket.set_read_timeout(Some(READ_TIMEOUT)).expect("a timeout");
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n");
        socket.write_all(head.as_bytes()).expect("sent");
        // A refusal may come before the whole body is read.
        drop(socket.write_all(body.as_bytes()));
        let mut reader = BufReader::new(socket);
        let status = read_line(&mut reader)
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok())
            .expect("a status");
        let mut stream = Stream {
            status,
            reader,
            is_chunked: false,
            length: 0,
            rest: Vec::new(),
            is_ended: false,
        };
        loop {
            let line = read_line(&mut stream.reader).to_lowercase();
            match line.split_once(": ") {
                Some(("transfer-encoding", "chunked")) => stream.is_chunked = true,
                Some(("content-length", length)) => stream.length = length.parse().expect("a length"),
                Some(_) => {}
                None => return stream,
            }
        }
    }

    /// Sends a request and reads the whole answer.
    pub(crate) fn send(&self, method: &str, path: &str, body: &str) -> Answer {
        let mut stream = self.open(method, path, body);
        while stream.read_more() {}
        Answer {
            status: stream.status,
            text: String::from_utf8(stream.rest).expect("UTF-8"),
        }
    }

    /// Begins an execution.
    pub(crate) fn begin(&self, body: &Value) -> Stream {
        let stream = self.open("POST", "/execute", &body.to_string());
        assert_eq!(stream.status, 200);
        stream
    }

    /// Runs an execution to its end.
    pub(crate) fn execute(&self, body: &Value) -> Events {
        self.begin(body).events()
    }

    /// Runs Python in the default context.
    pub(crate) fn python(&self, code: &str) -> Events {
        self.execute(&serde_json::json!({"code": code}))
    }
}

impl Drop for Interpreter {
    fn drop(&mut self) {
        self.terminate();
    }
}

/// Sends a signal to a process by its number.
pub(crate) fn signal(name: &str, process: u32) {
    drop(
        Command::new("kill")
            .args(["-s", name, &process.to_string()])
            .stderr(Stdio::null())
            .status(),
    );
}

fn read_line(reader: &mut impl BufRead) -> String {
    let mut line = String::new();
    reader.read_line(&mut line).expect("a line");
    line.trim_end().to_owned()
}

impl Stream {
    /// Reads a piece of the body; false at its end.
    fn read_more(&mut self) -> bool {
        if self.is_ended {
            return false;
        }
        let length = if self.is_chunked {
            usize::from_str_radix(&read_line(&mut self.reader), 16).expect("a chunk's length")
        } else {
            self.is_ended = true;
            self.length
        };
        let start = self.rest.len();
        self.rest.resize(start + length, 0);
        self.reader.read_exact(&mut self.rest[start..]).expect("the body");
        if self.is_chunked {
            assert_eq!(read_line(&mut self.reader), "");
            self.is_ended = length == 0;
        }
        !self.is_ended
    }

    /// Waits for the next line; `None` at the end.
    pub(crate) fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.rest.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                assert_ne!(line, b"\n", "an empty line makes the clients fail");
                return Some(serde_json::from_slice(&line).expect("JSON"));
            }
            if !self.read_more() {
                assert!(self.rest.is_empty(), "the last line is whole");
                return None;
            }
        }
    }

    /// Waits for a line of this type.
    pub(crate) fn until(&mut self, kind: &str) -> Value {
        loop {
            let event = self.next().unwrap_or_else(|| panic!("the answer ended without {kind}"));
            if event["type"] == kind {
                return event;
            }
        }
    }

    /// Reads all that is left.
    pub(crate) fn events(mut self) -> Events {
        let mut events = Vec::new();
        while let Some(event) = self.next() {
            events.push(event);
        }
        assert_eq!(events.pop().expect("a last line")["type"], "end_of_execution");
        Events(events)
    }
}

/// The lines of an execution without the last.
#[derive(Debug)]
pub(crate) struct Events(pub(crate) Vec<Value>);

impl Events {
    /// Those of one type.
    pub(crate) fn of(&self, kind: &str) -> Vec<&Value> {
        self.0.iter().filter(|event| event["type"] == kind).collect()
    }

    /// All text of one type, joined.
    pub(crate) fn text(&self, kind: &str) -> String {
        self.of(kind)
            .iter()
            .filter_map(|event| event["text"].as_str())
            .collect()
    }

    /// The text of the cell's value.
    pub(crate) fn value(&self) -> &str {
        let main = self.0.iter().find(|event| event["is_main_result"] == true);
        main.and_then(|event| event["text"].as_str())
            .unwrap_or_else(|| panic!("no value in {self:?}"))
    }

    /// The name of the error.
    pub(crate) fn error(&self) -> &str {
        let error = self.0.iter().find(|event| event["type"] == "error");
        error
            .and_then(|event| event["name"].as_str())
            .unwrap_or_else(|| panic!("no error in {self:?}"))
    }
}
