//! What the operator decides.

use std::path::PathBuf;

use ringwall_policy::Limits;
use thiserror::Error;

/// A node's configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// Directory of everything that is kept.
    pub directory: PathBuf,
    /// This executable: it is started again as keeper and as agent.
    pub executable: PathBuf,
    /// Sandboxes kept ready of the default template.
    pub pool: usize,
    /// Most sandboxes at once.
    pub max_sandboxes: usize,
    /// Most sandboxes being started at once.
    pub max_starting: usize,
    /// Limits of each sandbox.
    pub limits: Limits,
    /// Longest life a caller may ask for, seconds.
    pub max_timeout_s: u64,
    /// Registries that may be spoken to without TLS, as `host:port`; loopback always may.
    pub plain_http_registries: Vec<String>,
}

/// A node that can't start.
#[derive(Debug, Error)]
pub enum StartNodeError {
    /// A file or directory can't be used.
    #[error("can't use {}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Another node works on the directory.
    #[error("another server works on {}", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The database can't be used.
    #[error("can't use the database")]
    Database(#[from] rusqlite::Error),
    /// A record of the database can't be understood.
    #[error("a record of {what} in the database can't be read; it was written by another version, or damaged")]
    Record {
        /// Of what.
        what: &'static str,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The default template can't be made.
    #[error("can't make the default template")]
    Base(#[source] std::io::Error),
}
