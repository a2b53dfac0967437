//! The kernel's process: a group of its own, killed as a whole.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, ChildStderr, Command};

/// How much of the end of its standard error is kept, to explain a failed start.
const KEPT_ERROR_BYTES: usize = 2048;

/// A running kernel process; dropping it kills its group.
#[derive(Debug)]
pub(crate) struct KernelProcess {
    child: Child,
    group: Option<Pid>,
    error_tail: Arc<Mutex<Vec<u8>>>,
}

impl KernelProcess {
    /// Starts `argv` in `cwd`.
    ///
    /// # Errors
    /// The program can't be started.
    pub(crate) fn start(argv: &[String], env: &[(String, String)], cwd: &Path) -> std::io::Result<Self> {
        let (program, arguments) = argv.split_first().ok_or(std::io::ErrorKind::InvalidInput)?;
        let mut child = Command::new(program)
            .args(arguments)
            .envs(env.iter().map(|(name, value)| (name, value)))
            // ipykernel ends by itself when this process is gone, even if it was killed.
            .env("JPY_PARENT_PID", std::process::id().to_string())
            .current_dir(cwd)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let error_tail = Arc::new(Mutex::new(Vec::new()));
        if let Some(stderr) = child.stderr.take() {
            tokio::spawn(keep_tail(stderr, Arc::clone(&error_tail)));
        }
        Ok(Self {
            child,
            group,
            error_tail,
        })
    }

    /// Waits for its end. Cancel safe.
    pub(crate) async fn wait(&mut self) -> String {
        let ended = self.child.wait().await;
        self.kill_rest();
        match ended {
            Ok(status) => describe(status),
            Err(error) => format!("the kernel is lost: {error}"),
        }
    }

    /// Whether it still runs.
    pub(crate) fn is_running(&mut self) -> bool {
        let is_running = matches!(self.child.try_wait(), Ok(None));
        if !is_running {
            self.kill_rest();
        }
        is_running
    }

    /// Sends SIGINT to the group: the kernel and the commands it runs.
    pub(crate) fn interrupt(&self) {
        self.signal(Signal::INT);
    }

    /// Kills the group.
    pub(crate) fn kill(&self) {
        self.signal(Signal::KILL);
    }

    /// Kills what the kernel has left behind, once: later its number may be another's.
    fn kill_rest(&mut self) {
        self.kill();
        self.group = None;
    }

    /// The end of what it wrote to standard error.
    pub(crate) fn error_tail(&self) -> String {
        let tail = self.error_tail.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&tail).trim().to_owned()
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = self.group {
            // An error means there is nobody left to signal.
            let _nobody = kill_process_group(group, signal);
        }
    }
}

impl Drop for KernelProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn keep_tail(mut stderr: ChildStderr, tail: Arc<Mutex<Vec<u8>>>) {
    let mut buffer = [0_u8; 4096];
    while let Ok(count @ 1..) = stderr.read(&mut buffer).await {
        let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
        tail.extend_from_slice(&buffer[..count]);
        let excess = tail.len().saturating_sub(KEPT_ERROR_BYTES);
        tail.drain(..excess);
    }
}

fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("the kernel exited with code {code}"),
        (None, Some(9)) => "the kernel was killed (signal 9; out of memory?)".to_owned(),
        (None, Some(signal)) => format!("the kernel was killed by signal {signal}"),
        (None, None) => "the kernel ended".to_owned(),
    }
}
