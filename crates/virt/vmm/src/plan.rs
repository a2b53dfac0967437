//! From the configuration to devices: every path is opened here, and nothing is resolved later.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use ringwall_devices::rate_limiter::{BucketSpec, RateLimiter as DeviceLimiter, RateLimiterSpec};
use ringwall_devices::virtio::balloon::{Balloon, BalloonOptions};
use ringwall_devices::virtio::block::{Block, BlockOptions, CacheType, Engine, EngineChoice, MakeBlockError};
use ringwall_devices::virtio::net::{MacAddress, MakeNetError, Net, NetOptions, OpenTapError, Tap};
use ringwall_devices::virtio::rng::{HostEntropy, Rng};
use ringwall_devices::virtio::vsock::{self, PathConnector, Vsock};
use ringwall_vmm_proto::{Drive, IoEngine, NetworkInterface, RateLimiter, Resources, TokenBucket};
use thiserror::Error;

use crate::machine::Planned;
use crate::open::{self, OpenError};

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
    /// A file can't be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
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

/// Makes the devices of a configuration, in the order of their places: drives, network, vsock, entropy, balloon.
///
/// # Errors
/// See [`PlanError`].
pub fn devices(resources: &Resources) -> Result<(Vec<Planned>, MadeSocket), PlanError> {
    let mut planned = Vec::new();
    let mut made = MadeSocket(None);
    for drive in &resources.drives {
        let id = drive.drive_id.to_string();
        let file = open::disk(drive.path_on_host.as_path(), !drive.is_read_only)?;
        warn_of_rest(&id, &file);
        let device = Block::new(&id, file, block_options(drive))
            .map_err(|source| PlanError::Drive { id: id.clone(), source })?;
        planned.push(Planned {
            id,
            device: Box::new(device),
        });
    }
    for interface in &resources.interfaces {
        planned.push(network(interface)?);
    }
    if let Some(config) = &resources.vsock {
        let path = config.uds_path.as_str();
        let listener = vsock::listen_at(Path::new(path)).map_err(|source| PlanError::Listen {
            path: path.to_owned(),
            source,
        })?;
        made.0 = Some(PathBuf::from(path));
        let connector = Box::new(PathConnector::new(path));
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

fn network(interface: &NetworkInterface) -> Result<Planned, PlanError> {
    let id = interface.iface_id.to_string();
    let tap =
        Tap::open(interface.host_dev_name.as_str()).map_err(|source| PlanError::Tap { id: id.clone(), source })?;
    let options = NetOptions {
        mac: interface.guest_mac.map(|mac| MacAddress(mac.bytes())),
        mtu: interface.mtu.map(|mtu| mtu.get()),
        receive_limiter: interface.rx_rate_limiter.as_ref().map(limits).unwrap_or_default(),
        transmit_limiter: interface.tx_rate_limiter.as_ref().map(limits).unwrap_or_default(),
    };
    let device =
        Net::new(&id, Box::new(tap), options).map_err(|source| PlanError::Network { id: id.clone(), source })?;
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
