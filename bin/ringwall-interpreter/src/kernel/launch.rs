//! Starting a kernel: find it, choose ports, write the connection file, start the process, wait until it answers.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use jupyter_protocol::ConnectionInfo;
use jupyter_protocol::connection_info::Transport;
use tokio::time::{Instant, sleep, timeout};

use super::iopub::Iopub;
use super::message::Signer;
use super::process::KernelProcess;
use super::running::Kernel;
use super::spec::{KernelSpec, Places};
use super::zmtp::{Connection, SocketKind, ZmtpError};
use crate::language::Language;

/// How long a kernel may take to answer; Java's on a busy machine takes the longest.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How often a kernel is started whose ports are taken by others before it listens.
const START_ATTEMPTS: usize = 3;
/// Pause between two attempts to connect.
const CONNECT_PAUSE: Duration = Duration::from_millis(10);
/// How long python may take to say whether it has ipykernel.
const PYTHON_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a kernel didn't start. Shown to clients.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartKernelError {
    /// No kernel for the language is installed.
    #[error("no Jupyter kernel for {language}: {advice}")]
    Missing {
        /// The language.
        language: String,
        /// What to install.
        advice: &'static str,
    },
    /// Its connection file can't be written or no port is free.
    #[error("can't prepare the start of the kernel for {language}: {source}")]
    Prepare {
        /// The language.
        language: String,
        /// What failed.
        source: std::io::Error,
    },
    /// Its program can't be started.
    #[error("can't start `{program}`, the kernel for {language}: {source}")]
    Spawn {
        /// The language.
        language: String,
        /// The program.
        program: String,
        /// What failed.
        source: std::io::Error,
    },
    /// It ended before it answered.
    #[error("the kernel for {language} didn't start: {reason}\n{output}")]
    Ended {
        /// The language.
        language: String,
        /// How it ended.
        reason: String,
        /// The end of its standard error.
        output: String,
    },
    /// It doesn't answer.
    #[error("the kernel for {language} didn't answer within {} s\n{output}", START_TIMEOUT.as_secs())]
    Silent {
        /// The language.
        language: String,
        /// The end of its standard error.
        output: String,
    },
}

impl StartKernelError {
    /// Whether the client can help it, by installing a kernel or choosing another language.
    pub(crate) fn is_missing_kernel(&self) -> bool {
        matches!(self, Self::Missing { .. })
    }

    /// Whether another attempt, with other ports, may help.
    fn is_port_taken(&self) -> bool {
        // strerror's words for EADDRINUSE, which are ZeroMQ's as well.
        matches!(self, Self::Ended { output, .. } if output.contains("Address already in use"))
    }
}

/// Finds the kernel for `language`.
///
/// # Errors
/// There is none.
async fn find(places: &Places, language: &Language) -> Result<KernelSpec, StartKernelError> {
    if let Some(spec) = places.find(language) {
        return Ok(spec);
    }
    if *language == Language::Python {
        for python in places.pythons() {
            if has_ipykernel(&python).await {
                return Ok(KernelSpec::of_python(&python));
            }
        }
    }
    Err(StartKernelError::Missing {
        language: language.to_string(),
        advice: language.advice(),
    })
}

