//! `GET /vm/config`: all that was configured, under the keys of a configuration file.

use serde::Serialize;

use crate::balloon::BalloonConfig;
use crate::boot_source::BootSource;
use crate::drive::Drive;
use crate::entropy::Entropy;
use crate::machine::MachineConfig;
use crate::mmds::MmdsConfig;
use crate::network::NetworkInterface;
use crate::resources::Resources;
use crate::serial::Serial;
use crate::vsock::Vsock;

/// All that was configured. What wasn't is null; logger and metrics always are (Firecracker doesn't say them either).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the fields are the configuration's parts")]
pub struct FullConfig {
    pub balloon: Option<BalloonConfig>,
    pub drives: Vec<Drive>,
    pub boot_source: Option<BootSource>,
    pub cpu_config: Option<()>,
    pub logger: Option<()>,
    pub machine_config: MachineConfig,
    pub metrics: Option<()>,
    pub mmds_config: Option<MmdsConfig>,
    pub network_interfaces: Vec<NetworkInterface>,
    pub vsock: Option<Vsock>,
    pub entropy: Option<Entropy>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<Serial>,
}

impl From<&Resources> for FullConfig {
    fn from(resources: &Resources) -> Self {
        Self {
            balloon: resources.balloon,
            drives: resources.drives.clone(),
            boot_source: resources.boot_source.clone(),
            cpu_config: None,
            logger: None,
            machine_config: resources.machine,
            metrics: None,
            mmds_config: resources.mmds_config.clone(),
            network_interfaces: resources.interfaces.clone(),
            vsock: resources.vsock.clone(),
            entropy: resources.entropy,
            serial: resources.serial.clone(),
        }
    }
}
