//! `ringwall serve`: the sandboxes of this machine as a service.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use ringwall_api::{ApiConfig, App};
use ringwall_node::{Config, Keys, Node, StartNodeError};
use ringwall_policy::Limits;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use super::names;
use crate::args::ServeArgs;
use crate::failure::Failure;
use crate::ui;

/// The envd version that clients are told: the newest whose features all work. It gates, among others, metadata of files (0.6.2),
/// entries in watch events (0.6.3) and watches of network mounts (0.6.4).
const ENVD_VERSION: &str = "0.6.4";
/// Seconds a sandbox lives when its creator does not say (E2B's).
const DEFAULT_TIMEOUT_S: u64 = 300;
/// Control-plane requests worked on at once.
const MAX_REQUESTS: usize = 1024;
/// File of the operator's own key, in the server's directory.
const KEY_FILE: &str = "key";
/// The operator's own key's name.
const KEY_NAME: &str = "default";

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

async fn serve(args: ServeArgs) -> Result<ExitCode, Failure> {
    let directory = directory(args.state.as_deref())?;
    // First of all: a port in use must not start anything.
    let listener = TcpListener::bind(args.listen).await.map_err(|error| {
        Failure::own(format!("can't listen on {}: {error}", args.listen))
            .hint("choose another with --listen 127.0.0.1:PORT")
    })?;
    let address = listener.local_addr().map_err(Failure::own)?;
    let node = Node::start(Config {
        directory: directory.clone(),
        executable: std::env::current_exe().map_err(Failure::own)?,
        pool: args.pool,
        max_sandboxes: args.max_sandboxes,
        max_starting: std::thread::available_parallelism().map_or(2, usize::from) * 2,
        limits: Limits {
            memory: args.memory,
            cpus: args.cpus,
            pids: args.pids,
            disk: args.disk,
            allow_degraded: args.allow_degraded.into_iter().collect(),
            ..Limits::default()
        },
        max_timeout_s: args.max_timeout.0.as_secs(),
        plain_http_registries: args.plain_http_registry,
    })
    .await
    .map_err(explain)?;
    let key = own_key(&directory)?;
    let domain = args
        .domain
        .unwrap_or_else(|| format!("sandbox.localhost:{}", address.port()));
    let mut secret = [0_u8; 32];
    rustix::rand::getrandom(&mut secret, rustix::rand::GetRandomFlags::empty()).map_err(Failure::own)?;
    let app = App::new(
        Arc::new(node.clone()),
        ApiConfig {
            domain: domain.clone(),
            envd_version: ENVD_VERSION.to_owned(),
            max_connections: args.max_connections,
            max_requests: MAX_REQUESTS,
            requests_per_second: args.rate,
            is_tls: false,
            default_timeout_s: DEFAULT_TIMEOUT_S,
        },
        secret,
    );
    announce(address, &domain, &key);
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::own)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::own)?;
    let stopped = async {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    ringwall_api::serve(listener, app, stopped)
        .await
        .map_err(Failure::own)?;
    node.stop().await;
    ui::note("stopped; sandboxes go on, and the next `ringwall serve` takes them up");
    Ok(ExitCode::SUCCESS)
}

fn announce(address: std::net::SocketAddr, domain: &str, key: &str) {
    if !address.ip().is_loopback() {
        ui::note(&format!(
            "listening on {address}: everybody who can reach this address can try API keys, and reach open ports of sandboxes whose names they know; traffic is not encrypted"
        ));
    }
    let host = if address.ip().is_unspecified() {
        format!("127.0.0.1:{}", address.port())
    } else {
        address.to_string()
    };
    ui::line(&format!(
        "Ringwall serves sandboxes on http://{host} (ports of sandboxes: PORT-ID.{domain})\n\n\
         export E2B_API_URL=http://{host}\n\
         export E2B_SANDBOX_URL=http://{host}\n\
         export E2B_API_KEY={key}\n"
    ));
    drop(std::io::stdout().flush());
}

/// Returns the operator's own key. The server keeps only its hash; the key itself is in a file that only the operator can read.
fn own_key(directory: &Path) -> Result<String, Failure> {
    let path = directory.join(KEY_FILE);
    let keys = Keys::open(directory).map_err(explain)?;
    if let Ok(key) = fs::read_to_string(&path)
        && keys.list().map_err(explain)?.iter().any(|key| key.name == KEY_NAME)
    {
        return Ok(key.trim().to_owned());
    }
    keys.remove(KEY_NAME).map_err(explain)?;
    let (_, key) = keys.create(KEY_NAME).map_err(explain)?;
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
