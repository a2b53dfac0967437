//! `POST /interpreter`: starts the code interpreter, which is part of the executable that the agent was started from. Host only, as `/init`.

use std::ffi::CString;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use http::StatusCode;
use ringwall_sys::session::{self, SessionSpec};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use crate::agent::Agent;
use crate::body::{self, Reply};
use crate::users;

/// E2B's port of it.
const PORT: u16 = 49999;
/// How long it may take to listen.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(2);

/// Starts it, unless it listens already, and answers once it does.
pub(crate) async fn start(agent: &Agent) -> Reply {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    if TcpStream::connect(address).await.is_ok() {
        return body::empty(StatusCode::NO_CONTENT);
    }
    if let Err(message) = spawn(agent) {
        return body::error(StatusCode::INTERNAL_SERVER_ERROR, message);
    }
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        if TcpStream::connect(address).await.is_ok() {
            return body::empty(StatusCode::NO_CONTENT);
        }
        sleep(PAUSE).await;
    }
    body::error(
        StatusCode::INTERNAL_SERVER_ERROR,
        "the code interpreter does not listen",
    )
}

fn spawn(agent: &Agent) -> Result<(), String> {
    let user = users::resolve(agent, None).map_err(|error| error.to_string())?;
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
    // The child of a process may always execute what it is itself; no path to it is needed inside.
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("ringwall-interpreter")
        .args(["--port", &PORT.to_string()])
        .env_clear()
        .env("PATH", path)
        .env("HOME", &user.home)
        .env("USER", &user.name)
        .env("LOGNAME", &user.name)
        .env("LANG", "C.UTF-8")
        .envs(&agent.settings.borrow().environment)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let spec = SessionSpec {
        terminal: session::Terminal::None,
        user: user.ids,
        keeps: agent.identity.powers().of_program(user.ids),
        directory: CString::new(user.home.as_os_str().as_bytes()).map_err(|error| error.to_string())?,
        may_start_in_root: true,
    };
    session::lead_new_session(&mut command, spec);
    // The reaper takes it in when it ends, as any orphan; the next request then starts another.
    match agent.oom.raised(|| command.spawn()) {
        Ok(_child) => Ok(()),
        Err(error) => Err(format!("can't start the code interpreter: {error}")),
    }
}
