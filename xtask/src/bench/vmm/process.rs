//! A running VMM: started with pipes, driven over its API, timed to the first byte that its guest writes.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value, json};

/// Longest wait for anything.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// Between two tries to connect to a socket that is not there yet; small beside what is timed.
pub(super) const RETRY: Duration = Duration::from_micros(100);

/// What goes wrong here; each says what was waited for.
pub(super) type Failure = String;

/// A VMM, killed on drop.
#[derive(Debug)]
pub(super) struct Vmm {
    child: Child,
    console: ChildStdout,
    /// Kept open: its end would be a key of its own.
    keys: Option<ChildStdin>,
    log: PathBuf,
}

impl Drop for Vmm {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _gone = self.child.kill();
        let _status = self.child.wait();
    }
}

impl Vmm {
    /// Starts `command` with its log in `folder`.
    ///
    /// # Errors
    /// It can't be started.
    pub(super) fn start(command: &mut Command, folder: &Path) -> Result<Self, Failure> {
        let log = folder.join("log");
        let file = File::create(&log).map_err(|error| format!("{}: {error}", log.display()))?;
        let child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(file)
            .spawn();
        let mut child = child.map_err(|error| format!("{:?}: {error}", command.get_program()))?;
        let keys = child.stdin.take();
        let console = child.stdout.take().ok_or("no pipe")?;
        Ok(Self {
            child,
            console,
            keys,
            log,
        })
    }

    /// Its process.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the guest's next byte.
    ///
    /// # Errors
    /// None comes; the VMM's log is in the text.
    pub(super) fn byte(&mut self) -> Result<u8, Failure> {
        let time = Timespec { tv_sec: 60, tv_nsec: 0 };
        let ready = poll(&mut [PollFd::new(&self.console, PollFlags::IN)], Some(&time));
        let mut byte = [0];
        match ready {
            Ok(1..) if matches!(self.console.read(&mut byte), Ok(1)) => Ok(byte[0]),
            _ => Err(format!("the guest says nothing; the log: {}", self.log())),
        }
    }

    /// Waits until the guest has said `wanted`.
    ///
    /// # Errors
    /// As [`Self::byte`].
    pub(super) fn until(&mut self, wanted: &str) -> Result<(), Failure> {
        let mut said = Vec::new();
        while !said.ends_with(wanted.as_bytes()) {
            said.push(self.byte()?);
        }
        Ok(())
    }

    /// Presses a key.
    ///
    /// # Errors
    /// The VMM doesn't read.
    pub(super) fn key(&mut self, letter: u8) -> Result<(), Failure> {
        let keys = self.keys.as_mut().ok_or("no pipe")?;
        keys.write_all(&[letter]).map_err(|error| error.to_string())
    }

    /// The pipe of its keys.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn keys(&self) -> Result<&ChildStdin, Failure> {
        self.keys.as_ref().ok_or_else(|| "no pipe".to_owned())
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default().trim().to_owned()
    }
}

/// A socket that a VMM inherits. A client can be connected before there is a VMM, so no time goes into waiting for a path to appear.
#[derive(Debug)]
pub(super) struct Door {
    listener: UnixListener,
    path: PathBuf,
}

impl Door {
    /// Makes one in `folder`.
    ///
    /// # Errors
    /// What the kernel said.
    pub(super) fn make(folder: &Path) -> Result<Self, Failure> {
        let path = folder.join("door");
        let made = || -> io::Result<UnixListener> {
            let listener = UnixListener::bind(&path)?;
            // Inherited by whatever is started while it lives: one VMM.
            rustix::io::fcntl_setfd(&listener, rustix::io::FdFlags::empty())?;
            Ok(listener)
        };
        let listener = made().map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Self { listener, path })
    }

    /// The number for `--api-fd`.
    pub(super) fn number(&self) -> String {
        self.listener.as_raw_fd().to_string()
    }

    /// Connects.
    ///
    /// # Errors
    /// What the kernel said.
    pub(super) fn client(&self) -> Result<Client, Failure> {
        let stream = UnixStream::connect(&self.path).map_err(|error| error.to_string())?;
        Client::on(stream)
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        let _gone = std::fs::remove_file(&self.path);
    }
}

/// A connection to a VMM's API.
#[derive(Debug)]
pub(super) struct Client(UnixStream);

impl Client {
    fn on(stream: UnixStream) -> Result<Self, Failure> {
        stream
            .set_read_timeout(Some(PATIENCE))
            .map_err(|error| error.to_string())?;
        Ok(Self(stream))
    }

    /// Connects to a socket as soon as it is there.
    ///
    /// # Errors
    /// It doesn't appear.
    pub(super) fn connect(path: &Path) -> Result<Self, Failure> {
        let begun = Instant::now();
        loop {
            match UnixStream::connect(path) {
                Ok(stream) => return Self::on(stream),
                Err(error) if begun.elapsed() > PATIENCE => return Err(format!("{}: {error}", path.display())),
                Err(_) => std::thread::sleep(RETRY),
            }
        }
    }

    /// Sends a request without waiting for the answer.
    ///
    /// # Errors
    /// What the kernel said.
    pub(super) fn send(&mut self, method: &str, path: &str, body: &Value) -> Result<(), Failure> {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let length = body.len();
        let request = format!("{method} {path} HTTP/1.1\r\nhost: vmm\r\ncontent-length: {length}\r\n\r\n{body}");
        self.0.write_all(request.as_bytes()).map_err(|error| error.to_string())
    }

    /// Reads an answer, which must be one of success.
    ///
    /// # Errors
    /// Another status, with the VMM's words.
    pub(super) fn receive(&mut self) -> Result<(), Failure> {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            match self.0.read(&mut byte) {
                Ok(1) => head.push(byte[0]),
                other => return Err(format!("no answer: {other:?}")),
            }
        }
        let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        self.0.read_exact(&mut body).map_err(|error| error.to_string())?;
        if head.split(' ').nth(1).is_some_and(|status| status.starts_with('2')) {
            return Ok(());
        }
        Err(format!(
            "{} {}",
            head.lines().next().unwrap_or_default(),
            String::from_utf8_lossy(&body)
        ))
    }

    /// Sends a request and reads its answer.
    ///
    /// # Errors
    /// As [`Self::receive`].
    pub(super) fn ask(&mut self, method: &str, path: &str, body: &Value) -> Result<(), Failure> {
        self.send(method, path, body)?;
        self.receive().map_err(|why| format!("{method} {path}: {why}"))
    }
}

/// The body of a request to load the snapshot in `folder`.
pub(super) fn load_body(folder: &Path) -> Value {
    json!({
        "snapshot_path": folder.join("state"),
        "mem_backend": {"backend_type": "File", "backend_path": folder.join("memory")},
        "resume_vm": true,
    })
}

/// The body of a request to write a snapshot into `folder`.
pub(super) fn create_body(folder: &Path) -> Value {
    json!({
        "snapshot_type": "Full",
        "snapshot_path": folder.join("state"),
        "mem_file_path": folder.join("memory"),
    })
}
