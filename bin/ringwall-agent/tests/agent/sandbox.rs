//! The agent under test, and a small client for it.

use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use ringwall_agent_proto::{Decoder, envelope};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde_json::{Value, json};

/// Longest wait for anything: generous, as the machine is shared.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A running agent; killed when dropped.
pub(crate) struct Sandbox {
    pub(crate) agent: Child,
    directory: tempfile::TempDir,
}

/// A whole response.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }
}

impl Sandbox {
    /// Starts an agent with a fresh home.
    pub(crate) fn start() -> Self {
        Self::start_by(&[env!("CARGO_BIN_EXE_ringwall-agent")])
    }

    /// Starts an agent by a command that ends in its path.
    pub(crate) fn start_by(command: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("agent")).unwrap();
        let flags = SocketFlags::CLOEXEC;
        let ports = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        let address = SocketAddrUnix::new(directory.path().join("ports")).unwrap();
        rustix::net::bind(&ports, &address).unwrap();
        rustix::net::listen(&ports, 16).unwrap();
        // Inherited by whatever a parallel test starts just now, too: harmless, as nothing else accepts on them.
        rustix::io::fcntl_setfd(&listener, rustix::io::FdFlags::empty()).unwrap();
        rustix::io::fcntl_setfd(&ports, rustix::io::FdFlags::empty()).unwrap();
        let home = directory.path().join("home");
        std::fs::create_dir(&home).unwrap();
        let agent = Command::new(command[0])
            .args(&command[1..])
            .args(["--listen-fd", &listener.as_raw_fd().to_string()])
            .args(["--ports-fd", &ports.as_raw_fd().to_string()])
            .env("HOME", &home)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Sandbox { agent, directory }
    }

    pub(crate) fn home(&self) -> PathBuf {
        self.directory.path().join("home")
    }

    pub(crate) fn agent_socket(&self) -> PathBuf {
        self.directory.path().join("agent")
    }

    pub(crate) fn ports_socket(&self) -> PathBuf {
        self.directory.path().join("ports")
    }

    /// Sends a request and returns the response, its body still to come.
    pub(crate) async fn send<B>(&self, request: Request<B>) -> http::Response<Incoming>
    where
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let stream = tokio::net::UnixStream::connect(self.agent_socket()).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        tokio::time::timeout(PATIENCE, sender.send_request(request))
            .await
            .unwrap()
            .unwrap()
    }

    /// Sends bytes and collects the answer.
    pub(crate) async fn call(
        &self,
        method: &str,
        uri: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(uri).header("host", "agent");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.send(request.body(Full::new(body.into())).unwrap()).await;
        let (parts, body) = response.into_parts();
        let body = tokio::time::timeout(PATIENCE, body.collect())
            .await
            .unwrap()
            .unwrap()
            .to_bytes();
        Answer {
            status: parts.status,
            body,
        }
    }

    /// An RPC of one message.
    pub(crate) async fn unary(&self, method: &str, message: Value) -> Answer {
        let headers = [("content-type", "application/json")];
        self.call("POST", &format!("/{method}"), &headers, message.to_string())
            .await
    }

    /// Opens a server stream.
    pub(crate) async fn open(&self, method: &str, headers: &[(&str, &str)], message: Value) -> Events {
        self.open_raw(method, headers, envelope::message(&message)).await
    }

    /// Opens a stream with a body as it is.
    pub(crate) async fn open_raw(&self, method: &str, headers: &[(&str, &str)], body: Bytes) -> Events {
        let mut request = Request::post(format!("/{method}"))
            .header("host", "agent")
            .header("content-type", "application/connect+json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.send(request.body(Full::new(body)).unwrap()).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "application/connect+json");
        Events {
            body: response.into_body(),
            decoder: Decoder::new(),
        }
    }

    /// Starts a shell command.
    pub(crate) async fn shell(&self, script: &str) -> Events {
        self.open("process.Process/Start", &[], shell(script)).await
    }

    /// Names of processes the agent knows of.
    pub(crate) async fn running(&self) -> Vec<Value> {
        let list = self.unary("process.Process/List", json!({})).await.json();
        list["processes"].as_array().unwrap().clone()
    }

    /// A field of the agent's /proc status in KiB.
    pub(crate) fn memory_kib(&self, field: &str) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.agent.id())).unwrap();
        let line = text.lines().find(|line| line.starts_with(field)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // May have ended in the test.
        let _gone = self.agent.kill();
        let _reaped = self.agent.wait();
    }
}

/// A stream of frames.
pub(crate) struct Events {
    body: Incoming,
    decoder: Decoder,
}

/// All that a command has told.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) pty: Vec<u8>,
    pub(crate) keepalives: usize,
    pub(crate) end: Option<Value>,
    pub(crate) error: Option<Value>,
}

impl Events {
    /// The next frame: its flags and its message.
    pub(crate) async fn next(&mut self) -> Option<(u8, Value)> {
        loop {
            if let Some(envelope) = self.decoder.next().unwrap() {
                return Some((envelope.flags, serde_json::from_slice(&envelope.payload).unwrap()));
            }
            let frame = tokio::time::timeout(PATIENCE, self.body.frame()).await.unwrap();
            let Some(frame) = frame else {
                assert!(self.decoder.finish().is_ok());
                return None;
            };
            self.decoder.push(&frame.unwrap().into_data().unwrap());
        }
    }

    /// The pid in the first event.
    pub(crate) async fn pid(&mut self) -> u64 {
        let (flags, message) = self.next().await.unwrap();
        let pid = message["event"]["start"]["pid"].as_u64();
        assert_eq!(flags, 0, "{message}");
        pid.unwrap_or_else(|| panic!("no start: {message}"))
    }

    /// Everything up to the end, which must come.
    pub(crate) async fn rest(mut self) -> Told {
        let mut told = Told::default();
        loop {
            let (flags, message) = self.next().await.expect("the stream has no end message");
            if flags == envelope::END_STREAM {
                told.error = message.get("error").cloned();
                assert!(self.next().await.is_none(), "something follows the end");
                return told;
            }
            let event = &message["event"];
            told.stdout.extend(decoded(&event["data"]["stdout"]));
            told.stderr.extend(decoded(&event["data"]["stderr"]));
            told.pty.extend(decoded(&event["data"]["pty"]));
            told.keepalives += usize::from(event.get("keepalive").is_some());
            if let Some(end) = event.get("end") {
                told.end = Some(end.clone());
            }
        }
    }
}

fn decoded(value: &Value) -> Vec<u8> {
    value
        .as_str()
        .map(|text| STANDARD.decode(text).unwrap())
        .unwrap_or_default()
}

/// Base64 of bytes.
pub(crate) fn encoded(bytes: impl AsRef<[u8]>) -> String {
    STANDARD.encode(bytes)
}

/// The request that E2B's `commands.run` makes.
pub(crate) fn shell(script: &str) -> Value {
    json!({"process": {"cmd": "/bin/bash", "args": ["-c", script], "envs": {}}, "stdin": false})
}

/// Waits until something holds.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let late = tokio::time::Instant::now() + PATIENCE;
    while !holds().await {
        assert!(tokio::time::Instant::now() < late, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Whether a process exists and is no zombie.
pub(crate) fn is_alive(pid: u64) -> bool {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}
