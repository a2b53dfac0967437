//! `ringwall serve`: the sandboxes of this machine as a service.

mod tls;

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringwall_api::{Listener, Tls};
use ringwall_node::{Keys, Node, StartNodeError};
use ringwall_policy::Limits;
use tokio::net::{TcpListener, TcpSocket};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use super::names;
use crate::args::ServeArgs;
use crate::failure::Failure;
use crate::remote::host::{self, Settings, StartError};
use crate::{remote, ui};

/// Seconds a sandbox lives when its creator does not say (E2B's).
const DEFAULT_TIMEOUT_S: u64 = 300;
/// How long a command that works on the directory is waited for, and how often it is looked.
const TURN_PATIENCE: Duration = Duration::from_secs(3);
const TURN_PAUSE: Duration = Duration::from_millis(20);
/// File of the operator's own key, in the server's directory.
const KEY_FILE: &str = "key";
/// The operator's own key's name.
const KEY_NAME: &str = "default";

/// Connections that may wait to be accepted; the kernel takes at most net.core.somaxconn of them.
const BACKLOG: u32 = 4096;

/// Serves until SIGINT or SIGTERM. Sandboxes go on afterwards.
pub(crate) fn execute(args: ServeArgs) -> Result<ExitCode, Failure> {
    tracing_subscriber::fmt()
        .json()
        .with_env_filter(EnvFilter::try_from_env("RINGWALL_LOG").unwrap_or_else(|_| EnvFilter::new("warn")))
        .with_writer(std::io::stderr)
        .init();
    raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::own(format!("can't start the runtime: {error}")))?;
    runtime.block_on(serve(args))
}

/// Returns the directory of the server's state.
pub(crate) fn directory(given: Option<&Path>) -> Result<PathBuf, Failure> {
    match given {
        Some(path) => std::path::absolute(path).map_err(Failure::usage),
        None => Ok(names::state()?.path().join(".serve")),
    }
}

/// Thousands of connections and sandboxes need more than the usual 1,024.
fn raise_descriptor_limit() {
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    // What can't be raised stays; then connections are turned away earlier.
    let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, limit);
}

/// Listens, with room for many connections that come at once: the usual 128 make clients wait a second for each try.
fn listen(address: std::net::SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn serve(args: ServeArgs) -> Result<ExitCode, Failure> {
    let directory = directory(args.state.as_deref())?;
    let tls = tls::load(&args)?;
    if let (Some(tls), Some(key)) = (&tls, &args.tls_key) {
        tls::reload_on_hangup(Arc::clone(tls), key)?;
    }
    // First of all: a port in use must not start anything.
    let listener = listen(args.listen).map_err(|error| {
        Failure::own(format!("can't listen on {}: {error}", args.listen))
            .hint("choose another with --listen 127.0.0.1:PORT")
    })?;
    let address = listener.local_addr().map_err(Failure::own)?;
    let begun = Instant::now();
    let ready = loop {
        match host::prepare(
            settings(&args, directory.clone(), tls.as_deref(), address.port()),
            address,
        )
        .await
        {
            Ok(ready) => break ready,
            // Most likely a command that is soon done.
            Err(StartError::InUse) if begun.elapsed() < TURN_PATIENCE => tokio::time::sleep(TURN_PAUSE).await,
            Err(StartError::InUse) => return Err(explain(StartNodeError::InUse { path: directory })),
            Err(StartError::Failed(failure)) => return Err(failure),
        }
    };
    let url = announce(address, tls.as_deref(), &ready.domain, &ready.key);
    // A certificate is for names, which this machine need not know: its own commands come another way.
    let local = tls.as_ref().map(|_| tls::listen_locally(&directory));
    if let Err(error) = remote::publish(&directory, &url) {
        ui::note(&format!(
            "commands of this user will not find this server by themselves: {error}"
        ));
    }
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::own)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::own)?;
    let stopped = async {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    match local {
        Some(Ok(socket)) => {
            let app = ready.app.clone();
            tokio::spawn(async move {
                drop(ringwall_api::serve(Listener::Local(socket), app, std::future::pending()).await);
            });
        }
        Some(Err(error)) => ui::note(&format!(
            "commands of this user will not reach this server without RINGWALL_URL: {error}"
        )),
        None => {}
    }
    let listener = match tls {
        Some(tls) => Listener::Tls(listener, tls),
        None => Listener::Plain(listener),
    };
    let served = ringwall_api::serve(listener, ready.app, stopped).await;
    remote::withdraw(&directory);
    ready.node.stop().await;
    served.map_err(Failure::own)?;
    ui::note("stopped; sandboxes go on, and the next `ringwall serve` takes them up");
    Ok(ExitCode::SUCCESS)
}