async fn has_ipykernel(python: &Path) -> bool {
    let status = tokio::process::Command::new(python)
        .args(["-c", "import ipykernel"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .status();
    matches!(timeout(PYTHON_TIMEOUT, status).await, Ok(Ok(status)) if status.success())
}

/// Starts the kernel for `language` in `cwd` and waits until it answers.
///
/// # Errors
/// There is none, or it doesn't start. What was started is killed.
pub(crate) async fn start(places: &Places, language: &Language, cwd: &Path) -> Result<Kernel, StartKernelError> {
    let spec = find(places, language).await?;
    for _ in 1..START_ATTEMPTS {
        match start_once(&spec, language, cwd).await {
            Err(error) if error.is_port_taken() => {}
            ended => return ended,
        }
    }
    start_once(&spec, language, cwd).await
}

async fn start_once(spec: &KernelSpec, language: &Language, cwd: &Path) -> Result<Kernel, StartKernelError> {
    let prepare = |source| StartKernelError::Prepare {
        language: language.to_string(),
        source,
    };
    let signer = Arc::new(Signer::new());
    let info = connection_info(&signer).map_err(prepare)?;
    let directory = ConnectionDirectory::create(&info).map_err(prepare)?;
    let argv: Vec<String> = spec
        .argv
        .iter()
        .map(|argument| {
            argument
                .replace("{connection_file}", &directory.file().to_string_lossy())
                .replace("{resource_dir}", &spec.resources.to_string_lossy())
        })
        .collect();
    let mut process = KernelProcess::start(&argv, &spec.env, cwd).map_err(|source| StartKernelError::Spawn {
        language: language.to_string(),
        program: argv.first().cloned().unwrap_or_default(),
        source,
    })?;
    let deadline = Instant::now() + START_TIMEOUT;
    let connected = tokio::select! {
        connected = connect(&info, &signer, deadline) => connected,
        reason = process.wait() => {
            // Its last words may still be in the pipe.
            sleep(CONNECT_PAUSE).await;
            let output = process.error_tail();
            return Err(StartKernelError::Ended { language: language.to_string(), reason, output });
        }
    };
    let silent = |output| StartKernelError::Silent {
        language: language.to_string(),
        output,
    };
    let Some((shell, iopub)) = connected else {
        return Err(silent(process.error_tail()));
    };
    let iopub = Iopub::start(iopub, Arc::clone(&signer));
    let mut kernel = Kernel::new(process, shell, iopub, signer, spec, info, directory);
    if kernel.wait_until_ready(deadline).await {
        Ok(kernel)
    } else {
        Err(silent(kernel.error_tail()))
    }
}

async fn connect(info: &ConnectionInfo, signer: &Signer, deadline: Instant) -> Option<(Connection, Connection)> {
    let shell = connect_port(info.shell_port, SocketKind::Dealer, signer, deadline).await?;
    let iopub = connect_port(info.iopub_port, SocketKind::Subscriber, signer, deadline).await?;
    Some((shell, iopub))
}

/// Connects to one of the kernel's ports as soon as it listens, but not after `deadline`.
pub(crate) async fn connect_port(
    port: u16,
    kind: SocketKind,
    signer: &Signer,
    deadline: Instant,
) -> Option<Connection> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    loop {
        let left = deadline.checked_duration_since(Instant::now())?;
        match timeout(left, Connection::open(address, kind, signer.session())).await {
            Ok(Ok(connection)) => return Some(connection),
            Ok(Err(ZmtpError::Greeting)) | Err(_) => return None,
            Ok(Err(_)) => sleep(CONNECT_PAUSE).await,
        }
    }
}

/// Chooses five free ports. Another process may take one before the kernel does; then the kernel says so and ends.
fn connection_info(signer: &Signer) -> std::io::Result<ConnectionInfo> {
    let mut listeners = Vec::new();
    let mut port = || -> std::io::Result<u16> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        listeners.push(listener);
        Ok(port)
    };
    Ok(ConnectionInfo {
        ip: Ipv4Addr::LOCALHOST.to_string(),
        transport: Transport::TCP,
        shell_port: port()?,
        iopub_port: port()?,
        stdin_port: port()?,
        control_port: port()?,
        hb_port: port()?,
        key: signer.key().to_owned(),
        signature_scheme: "hmac-sha256".to_owned(),
        kernel_name: None,
    })
}

/// The directory of a connection file, for its owner's eyes only; removed when dropped.
#[derive(Debug)]
pub(crate) struct ConnectionDirectory(PathBuf);

impl ConnectionDirectory {
    fn create(info: &ConnectionInfo) -> std::io::Result<Self> {
        let path = std::env::temp_dir().join(format!("ringwall-kernel-{}", uuid::Uuid::new_v4().simple()));
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        let directory = Self(path);
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(directory.file())?;
        file.write_all(&serde_json::to_vec(info)?)?;
        Ok(directory)
    }

    fn file(&self) -> PathBuf {
        self.0.join("connection.json")
    }
}

impl Drop for ConnectionDirectory {
    fn drop(&mut self) {
        // What can't be removed (the sandbox's user may have changed it) goes with the sandbox.
        drop(std::fs::remove_dir_all(&self.0));
    }
}
