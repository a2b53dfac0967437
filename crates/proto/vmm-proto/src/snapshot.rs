//! `/snapshot/create` and `/snapshot/load`.

use serde::Deserialize;

use crate::error::ValueError;
use crate::name::ResourceId;
use crate::network::DeviceName;
use crate::path::{HostPath, SocketPath};
use crate::vsock;

/// Most interfaces, and most drives, that one load can change. Ours: more than devices fit on the bus.
const MAX_OVERRIDES: usize = 64;

/// What is in a snapshot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub enum SnapshotKind {
    /// All memory that the guest ever used.
    #[default]
    Full,
    /// What was written since the snapshot before.
    Diff,
}

/// The body of PUT /snapshot/create.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(crate) struct WireCreate {
    #[serde(default)]
    snapshot_type: SnapshotKind,
    snapshot_path: String,
    mem_file_path: String,
}

/// Where a snapshot is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateSnapshot {
    /// What is in it.
    pub kind: SnapshotKind,
    /// The file for the machine's state.
    pub snapshot_path: HostPath,
    /// The file for the memory.
    pub mem_file_path: HostPath,
}

impl TryFrom<WireCreate> for CreateSnapshot {
    type Error = ValueError;

    fn try_from(wire: WireCreate) -> Result<Self, ValueError> {
        // Only what can be seen without looking; two names of one file are for the writer to notice.
        if wire.snapshot_path == wire.mem_file_path {
            return Err(ValueError::SameSnapshotFile);
        }
        Ok(Self {
            kind: wire.snapshot_type,
            snapshot_path: HostPath::new("snapshot_path", wire.snapshot_path)?,
            mem_file_path: HostPath::new("mem_file_path", wire.mem_file_path)?,
        })
    }
}

#[derive(Debug, Clone, Copy, Deserialize)]
enum WireBackendType {
    File,
    Uffd,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
struct WireBackend {
    backend_type: WireBackendType,
    backend_path: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
struct WireNetworkOverride {
    iface_id: String,
    host_dev_name: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
struct WireVsockOverride {
    uds_path: String,
}

/// Ours: Firecracker has no such field.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
struct WireDriveOverride {
    drive_id: String,
    path_on_host: String,
}

/// The body of PUT /snapshot/load.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(crate) struct WireLoad {
    snapshot_path: String,
    #[serde(default)]
    mem_file_path: Option<String>,
    #[serde(default)]
    mem_backend: Option<WireBackend>,
    #[serde(default)]
    enable_diff_snapshots: Option<bool>,
    #[serde(default)]
    track_dirty_pages: bool,
    #[serde(default)]
    resume_vm: bool,
    #[serde(default)]
    network_overrides: Vec<WireNetworkOverride>,
    #[serde(default)]
    vsock_override: Option<WireVsockOverride>,
    #[serde(default)]
    drive_overrides: Vec<WireDriveOverride>,
    #[serde(default)]
    clock_realtime: bool,
}

/// Where a restored guest's memory comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemoryBackend {
    /// A file, mapped copy-on-write.
    File(HostPath),
    /// A process that listens here and answers page faults.
    Uffd(SocketPath),
}

/// An interface that gets another tap device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkOverride {
    /// Which.
    pub iface_id: ResourceId,
    /// The tap device.
    pub host_dev_name: DeviceName,
}

/// A drive that gets another file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DriveOverride {
    /// Which.
    pub drive_id: ResourceId,
    /// The file; it must have in it what the snapshot's had, which nobody looks at.
    pub path_on_host: HostPath,
}

/// A snapshot to be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadSnapshot {
    /// The machine's state.
    pub snapshot_path: HostPath,
    /// Its memory.
    pub memory: MemoryBackend,
    /// Whether written pages are counted from now on.
    pub track_dirty_pages: bool,
    /// Whether the machine runs at once.
    pub resume_vm: bool,
    /// Interfaces that get other tap devices; none twice.
    pub network_overrides: Vec<NetworkOverride>,
    /// The vsock's new path.
    pub vsock_override: Option<SocketPath>,
    /// Drives that get other files; none twice.
    pub drive_overrides: Vec<DriveOverride>,
    /// Whether the guest's clocks step by the time that has passed since the snapshot was made; Firecracker has it for x86_64 only.
    pub clock_realtime: bool,
}

