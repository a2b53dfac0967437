//! What all routes share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ringwall_sandbox::service::SandboxService;
use sha2::{Digest, Sha256};

use crate::limits::Limits;
use crate::measure::Measures;

/// How the service presents itself and what it bears.
#[derive(Debug, Clone)]
pub struct ApiConfig {
    /// What a sandbox's ports are reached under: `<port>-<id>.<domain>`, with a port of the listener where that is not the scheme's own.
    pub domain: String,
    /// The envd version that clients are told; it decides what they ask for.
    pub envd_version: String,
    /// Most connections at once; beyond, a connection is answered 503 and closed.
    pub max_connections: usize,
    /// Most control-plane requests worked on at once.
    pub max_requests: usize,
    /// Control-plane requests of one key each second, on average.
    pub requests_per_second: u32,
    /// Seconds a sandbox lives when its creator does not say.
    pub default_timeout_s: u64,
}

/// The service.
#[derive(Debug, Clone)]
pub struct App {
    pub(crate) sandboxes: Arc<dyn SandboxService>,
    pub(crate) config: Arc<ApiConfig>,
    pub(crate) limits: Arc<Limits>,
    pub(crate) measures: Arc<Measures>,
    pub(crate) uploads: Arc<Signer>,
    requests: Arc<AtomicU64>,
}

/// Signs what only this very server process may have given out.
#[derive(Clone)]
pub(crate) struct Signer {
    secret: [u8; 32],
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signer(…)")
    }
}

impl Signer {
    /// Signs a row of texts. Each goes in with its length, so that none can run into the next.
    pub(crate) fn sign(&self, parts: &[&str]) -> [u8; 32] {
        // The secret first and last, and hashed twice: a plain prefix could be extended by whoever has seen one signature.
        let mut inner = Sha256::new();
        inner.update(self.secret);
        for part in parts {
            inner.update((part.len() as u64).to_le_bytes());
            inner.update(part.as_bytes());
        }
        let mut outer = Sha256::new();
        outer.update(self.secret);
        outer.update(inner.finalize());
        outer.finalize().into()
    }
}

impl App {
    /// Joins a node and its configuration. `secret` is random, and new for each process.
    #[must_use]
    pub fn new(sandboxes: Arc<dyn SandboxService>, config: ApiConfig, secret: [u8; 32]) -> Self {
        App {
            // Begun anywhere, so that ids of two servers' logs are not taken for each other.
            requests: Arc::new(AtomicU64::new(u64::from_le_bytes(
                secret[..8].try_into().unwrap_or_default(),
            ))),
            uploads: Arc::new(Signer { secret }),
            limits: Arc::new(Limits::new(config.max_requests, config.requests_per_second)),
            measures: Arc::new(Measures::new()),
            sandboxes,
            config: Arc::new(config),
        }
    }
}

impl App {
    /// A name for the next request.
    pub(crate) fn request_id(&self) -> String {
        // Mixed, so that a client can't count what the others do.
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        format!("{:016x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29))
    }
}
