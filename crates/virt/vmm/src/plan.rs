//! From the configuration to devices: every path is opened here, and nothing is resolved later.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use ringwall_devices::rate_limiter::{BucketSpec, RateLimiter as DeviceLimiter, RateLimiterSpec};
use ringwall_devices::virtio::balloon::{Balloon, BalloonOptions};
use ringwall_devices::virtio::block::{Block, BlockOptions, CacheType, Engine, EngineChoice, MakeBlockError};
use ringwall_devices::virtio::net::{Backend, MacAddress, MakeNetError, Net, NetOptions, OpenTapError, Tap};
use ringwall_devices::virtio::rng::{HostEntropy, Rng};
use ringwall_devices::virtio::vsock::{self, Connector, NoConnector, PathConnector, Vsock};
use ringwall_mmds::{Detour, MakeDetourError, Service};
use ringwall_vmm_proto::mmds_store::SharedStore;
use ringwall_vmm_proto::{Drive, IoEngine, NetworkInterface, Place, RateLimiter, Resources, SocketPath, TokenBucket};
use thiserror::Error;

use crate::files::{Access, Files, OpenFileError, Reach};
use crate::machine::Planned;

/// The unit of a disk's capacity (VIRTIO 1.2 §5.2.4).
const SECTOR_BYTES: u64 = 512;

/// How the devices that have no name in the configuration are named.
pub const VSOCK: &str = "vsock";
/// Likewise.
pub const ENTROPY: &str = "entropy";
/// Likewise.
pub const BALLOON: &str = "balloon";

