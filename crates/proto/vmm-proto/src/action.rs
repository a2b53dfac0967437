//! What a request asks for, checked.

use serde_json::{Map, Value};

use crate::balloon::{BalloonConfig, BalloonStatisticsUpdate, BalloonUpdate};
use crate::boot_source::BootSource;
use crate::cpu::CpuTemplate;
use crate::drive::{Drive, DriveUpdate};
use crate::entropy::Entropy;
use crate::logger::Logger;
use crate::machine::{MachineConfig, MachineUpdate};
use crate::metrics::Metrics;
use crate::mmds::MmdsConfig;
use crate::network::{DeviceName, NetworkInterface, NetworkUpdate};
use crate::path::HostPath;
use crate::serial::Serial;
use crate::snapshot::{CreateSnapshot, LoadSnapshot};
use crate::vsock::Vsock;

/// What a request asks for. When each may be asked for says [`Legal`](crate::state::Legal).
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// GET /
    DescribeInstance,
    /// GET /version
    DescribeVersion,
    /// GET /machine-config
    DescribeMachine,
    /// GET /balloon
    DescribeBalloon,
    /// GET /balloon/statistics
    DescribeBalloonStatistics,
    /// GET /vm/config
    DescribeConfig,
    /// GET /mmds
    ReadMmds,
    /// PUT /boot-source
    SetBootSource(BootSource),
    /// PUT /machine-config
    SetMachine(MachineConfig),
    /// PATCH /machine-config
    UpdateMachine(MachineUpdate),
    /// PUT /cpu-config
    SetCpuTemplate(CpuTemplate),
    /// PUT /drives/{id}
    InsertDrive(Drive),
    /// PATCH /drives/{id}
    UpdateDrive(DriveUpdate),
    /// PUT /network-interfaces/{id}
    InsertNetworkInterface(NetworkInterface),
    /// PATCH /network-interfaces/{id}
    UpdateNetworkInterface(NetworkUpdate),
    /// PUT /vsock
    SetVsock(Vsock),
    /// PUT /entropy
    SetEntropy(Entropy),
    /// PUT /balloon
    SetBalloon(BalloonConfig),
    /// PATCH /balloon
    UpdateBalloon(BalloonUpdate),
    /// PATCH /balloon/statistics
    UpdateBalloonStatistics(BalloonStatisticsUpdate),
    /// PUT /serial
    SetSerial(Serial),
    /// PUT /logger
    SetLogger(Logger),
    /// PUT /metrics
    SetMetrics(Metrics),
    /// PUT /mmds/config
    SetMmdsConfig(MmdsConfig),
    /// PUT /mmds
    PutMmds(Map<String, Value>),
    /// PATCH /mmds
    PatchMmds(Map<String, Value>),
    /// PUT /actions, `InstanceStart`
    Start,
    /// PUT /actions, `FlushMetrics`
    FlushMetrics,
    /// PUT /actions, `SendCtrlAltDel`
    SendCtrlAltDel,
    /// PATCH /vm, `Paused`
    Pause,
    /// PATCH /vm, `Resumed`
    Resume,
    /// PUT /snapshot/create
    CreateSnapshot(CreateSnapshot),
    /// PUT /snapshot/load
    LoadSnapshot(LoadSnapshot),
}

/// Something on the host that an action names. Whoever may look at the host can refuse the request at once, as Firecracker does, and not only
/// when the machine starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Need<'a> {
    /// A file that is read.
    ReadableFile(&'a HostPath),
    /// A file that is read and written.
    WritableFile(&'a HostPath),
    /// A tap device.
    Tap(&'a DeviceName),
}

impl Action {
    /// What must be there for the machine to start with this.
    pub fn needs(&self) -> Vec<Need<'_>> {
        match self {
            Self::SetBootSource(boot) => {
                let initrd = boot.initrd.iter().map(Need::ReadableFile);
                std::iter::once(Need::ReadableFile(&boot.kernel))
                    .chain(initrd)
                    .collect()
            }
            Self::InsertDrive(drive) if drive.is_read_only => vec![Need::ReadableFile(&drive.path_on_host)],
            Self::InsertDrive(drive) => vec![Need::WritableFile(&drive.path_on_host)],
            Self::InsertNetworkInterface(interface) => vec![Need::Tap(&interface.host_dev_name)],
            _ => Vec::new(),
        }
    }

    /// Whether a snapshot can't be loaded any more after this: it configures what the snapshot would bring.
    pub const fn configures_boot(&self) -> bool {
        matches!(
            self,
            Self::SetBootSource(_)
                | Self::SetMachine(_)
                | Self::UpdateMachine(_)
                | Self::InsertDrive(_)
                | Self::InsertNetworkInterface(_)
                | Self::SetVsock(_)
                | Self::SetEntropy(_)
                | Self::SetBalloon(_)
                | Self::SetMmdsConfig(_)
                | Self::SetCpuTemplate(_)
        )
    }
}
