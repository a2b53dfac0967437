//! From the configuration to devices: every path is opened here, and nothing is resolved later.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

use ringwall_devices::virtio::rng::{HostEntropy, Rng};
use ringwall_devices::virtio::vsock::{self, PathConnector, Vsock};
use ringwall_vmm_proto::Resources;
use thiserror::Error;

use crate::machine::Planned;

/// How the devices that have no name in the configuration are named.
pub const VSOCK: &str = "vsock";
/// Likewise.
pub const ENTROPY: &str = "entropy";
/// Likewise.
pub const BALLOON: &str = "balloon";

/// A device that can't be made.
#[derive(Debug, Error)]
pub enum PlanError {
    /// A file can't be opened.
    #[error("can't open the {what} {path}")]
    Open {
        /// What it is for.
        what: String,
        /// Which.
        path: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The socket for vsock.
    #[error("can't listen on {path} for vsock")]
    Listen {
        /// Where.
        path: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The vsock device.
    #[error("no vsock device")]
    Vsock(#[source] vsock::CreateVsockError),
    /// The entropy device.
    #[error("no entropy device")]
    Entropy(#[source] io::Error),
}

/// Makes the devices of a configuration, in the order of their places: drives, network, vsock, entropy, balloon.
///
/// # Errors
/// See [`PlanError`].
pub fn devices(resources: &Resources) -> Result<Vec<Planned>, PlanError> {
    let mut planned = Vec::new();
    if let Some(config) = &resources.vsock {
        let path = config.uds_path.as_str();
        let listener = vsock::listen_at(Path::new(path)).map_err(|source| PlanError::Listen {
            path: path.to_owned(),
            source,
        })?;
        let connector = Box::new(PathConnector::new(path));
        let device = Vsock::new(VSOCK, config.guest_cid, listener, connector, vsock::Timeouts::default())
            .map_err(PlanError::Vsock)?;
        planned.push(Planned {
            id: VSOCK.to_owned(),
            device: Box::new(device),
        });
    }
    if resources.entropy.is_some() {
        let device = Rng::new(Box::new(HostEntropy)).map_err(PlanError::Entropy)?;
        planned.push(Planned {
            id: ENTROPY.to_owned(),
            device: Box::new(device),
        });
    }
    Ok(planned)
}

/// Opens a file of the configuration.
///
/// # Errors
/// See [`PlanError::Open`].
pub fn open(what: &str, path: &Path, writable: bool) -> Result<File, PlanError> {
    let mut options = OpenOptions::new();
    options.read(true).write(writable);
    options.open(path).map_err(|source| PlanError::Open {
        what: what.to_owned(),
        path: path.display().to_string(),
        source,
    })
}
