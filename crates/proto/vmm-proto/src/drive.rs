//! `/drives/{id}`: block devices.

use serde::{Deserialize, Serialize};

use crate::error::ValueError;
use crate::name::ResourceId;
use crate::path::HostPath;
use crate::rate_limiter::{RateLimiter, WireLimiter};

/// Longest `partuuid` in bytes: a UUID (36), or an MBR's id and `/PARTNROFF=` with a number (block/early-lookup.c).
pub const MAX_PARTUUID_BYTES: usize = 64;

/// What a guest's flush does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum CacheType {
    /// Nothing: the host may lose what was written.
    #[default]
    Unsafe,
    /// It reaches the disk.
    Writeback,
}

/// How the file is read and written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum IoEngine {
    /// By blocking calls.
    #[default]
    Sync,
    /// By io_uring.
    Async,
}

/// The body of PUT.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(crate) struct WireDrive {
    pub(crate) drive_id: String,
    is_root_device: bool,
    #[serde(default)]
    partuuid: Option<String>,
    #[serde(default)]
    cache_type: CacheType,
    #[serde(default)]
    is_read_only: Option<bool>,
    #[serde(default)]
    path_on_host: Option<String>,
    #[serde(default)]
    rate_limiter: Option<WireLimiter>,
    #[serde(default)]
    io_engine: Option<IoEngine>,
    #[serde(default)]
    socket: Option<String>,
}

/// The body of PATCH.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(crate) struct WireDriveUpdate {
    pub(crate) drive_id: String,
    #[serde(default)]
    path_on_host: Option<String>,
    #[serde(default)]
    rate_limiter: Option<WireLimiter>,
}

/// A block device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Drive {
    /// Its id.
    pub drive_id: ResourceId,
    /// The file or block device behind it.
    pub path_on_host: HostPath,
    /// Whether the kernel command line names it as the root.
    pub is_root_device: bool,
    /// The partition that is the root, if it isn't the whole device.
    pub partuuid: Option<String>,
    /// Whether the guest can't write to it.
    pub is_read_only: bool,
    /// What a flush does.
    pub cache_type: CacheType,
    /// How the file is used.
    pub io_engine: IoEngine,
    /// Its limits.
    pub rate_limiter: Option<RateLimiter>,
}

/// Changes to a block device of a running machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DriveUpdate {
    /// Which.
    pub drive_id: ResourceId,
    /// The new file; the same one again if it has got another size.
    pub path_on_host: Option<HostPath>,
    /// New limits.
    pub rate_limiter: Option<RateLimiter>,
}

impl WireDrive {
    /// The drive with its checked id.
    pub(crate) fn check(self, drive_id: ResourceId) -> Result<Drive, ValueError> {
        if self.socket.is_some() {
            return Err(ValueError::VhostUserDrive);
        }
        let path = self.path_on_host.ok_or(ValueError::NoDrivePath)?;
        if self.partuuid.as_deref().is_some_and(|uuid| !is_partition(uuid)) {
            return Err(ValueError::PartUuid);
        }
        Ok(Drive {
            drive_id,
            path_on_host: HostPath::new("path_on_host", path)?,
            is_root_device: self.is_root_device,
            partuuid: self.partuuid,
            is_read_only: self.is_read_only.unwrap_or(false),
            cache_type: self.cache_type,
            io_engine: self.io_engine.unwrap_or_default(),
            rate_limiter: RateLimiter::from_wire(self.rate_limiter)?,
        })
    }
}

impl WireDriveUpdate {
    /// The update with its checked id.
    pub(crate) fn check(self, drive_id: ResourceId) -> Result<DriveUpdate, ValueError> {
        Ok(DriveUpdate {
            drive_id,
            path_on_host: self
                .path_on_host
                .map(|path| HostPath::new("path_on_host", path))
                .transpose()?,
            rate_limiter: RateLimiter::from_wire(self.rate_limiter)?,
        })
    }
}

/// Whether it names a partition and nothing else: it becomes part of the kernel command line, where white space would start another parameter.
fn is_partition(uuid: &str) -> bool {
    let fits = !uuid.is_empty() && uuid.len() <= MAX_PARTUUID_BYTES;
    fits && uuid
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'/' | b'='))
}
