//! From a `Start` request to a plan, and from a plan to a supervised process.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use futures_util::future::join_all;
use ringwall_agent_proto::process::{ProcessConfig, Size, StartRequest};
use ringwall_agent_proto::{Code, RpcError};
use ringwall_sys::process::Ended;
use rustix::process::Signal;
use tokio::sync::{Mutex, oneshot};
use tokio::time::Instant;

use super::live::Process;
use super::pump::Source;
use super::spawn::{Directory, Plan, SpawnError, Streams, spawn};
use crate::agent::Agent;
use crate::paths;
use crate::rights::as_user;
use crate::rpc;
use crate::rpc::stream::FrameSender;
use crate::users::User;

/// Search path when the agent itself has none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Size of a terminal when the client does not say.
const DEFAULT_SIZE: Size = Size { cols: 80, rows: 24 };

/// Starts what the request asks for; `listener` hears it from the first byte on.
pub(super) async fn start(
    agent: &Rc<Agent>,
    request: StartRequest,
    user: &User,
    deadline: Option<Instant>,
    listener: FrameSender,
) -> Result<(), RpcError> {
    let config = request.process.unwrap_or_default();
    let streams = match (request.pty, request.stdin) {
        (Some(pty), _) => Streams::Terminal(pty.size.unwrap_or(DEFAULT_SIZE)),
        (None, Some(false)) => Streams::Outputs,
        (None, _) => Streams::Pipes,
    };
    let plan = rpc::within(deadline, plan(agent, &config, user, streams)).await?;
    let spawned = spawn(&plan, &agent.oom).map_err(|error| {
        let code = match error {
            SpawnError::Limit { .. } => Code::ResourceExhausted,
            SpawnError::Program { .. } => Code::InvalidArgument,
        };
        RpcError::new(code, error.to_string())
    })?;
    let process = Rc::new(Process {
        pid: spawned.pid,
        config,
        tag: request.tag,
        input: Mutex::new(spawned.input),
        terminal: spawned.terminal,
        listeners: Vec::new().into(),
    });
    let ended = agent.processes.insert(&process);
    process.listen(listener);
    tokio::task::spawn_local(supervise(agent.clone(), process, spawned.sources, ended, deadline));
    Ok(())
}

/// Carries output until all of it is read and the process has ended, or the deadline has.
async fn supervise(
    agent: Rc<Agent>,
    process: Rc<Process>,
    sources: Vec<Source>,
    mut ended: oneshot::Receiver<Ended>,
    deadline: Option<Instant>,
) {
    let life = async {
        join_all(sources.into_iter().map(|source| source.pump(&process))).await;
        (&mut ended).await
    };
    let how = match deadline {
        None => life.await,
        Some(deadline) => match tokio::time::timeout_at(deadline, life).await {
            Ok(how) => how,
            Err(_late) => {
                // The group may have lost its leader and still have members: it is the group that the client's timeout is for.
                let _gone = process.signal_group(Signal::KILL.as_raw());
                ended.await
            }
        },
    };
    agent.processes.remove(&process);
    // The sender lives in the table until the child is reaped, so there is always an answer.
    process.tell_end(how.unwrap_or(Ended::Signaled(Signal::KILL.as_raw())));
}

async fn plan(agent: &Agent, config: &ProcessConfig, user: &User, streams: Streams) -> Result<Plan, RpcError> {
    if config.cmd.is_empty() {
        return Err(RpcError::new(Code::InvalidArgument, "the request names no command"));
    }
    Ok(Plan {
        program: config.cmd.clone(),
        arguments: config.args.clone(),
        environment: environment(agent, config, user)?,
        directory: directory(agent, config, user).await?,
        user: user.ids,
        keeps: agent.identity.powers().of_program(user.ids),
        streams,
    })
}

/// The basics, then the sandbox's, then the request's; the later wins.
fn environment(agent: &Agent, config: &ProcessConfig, user: &User) -> Result<BTreeMap<OsString, OsString>, RpcError> {
    let path = std::env::var_os("PATH").filter(|path| !path.is_empty());
    let mut environment = BTreeMap::from([
        ("PATH".into(), path.unwrap_or_else(|| DEFAULT_PATH.into())),
        ("HOME".into(), user.home.clone().into()),
        ("USER".into(), user.name.clone().into()),
        ("LOGNAME".into(), user.name.clone().into()),
    ]);
    let settings = agent.settings.borrow();
    for (name, value) in settings.environment.iter().chain(&config.envs) {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(RpcError::new(
                Code::InvalidArgument,
                format!("the environment variable '{}' can't be set", name.escape_debug()),
            ));
        }
        environment.insert(name.into(), value.into());
    }
    Ok(environment)
}

/// Where the process starts. What the client has named must be there for the user; home need not.
async fn directory(agent: &Agent, config: &ProcessConfig, user: &User) -> Result<Directory, RpcError> {
    let asked = config.cwd.clone().filter(|cwd| !cwd.is_empty());
    let Some(wanted) = asked.or_else(|| agent.settings.borrow().default_workdir.clone()) else {
        // An image without the home directory must still be able to run something.
        return Ok(Directory::IfPossible(user.home.clone()));
    };
    let path =
        paths::resolve(&wanted, user).map_err(|error| RpcError::new(Code::InvalidArgument, error.to_string()))?;
    as_user(user, move || enterable(path)).await?.map(Directory::Named)
}

fn enterable(path: PathBuf) -> Result<PathBuf, RpcError> {
    let shown = path.display();
    let invalid = |message: String| Err(RpcError::new(Code::InvalidArgument, message));
    match std::fs::metadata(&path) {
        // Looking at `.` in it asks what entering it will ask.
        Ok(found) if found.is_dir() => match std::fs::metadata(path.join(".")) {
            Err(error) if error.kind() == ErrorKind::PermissionDenied => Err(forbidden(&path)),
            _ => Ok(path),
        },
        Ok(_) => invalid(format!("cwd '{shown}' is not a directory")),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Err(forbidden(&path)),
        Err(_) => invalid(format!("cwd '{shown}' does not exist")),
    }
}

fn forbidden(cwd: &Path) -> RpcError {
    let message = format!("cwd '{}' is not open to this user", cwd.display());
    RpcError::new(Code::PermissionDenied, message)
}