/// A device that can't be made.
#[derive(Debug, Error)]
pub enum PlanError {
    /// A file can't be had.
    #[error(transparent)]
    File(#[from] OpenFileError),
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
    /// A disk.
    #[error("no drive {id}")]
    Drive {
        /// Which.
        id: String,
        /// Why not.
        #[source]
        source: MakeBlockError,
    },
    /// A tap device.
    #[error("no tap device for the network interface {id}")]
    Tap {
        /// Which interface.
        id: String,
        /// Why not.
        #[source]
        source: OpenTapError,
    },
    /// A network interface.
    #[error("no network interface {id}")]
    Network {
        /// Which.
        id: String,
        /// Why not.
        #[source]
        source: MakeNetError,
    },
    /// The balloon.
    #[error("no balloon")]
    Balloon(#[source] io::Error),
    /// The metadata service has no random numbers.
    #[error("no key for the metadata service's tokens")]
    MetadataKey(#[source] io::Error),
    /// The metadata service is not on an interface.
    #[error("no metadata service on the network interface {id}")]
    Metadata {
        /// Which.
        id: String,
        /// Why not.
        #[source]
        source: MakeDetourError,
    },
}

/// The socket of vsock, of a machine that may still not come to be: removed then, so that the next attempt does not find it taken.
#[derive(Debug)]
pub struct MadeSocket(Option<PathBuf>);

impl MadeSocket {
    /// The machine has come to be, and has the socket.
    pub fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for MadeSocket {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _gone = std::fs::remove_file(path);
        }
    }
}

/// Makes the devices of a configuration, in the order of their places: drives, network, vsock, entropy, balloon. The guest reads `metadata` where
/// the configuration has the service for it.
///
/// # Errors
/// See [`PlanError`].
pub fn devices(
    resources: &Resources,
    metadata: &SharedStore,
    files: &Files,
) -> Result<(Vec<Planned>, MadeSocket), PlanError> {
    let mut planned = Vec::new();
    let mut made = MadeSocket(None);
    for drive in &resources.drives {
        let id = drive.drive_id.to_string();
        let file = files.open("drive", &drive.path_on_host, drive_access(drive))?;
        warn_of_rest(&id, &file);
        let device = Block::new(&id, file, block_options(drive))
            .map_err(|source| PlanError::Drive { id: id.clone(), source })?;
        planned.push(Planned {
            id,
            device: Box::new(device),
        });
    }
    let mmds = match &resources.mmds_config {
        // A machine of its own, restored or not, has a service of its own: no tokens of others are good in it.
        Some(config) => Some((
            config,
            Arc::new(Service::new(config, Arc::clone(metadata)).map_err(PlanError::MetadataKey)?),
        )),
        None => None,
    };
    for interface in &resources.interfaces {
        let on_it = mmds
            .as_ref()
            .filter(|(config, _)| config.network_interfaces.contains(&interface.iface_id));
        planned.push(network(interface, files, on_it.map(|(_, service)| service))?);
    }
    if let Some(config) = &resources.vsock {
        let (listener, connector) = vsock_sockets(&config.uds_path, files)?;
        if let Place::Path(path) = config.uds_path.place() {
            made.0 = Some(path.to_owned());
        }
        let device = Vsock::new(VSOCK, config.guest_cid, listener, connector, vsock::Timeouts::default())
            .map_err(PlanError::Vsock)?;
        planned.push(Planned {
            id: VSOCK.to_owned(),
            device: Box::new(device),
        });
    }
    if let Some(config) = &resources.entropy {
        let mut device = Rng::new(Box::new(HostEntropy)).map_err(PlanError::Entropy)?;
        if let Some(limiter) = &config.rate_limiter {
            let limiter =
                DeviceLimiter::new(limits(limiter)).map_err(|error| PlanError::Entropy(io::Error::other(error)))?;
            device = device.with_allowance(Box::new(limiter));
        }
        planned.push(Planned {
            id: ENTROPY.to_owned(),
            device: Box::new(device),
        });
    }
    if let Some(config) = &resources.balloon {
        let options = BalloonOptions {
            target_mib: u64::from(config.amount_mib),
            deflate_on_oom: config.deflate_on_oom,
            statistics_interval_s: config.stats_polling_interval_s,
            reporting: config.free_page_reporting,
        };
        let memory_bytes = resources.machine.memory().bytes();
        let device = Balloon::new(options, memory_bytes).map_err(PlanError::Balloon)?;
        planned.push(Planned {
            id: BALLOON.to_owned(),
            device: Box::new(device),
        });
    }
    Ok((planned, made))
}

/// The socket for the host's clients, and what connects the guest's connections. With a descriptor there is no path beside which the guest's
/// could be, and they are refused.
fn vsock_sockets(at: &SocketPath, files: &Files) -> Result<(OwnedFd, Box<dyn Connector>), PlanError> {
    match at.place() {
        Place::Descriptor(number) => Ok((files.listener("vsock", number)?, Box::new(NoConnector))),
        Place::Path(path) => {
            files.reach("vsock", path)?;
            let listener = vsock::listen_at(path).map_err(|source| match files.failed("vsock", path, source) {
                // Nothing was to be opened.
                OpenFileError::Open { path, source, .. } => PlanError::Listen { path, source },
                outside => outside.into(),
            })?;
            Ok((listener, Box::new(PathConnector::new(path))))
        }
    }
}

fn tap(interface: &NetworkInterface, files: &Files) -> Result<Tap, PlanError> {
    let name = interface.host_dev_name.as_str();
    let opened = match interface.host_dev_name.descriptor() {
        Some(number) => Tap::from_descriptor(files.duplicate("tap device", number)?),
        None if files.reach == Reach::Nowhere => {
            let (what, path) = ("tap device", name.to_owned());
            return Err(OpenFileError::NoPaths { what, path }.into());
        }
        None => Tap::open(name),
    };
    opened.map_err(|source| PlanError::Tap {
        id: interface.iface_id.to_string(),
        source,
    })
}

/// What a drive's file is opened for.
#[must_use]
pub const fn drive_access(drive: &Drive) -> Access {
    Access::Disk {
        writable: !drive.is_read_only,
    }
}

/// Says that a drive's end is not shown to the guest: disks are of whole sectors.
fn warn_of_rest(id: &str, file: &File) {
    let bytes = file.metadata().map_or(0, |about| about.len());
    let rest = bytes % SECTOR_BYTES;
    if rest > 0 {
        tracing::warn!(
            "drive {id} has {bytes} bytes: the last {rest} are no whole sector, and the guest does not see them"
        );
    }
}

fn network(interface: &NetworkInterface, files: &Files, mmds: Option<&Arc<Service>>) -> Result<Planned, PlanError> {
    let id = interface.iface_id.to_string();
    let tap = tap(interface, files)?;
    let options = NetOptions {
        mac: interface.guest_mac.map(|mac| MacAddress(mac.bytes())),
        mtu: interface.mtu.map(|mtu| mtu.get()),
        receive_limiter: interface.rx_rate_limiter.as_ref().map(limits).unwrap_or_default(),
        transmit_limiter: interface.tx_rate_limiter.as_ref().map(limits).unwrap_or_default(),
    };
    let mut backend: Box<dyn Backend> = Box::new(tap);
    if let Some(service) = mmds {
        let detour = Detour::new(backend, Arc::clone(service), options.mtu);
        backend = Box::new(detour.map_err(|source| PlanError::Metadata { id: id.clone(), source })?);
    }
    let device = Net::new(&id, backend, options).map_err(|source| PlanError::Network { id: id.clone(), source })?;
    Ok(Planned {
        id,
        device: Box::new(device),
    })
}

fn block_options(drive: &Drive) -> BlockOptions {
    BlockOptions {
        is_read_only: drive.is_read_only,
        cache: match drive.cache_type {
            ringwall_vmm_proto::CacheType::Unsafe => CacheType::Unsafe,
            ringwall_vmm_proto::CacheType::Writeback => CacheType::Writeback,
        },
        is_direct: false,
        engine: match drive.io_engine {
            // Firecracker's Sync holds up its only device thread; threads of our own do the same without.
            IoEngine::Sync => EngineChoice::Only(Engine::Threads),
            IoEngine::Async => EngineChoice::Auto,
        },
        rate_limiter: drive.rate_limiter.as_ref().map(limits).unwrap_or_default(),
    }
}

/// A rate limiter in the devices' terms; a bucket that limits nothing is none.
#[must_use]
pub fn limits(limiter: &RateLimiter) -> RateLimiterSpec {
    RateLimiterSpec {
        bandwidth: limiter.bandwidth.filter(TokenBucket::is_limit).map(bucket),
        ops: limiter.ops.filter(TokenBucket::is_limit).map(bucket),
    }
}

/// A change of a rate limiter in the devices' terms: a bucket that limits nothing takes the limit away, and none leaves it as it is.
#[must_use]
pub fn limits_as_told(limiter: &RateLimiter) -> RateLimiterSpec {
    RateLimiterSpec {
        bandwidth: limiter.bandwidth.map(bucket),
        ops: limiter.ops.map(bucket),
    }
}

fn bucket(bucket: TokenBucket) -> BucketSpec {
    BucketSpec {
        size: bucket.size,
        one_time_burst: bucket.one_time_burst.unwrap_or(0),
        refill_time_ms: bucket.refill_time_ms,
    }
}
