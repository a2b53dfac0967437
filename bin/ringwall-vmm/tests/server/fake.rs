//! A server with a fake VMM behind it, and a client of few words.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::TryRecvError;
use std::thread::JoinHandle;
use std::time::Duration;

use ringwall_vmm_bin::api::{Limits, Link, Listener, Server, ServerHandle};
use ringwall_vmm_proto::{Answer, Architecture, Command, Controller, DEFAULT_BODY_BYTES, Decision, InstanceId};
use vmm_sys_util::eventfd::EventFd;

/// A running server.
#[derive(Debug)]
pub(crate) struct Fake {
    server: Option<ServerHandle>,
    vmm: Option<JoinHandle<()>>,
    directory: tempfile::TempDir,
}

impl Fake {
    pub(crate) fn start() -> Self {
        Self::with(Limits::default(), Duration::ZERO)
    }

    /// A VMM that takes `pause` to pause a machine.
    pub(crate) fn with(limits: Limits, pause: Duration) -> Self {
        // Some clients write the socket's path into a URL's host, which is lower case for them.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "ringwall-api-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let directory = tempfile::Builder::new().prefix(&name).rand_bytes(0).tempdir().unwrap();
        let listener = Listener::bind(&directory.path().join("api.sock")).unwrap();
        let wake = EventFd::new(0).unwrap();
        let (link, requests) = Link::new(wake.try_clone().unwrap());
        let vmm = std::thread::spawn(move || {
            let mut controller =
                Controller::new(Architecture::X86_64, InstanceId::default(), "0.1.0", DEFAULT_BODY_BYTES);
            loop {
                match requests.try_recv() {
                    Ok(request) => {
                        let (action, answer) = request.into_parts();
                        answer(controller.decide(action).map(|decision| match decision {
                            Decision::Answered(answer) => answer,
                            Decision::Perform(command) => {
                                if command == Command::Pause {
                                    std::thread::sleep(pause);
                                }
                                controller.settle(&command);
                                Answer::Empty
                            }
                        }));
                    }
                    Err(TryRecvError::Empty) => drop(wake.read()),
                    Err(TryRecvError::Disconnected) => return,
                }
            }
        });
        let server = Server::new(listener, link, limits).unwrap().spawn(|| {}).unwrap();
        Self {
            server: Some(server),
            vmm: Some(vmm),
            directory,
        }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("api.sock")
    }

    pub(crate) fn client(&self) -> Client {
        let stream = UnixStream::connect(self.path()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Client {
            stream,
            read: Vec::new(),
        }
    }

    /// One request on a connection of its own.
    pub(crate) fn ask(&self, method: &str, path: &str, body: &str) -> Reply {
        self.client().ask(method, path, body)
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        drop(self.server.take());
        self.vmm.take().unwrap().join().unwrap();
    }
}

/// A client's connection.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) stream: UnixStream,
    read: Vec<u8>,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

/// A request as bytes.
pub(crate) fn request(method: &str, path: &str, body: &str) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

impl Client {
    pub(crate) fn ask(&mut self, method: &str, path: &str, body: &str) -> Reply {
        self.send(request(method, path, body).as_bytes());
        self.reply().unwrap()
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    pub(crate) fn finish_sending(&self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// The next answer, or none if the server has closed the connection.
    pub(crate) fn reply(&mut self) -> Option<Reply> {
        let head_end = loop {
            if let Some(at) = self.read.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            if !self.read_more() {
                assert!(
                    self.read.is_empty(),
                    "an answer ended early: {:?}",
                    String::from_utf8_lossy(&self.read)
                );
                return None;
            }
        };
        let head = String::from_utf8(self.read.drain(..head_end).collect()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let field = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        let length: usize = field.map_or(0, |length| length.parse().unwrap());
        while self.read.len() < length {
            assert!(self.read_more(), "a body ended early");
        }
        let body = String::from_utf8(self.read.drain(..length).collect()).unwrap();
        Some(Reply { status, head, body })
    }

    /// Whether the server has closed the connection and said nothing more.
    pub(crate) fn is_closed(&mut self) -> bool {
        self.read.is_empty() && !self.read_more()
    }

    fn read_more(&mut self) -> bool {
        let mut buffer = [0; 65_536];
        match self.stream.read(&mut buffer) {
            Ok(0) => false,
            Ok(count) => {
                self.read.extend_from_slice(&buffer[..count]);
                true
            }
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => false,
            Err(error) => panic!("{error}"),
        }
    }
}