fn settings(args: &ServeArgs, directory: PathBuf, tls: Option<&Tls>, port: u16) -> Settings {
    let certified = || tls.and_then(|tls| tls::domain(tls, port));
    Settings {
        directory,
        domain: args.domain.clone().or_else(certified),
        pool: args.pool,
        max_sandboxes: args.max_sandboxes,
        max_connections: args.max_connections,
        rate: args.rate,
        max_timeout_s: args.max_timeout.0.as_secs(),
        default_timeout_s: DEFAULT_TIMEOUT_S,
        plain_http_registries: args.plain_http_registry.clone(),
        limits: Limits {
            memory: args.memory,
            cpus: args.cpus,
            pids: args.pids,
            disk: args.disk,
            allow_degraded: args.allow_degraded.iter().copied().collect(),
            ..Limits::default()
        },
    }
}

/// Tells where the server is, and returns its URL.
fn announce(address: std::net::SocketAddr, tls: Option<&Tls>, domain: &str, key: &str) -> String {
    if !address.ip().is_loopback() {
        let exposed = format!(
            "listening on {address}: everybody who can reach this address can try API keys, and reach open ports of sandboxes whose names they know"
        );
        ui::note(&match tls {
            Some(_) => exposed,
            None => format!("{exposed}; traffic is not encrypted (--tls-cert and --tls-key would do that)"),
        });
    }
    let url = match tls {
        Some(tls) => {
            let host = tls::host(tls, address, domain);
            tls::warn_of_names(tls, &host, domain);
            format!("https://{}", tls::with_port(&host, address.port()))
        }
        None if address.ip().is_unspecified() => format!("http://127.0.0.1:{}", address.port()),
        None => format!("http://{address}"),
    };
    let alone = if tls.is_some_and(|tls| tls::covers_domain(tls, domain)) {
        format!("# or, in place of both: export E2B_DOMAIN={domain}\n")
    } else {
        String::new()
    };
    ui::line(&format!(
        "Ringwall serves sandboxes on {url} (ports of sandboxes: PORT-ID.{domain})\n\n\
         export E2B_API_URL={url}\n\
         export E2B_SANDBOX_URL={url}\n\
         {alone}export E2B_API_KEY={key}\n"
    ));
    drop(std::io::stdout().flush());
    url
}

/// Reads the operator's own key.
pub(crate) fn read_key(directory: &Path) -> std::io::Result<String> {
    Ok(fs::read_to_string(directory.join(KEY_FILE))?.trim().to_owned())
}

/// Returns the operator's own key. The server keeps only its hash; the key itself is in a file that only the operator can read.
///
/// The node makes it, since it would not know another's for a second; its lock is held, so nobody else makes one.
pub(crate) fn own_key(node: &Node, directory: &Path) -> Result<String, Failure> {
    let path = directory.join(KEY_FILE);
    let keys = Keys::open(directory).map_err(explain)?;
    if let Ok(key) = read_key(directory)
        && keys.list().map_err(explain)?.iter().any(|key| key.name == KEY_NAME)
    {
        return Ok(key);
    }
    keys.remove(KEY_NAME).map_err(explain)?;
    let (_, key) = node.create_key(KEY_NAME).map_err(Failure::own)?;
    let fresh = path.with_extension("new");
    let written = fs::File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&fresh)
        .and_then(|mut file| writeln!(file, "{key}"))
        .and_then(|()| fs::rename(&fresh, &path));
    written.map_err(|error| Failure::own(format!("can't write {}: {error}", path.display())))?;
    Ok(key)
}

/// Chooses a hint.
pub(crate) fn explain(error: StartNodeError) -> Failure {
    match error {
        StartNodeError::InUse { .. } => Failure::own(error).hint("stop it, or choose another directory with --state"),
        _ => Failure::own(error),
    }
}