impl WireLoad {
    /// Whether a field is used that clients shouldn't use any more.
    pub(crate) fn is_deprecated(&self) -> bool {
        self.mem_file_path.is_some() || self.enable_diff_snapshots.is_some()
    }
}

impl TryFrom<WireLoad> for LoadSnapshot {
    type Error = ValueError;

    fn try_from(wire: WireLoad) -> Result<Self, ValueError> {
        let memory = match (wire.mem_backend, wire.mem_file_path) {
            (None, Some(path)) => MemoryBackend::File(HostPath::new("mem_file_path", path)?),
            (Some(backend), None) => match backend.backend_type {
                WireBackendType::File => MemoryBackend::File(HostPath::new("backend_path", backend.backend_path)?),
                WireBackendType::Uffd => MemoryBackend::Uffd(SocketPath::new("backend_path", backend.backend_path, 0)?),
            },
            (None, None) | (Some(_), Some(_)) => return Err(ValueError::MemoryBackend),
        };
        Ok(Self {
            snapshot_path: HostPath::new("snapshot_path", wire.snapshot_path)?,
            memory,
            track_dirty_pages: wire.track_dirty_pages || wire.enable_diff_snapshots.unwrap_or(false),
            resume_vm: wire.resume_vm,
            network_overrides: overrides(wire.network_overrides)?,
            vsock_override: wire
                .vsock_override
                .map(|vsock| vsock::override_path(vsock.uds_path))
                .transpose()?,
            drive_overrides: drive_overrides(wire.drive_overrides)?,
            clock_realtime: wire.clock_realtime,
        })
    }
}

fn overrides(wire: Vec<WireNetworkOverride>) -> Result<Vec<NetworkOverride>, ValueError> {
    let field = "network_overrides";
    if wire.len() > MAX_OVERRIDES {
        return Err(ValueError::LongList {
            field,
            got: wire.len(),
            max: MAX_OVERRIDES,
        });
    }
    let mut checked: Vec<NetworkOverride> = Vec::with_capacity(wire.len());
    for WireNetworkOverride {
        iface_id,
        host_dev_name,
    } in wire
    {
        // Ids of a configuration file may be in the snapshot, so these are checked as those are.
        let iface_id = ResourceId::from_file("iface_id", &iface_id)?;
        if checked.iter().any(|known| known.iface_id == iface_id) {
            return Err(ValueError::RepeatedId {
                field,
                id: iface_id.to_string(),
            });
        }
        checked.push(NetworkOverride {
            iface_id,
            host_dev_name: DeviceName::new(host_dev_name)?,
        });
    }
    Ok(checked)
}

fn drive_overrides(wire: Vec<WireDriveOverride>) -> Result<Vec<DriveOverride>, ValueError> {
    let field = "drive_overrides";
    if wire.len() > MAX_OVERRIDES {
        return Err(ValueError::LongList {
            field,
            got: wire.len(),
            max: MAX_OVERRIDES,
        });
    }
    let mut checked: Vec<DriveOverride> = Vec::with_capacity(wire.len());
    for WireDriveOverride { drive_id, path_on_host } in wire {
        let drive_id = ResourceId::from_file("drive_id", &drive_id)?;
        if checked.iter().any(|known| known.drive_id == drive_id) {
            return Err(ValueError::RepeatedId {
                field,
                id: drive_id.to_string(),
            });
        }
        checked.push(DriveOverride {
            drive_id,
            path_on_host: HostPath::new("drive_overrides.path_on_host", path_on_host)?,
        });
    }
    Ok(checked)
}
