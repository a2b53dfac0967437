//! The service in this process: for `ringwall serve`, and for the length of one command where there is no server.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ringwall_api::{ApiConfig, App, Listener};
use ringwall_node::{Config, Node, StartNodeError};
use ringwall_policy::Limits;
use ringwall_sandbox::service::{SandboxService as _, SandboxState};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use super::{LAST_WORK, locate};
use crate::commands::serve;
use crate::failure::Failure;

/// The envd version that clients are told: the newest whose features all work. It gates, among others, metadata of files (0.6.2),
/// entries in watch events (0.6.3) and watches of network mounts (0.6.4).
const ENVD_VERSION: &str = "0.6.4";
/// Control-plane requests worked on at once.
const MAX_REQUESTS: usize = 256;
/// How often it is looked whether sandboxes whose time was up have ended.
const OVERDUE_PAUSE: Duration = Duration::from_millis(50);

/// What is decided about a service before it starts.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) directory: PathBuf,
    pub(crate) domain: Option<String>,
    pub(crate) pool: usize,
    pub(crate) max_sandboxes: usize,
    pub(crate) max_connections: usize,
    pub(crate) rate: u32,
    pub(crate) max_timeout_s: u64,
    pub(crate) default_timeout_s: u64,
    pub(crate) plain_http_registries: Vec<String>,
    pub(crate) limits: Limits,
}

impl Settings {
    /// What a single command needs.
    pub(crate) fn of_a_command(directory: PathBuf) -> Self {
        Settings {
            directory,
            domain: None,
            pool: 0,
            max_sandboxes: 2000,
            max_connections: 8192,
            rate: u32::MAX / 2,
            max_timeout_s: 24 * 3600,
            default_timeout_s: 3600,
            plain_http_registries: Vec::new(),
            limits: Limits::default(),
        }
    }
}

/// A service made ready, but not yet answering.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) node: Node,
    pub(crate) app: App,
    pub(crate) key: String,
    pub(crate) domain: String,
}

/// Why a service can't be started.
#[derive(Debug)]
pub(crate) enum StartError {
    /// Another process serves the directory.
    InUse,
    /// It does not work.
    Failed(Failure),
}

/// Starts the node and joins it with the API. `address` is where that will listen.
pub(crate) async fn prepare(settings: Settings, address: SocketAddr) -> Result<Ready, StartError> {
    let directory = settings.directory;
    let own = |error: std::io::Error| StartError::Failed(Failure::own(error));
    let node = Node::start(Config {
        directory: directory.clone(),
        executable: std::env::current_exe().map_err(own)?,
        pool: settings.pool,
        max_sandboxes: settings.max_sandboxes,
        max_starting: std::thread::available_parallelism().map_or(2, usize::from) * 2,
        limits: settings.limits,
        max_timeout_s: settings.max_timeout_s,
        plain_http_registries: settings.plain_http_registries,
    })
    .await
    .map_err(|error| match error {
        StartNodeError::InUse { .. } => StartError::InUse,
        error => StartError::Failed(serve::explain(error)),
    })?;
    // The lock is ours now: whatever says otherwise was left by a crash.
    locate::withdraw(&directory);
    let key = serve::own_key(&node, &directory).map_err(StartError::Failed)?;
    let domain = settings
        .domain
        .unwrap_or_else(|| format!("sandbox.localhost:{}", address.port()));
    let mut secret = [0_u8; 32];
    rustix::rand::getrandom(&mut secret, rustix::rand::GetRandomFlags::empty()).map_err(|error| own(error.into()))?;
    let app = App::new(
        Arc::new(node.clone()),
        ApiConfig {
            domain: domain.clone(),
            envd_version: ENVD_VERSION.to_owned(),
            max_connections: settings.max_connections,
            max_requests: MAX_REQUESTS,
            requests_per_second: settings.rate,
            default_timeout_s: settings.default_timeout_s,
        },
        secret,
    );
    Ok(Ready { node, app, key, domain })
}

/// A service that answers on loopback for as long as a command needs it. It has a runtime of its own: when that ends, so does every task
/// of the node, and the directory's lock is free.
#[derive(Debug)]
pub(crate) struct Host {
    runtime: Runtime,
    node: Node,
    directory: PathBuf,
    pub(crate) key: String,
    pub(crate) address: SocketAddr,
}

impl Host {
    /// Starts it.
    pub(crate) async fn start(settings: Settings) -> Result<Self, StartError> {
        let own = |error: std::io::Error| StartError::Failed(Failure::own(error));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(own)?;
        let directory = settings.directory.clone();
        let started = runtime
            .spawn(async move {
                let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(own)?;
                let address = listener.local_addr().map_err(own)?;
                let ready = prepare(settings, address).await?;
                // It ends with the runtime, or when accept(2) fails for good: then the command's next call says so.
                tokio::spawn(async move {
                    drop(ringwall_api::serve(Listener::Plain(listener), ready.app, std::future::pending()).await);
                });
                Ok((ready.node, ready.key, address))
            })
            .await;
        match started {
            Ok(Ok((node, key, address))) => Ok(Host {
                runtime,
                node,
                directory,
                key,
                address,
            }),
            Ok(Err(error)) => {
                runtime.shutdown_background();
                Err(error)
            }
            Err(error) => {
                runtime.shutdown_background();
                Err(StartError::Failed(Failure::own(error)))
            }
        }
    }

    /// Lets other commands work through this one, which will take long.
    pub(crate) fn open_to_others(&self) {
        if let Err(error) = locate::publish(&self.directory, &format!("http://{}", self.address)) {
            crate::ui::note(&format!("other commands must wait for this one: {error}"));
        }
    }

    /// Waits until every sandbox whose time is up has ended or is paused, at most so long; returns their ids.
    pub(crate) async fn end_overdue(&self, patience: Duration) -> Vec<String> {
        let begun = tokio::time::Instant::now();
        let mut seen = Vec::new();
        loop {
            let now_ms = u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0);
            let mut left = 0;
            for (id, _token) in self.node.tokens() {
                if let Ok(info) = self.node.find(&id).await
                    && info.end_ms <= now_ms
                    && info.state == SandboxState::Running
                {
                    left += 1;
                    if !seen.contains(&id) {
                        seen.push(id);
                    }
                }
            }
            if left == 0 || begun.elapsed() > patience {
                return seen;
            }
            tokio::time::sleep(OVERDUE_PAUSE).await;
        }
    }

    /// Ends it. Sandboxes go on in their keepers.
    pub(crate) async fn end(self) {
        let Host {
            runtime,
            node,
            directory,
            ..
        } = self;
        let stopped = runtime.spawn(async move { node.stop().await });
        drop(stopped.await);
        locate::withdraw(&directory);
        // Blocking, so not on a worker: tasks are dropped at once, files being removed are waited for.
        drop(tokio::task::spawn_blocking(move || runtime.shutdown_timeout(LAST_WORK)).await);
    }
}
