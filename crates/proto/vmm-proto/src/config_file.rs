//! `--config-file`: the same objects as the API's bodies, in one JSON object under Firecracker's keys.

use std::collections::BTreeSet;

use serde::Deserialize;

use crate::action::Action;
use crate::balloon::WireBalloon;
use crate::boot_source::WireBootSource;
use crate::drive::WireDrive;
use crate::entropy::WireEntropy;
use crate::error::ValueError;
use crate::logger::WireLogger;
use crate::machine::WireMachine;
use crate::metrics::WireMetrics;
use crate::mmds::WireMmdsConfig;
use crate::name::ResourceId;
use crate::network::WireInterface;
use crate::path::HostPath;
use crate::resources::MAX_DEVICES_OF_A_KIND;
use crate::serial::WireSerial;
use crate::vsock::WireVsock;

/// Largest file in bytes. Ours: far more than all devices need.
pub const MAX_FILE_BYTES: usize = 1 << 20;

/// The file, as written. Keys that aren't known are refused: a device that is silently missing is worse than a machine that doesn't start.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, expecting = "an object")]
struct WireFile {
    boot_source: WireBootSource,
    #[serde(default)]
    balloon: Option<WireBalloon>,
    #[serde(default)]
    cpu_config: Option<String>,
    #[serde(default)]
    drives: Option<Vec<WireDrive>>,
    #[serde(default)]
    entropy: Option<WireEntropy>,
    #[serde(default)]
    logger: Option<WireLogger>,
    #[serde(default)]
    machine_config: Option<WireMachine>,
    #[serde(default)]
    metrics: Option<WireMetrics>,
    #[serde(default)]
    mmds_config: Option<WireMmdsConfig>,
    #[serde(default)]
    network_interfaces: Option<Vec<WireInterface>>,
    #[serde(default)]
    serial: Option<WireSerial>,
    #[serde(default)]
    vsock: Option<WireVsock>,
}

/// Why a configuration file isn't one.
#[derive(Debug, thiserror::Error)]
pub enum ConfigFileError {
    /// It is too long.
    #[error("the configuration file has {got} bytes; at most {max}", max = MAX_FILE_BYTES)]
    TooLong {
        /// Its length in bytes.
        got: usize,
    },
    /// It isn't JSON, or lacks fields, or has too many, or of other types. The text is part of this error's.
    #[error("the configuration file isn't what it should be: {0}")]
    Json(serde_json::Error),
    /// A field has a value that can't be.
    #[error("the configuration file's {key}: {error}")]
    Value {
        /// The key at the top.
        key: &'static str,
        /// What is wrong.
        error: ValueError,
    },
}

/// A checked configuration file.
#[derive(Debug, Clone, PartialEq)]
pub struct ConfigFile {
    /// What it asks for, in an order in which each may be done: log and counters first, then devices before what names them.
    pub actions: Vec<Action>,
    /// The file with the CPU template, to be read as the body of `PUT /cpu-config`.
    pub cpu_config: Option<HostPath>,
}

impl ConfigFile {
    /// Reads a file's contents.
    ///
    /// # Errors
    /// It is too long, isn't JSON of this form, or has values that can't be.
    pub fn parse(contents: &[u8]) -> Result<Self, ConfigFileError> {
        if contents.len() > MAX_FILE_BYTES {
            return Err(ConfigFileError::TooLong { got: contents.len() });
        }
        let file: WireFile = serde_json::from_slice(contents).map_err(ConfigFileError::Json)?;
        let mut actions = Vec::new();
        if let Some(logger) = file.logger {
            actions.push(logger.try_into().map(Action::SetLogger).map_err(at("logger"))?);
        }
        if let Some(metrics) = file.metrics {
            actions.push(metrics.try_into().map(Action::SetMetrics).map_err(at("metrics"))?);
        }
        if let Some(machine) = file.machine_config {
            actions.push(
                machine
                    .try_into()
                    .map(Action::SetMachine)
                    .map_err(at("machine-config"))?,
            );
        }
        actions.push(
            file.boot_source
                .try_into()
                .map(Action::SetBootSource)
                .map_err(at("boot-source"))?,
        );
        push_drives(&mut actions, file.drives.unwrap_or_default()).map_err(at("drives"))?;
        push_interfaces(&mut actions, file.network_interfaces.unwrap_or_default()).map_err(at("network-interfaces"))?;
        if let Some(vsock) = file.vsock {
            actions.push(vsock.try_into().map(Action::SetVsock).map_err(at("vsock"))?);
        }
        if let Some(balloon) = file.balloon {
            actions.push(balloon.try_into().map(Action::SetBalloon).map_err(at("balloon"))?);
        }
        if let Some(entropy) = file.entropy {
            actions.push(entropy.try_into().map(Action::SetEntropy).map_err(at("entropy"))?);
        }
        if let Some(serial) = file.serial {
            actions.push(serial.try_into().map(Action::SetSerial).map_err(at("serial"))?);
        }
        if let Some(mmds) = file.mmds_config {
            let checked = mmds.check(|id| ResourceId::from_file("network_interfaces", id));
            actions.push(checked.map(Action::SetMmdsConfig).map_err(at("mmds-config"))?);
        }
        let path = |path| HostPath::new("cpu-config", path);
        let cpu_config = file.cpu_config.map(path).transpose().map_err(at("cpu-config"))?;
        Ok(Self { actions, cpu_config })
    }
}

fn at(key: &'static str) -> impl Fn(ValueError) -> ConfigFileError {
    move |error| ConfigFileError::Value { key, error }
}

fn push_drives(actions: &mut Vec<Action>, drives: Vec<WireDrive>) -> Result<(), ValueError> {
    short("drives", drives.len())?;
    let mut seen = BTreeSet::new();
    for drive in drives {
        let id = ResourceId::from_file("drive_id", &drive.drive_id)?;
        once("drive_id", &drive.drive_id, &mut seen)?;
        actions.push(Action::InsertDrive(drive.check(id)?));
    }
    Ok(())
}

fn push_interfaces(actions: &mut Vec<Action>, interfaces: Vec<WireInterface>) -> Result<(), ValueError> {
    short("network-interfaces", interfaces.len())?;
    let mut seen = BTreeSet::new();
    for interface in interfaces {
        let id = ResourceId::from_file("iface_id", &interface.iface_id)?;
        once("iface_id", &interface.iface_id, &mut seen)?;
        actions.push(Action::InsertNetworkInterface(interface.check(id)?));
    }
    Ok(())
}

/// A client may put a device again to change it; in a file the second of a name is a mistake, and one device would silently be missing.
fn once(field: &'static str, id: &str, seen: &mut BTreeSet<String>) -> Result<(), ValueError> {
    if seen.insert(id.to_owned()) {
        return Ok(());
    }
    Err(ValueError::DeviceTwice {
        field,
        id: id.to_owned(),
    })
}

fn short(field: &'static str, got: usize) -> Result<(), ValueError> {
    if got > MAX_DEVICES_OF_A_KIND {
        return Err(ValueError::LongList {
            field,
            got,
            max: MAX_DEVICES_OF_A_KIND,
        });
    }
    Ok(())
}
