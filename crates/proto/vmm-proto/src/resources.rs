//! The configuration that actions add up to before the machine starts, and how each may change it.

use crate::action::Action;
use crate::architecture::Architecture;
use crate::balloon::BalloonConfig;
use crate::boot_source::BootSource;
use crate::drive::Drive;
use crate::entropy::Entropy;
use crate::error::ValueError;
use crate::machine::{MachineConfig, MachineUpdate};
use crate::mmds::MmdsConfig;
use crate::network::NetworkInterface;
use crate::serial::Serial;
use crate::snapshot::LoadSnapshot;
use crate::vsock::Vsock;

/// Most drives, and most interfaces. Ours: bounds what a client can make us keep; how many devices fit on the bus is found out at the start.
pub const MAX_DEVICES_OF_A_KIND: usize = 64;

/// Everything that a machine is made of. Made by [`Resources::configure`], or by the VMM from a snapshot.
#[derive(Debug, Clone, PartialEq)]
pub struct Resources {
    /// vCPUs and memory.
    pub machine: MachineConfig,
    /// What boots; none before it was said, and none after a restore.
    pub boot_source: Option<BootSource>,
    /// Block devices, the root first.
    pub drives: Vec<Drive>,
    /// Network devices, in the order of their first PUT.
    pub interfaces: Vec<NetworkInterface>,
    /// The socket device.
    pub vsock: Option<Vsock>,
    /// The entropy device.
    pub entropy: Option<Entropy>,
    /// The balloon.
    pub balloon: Option<BalloonConfig>,
    /// The console.
    pub serial: Option<Serial>,
    /// The metadata service.
    pub mmds_config: Option<MmdsConfig>,
    architecture: Architecture,
}

/// Why a configuration isn't changed so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigureError {
    /// The parts of the machine don't fit each other.
    #[error(transparent)]
    Value(#[from] ValueError),
    /// Threads where there are none.
    #[error("smt can't be had on this architecture")]
    NoSmt,
    /// The balloon would hold more than there is.
    #[error("a balloon of {balloon_mib} MiB is larger than the memory of {memory_mib} MiB")]
    BalloonTooLarge {
        /// The balloon in MiB.
        balloon_mib: u32,
        /// The memory in MiB.
        memory_mib: u64,
    },
    /// Two drives would be the root.
    #[error("drive {known} is the root device already")]
    SecondRoot {
        /// The one that is.
        known: String,
    },
    /// Two interfaces would have one address.
    #[error("interface {known} has the guest_mac {mac} already")]
    MacInUse {
        /// The one that has it.
        known: String,
        /// The address.
        mac: String,
    },
    /// Two interfaces would use one tap device.
    #[error("interface {known} uses the host_dev_name {device} already")]
    DeviceInUse {
        /// The one that uses it.
        known: String,
        /// The device.
        device: String,
    },
    /// More devices than are taken.
    #[error("there are {max} {kind} already")]
    TooMany {
        /// Of what.
        kind: &'static str,
        /// How many.
        max: usize,
    },
    /// A load changes an interface that isn't there.
    #[error("network_overrides names {id}, and the snapshot has no such interface")]
    NoInterfaceToOverride {
        /// The id.
        id: String,
    },
    /// A load changes a drive that isn't there.
    #[error("drive_overrides names {id}, and the snapshot has no such drive")]
    NoDriveToOverride {
        /// The id.
        id: String,
    },
    /// A load changes a vsock that isn't there.
    #[error("vsock_override is given, and the snapshot has no vsock")]
    NoVsockToOverride,
    /// The metadata service on an interface that isn't there.
    #[error("network_interfaces names {id}, and there is no such interface")]
    NoSuchInterface {
        /// The id.
        id: String,
    },
}

impl Resources {
    /// What there is before anybody said anything.
    pub fn new(architecture: Architecture) -> Self {
        Self {
            machine: MachineConfig::default(),
            boot_source: None,
            drives: Vec::new(),
            interfaces: Vec::new(),
            vsock: None,
            entropy: None,
            balloon: None,
            serial: None,
            mmds_config: None,
            architecture,
        }
    }

    /// Changes what a load changes of a snapshot's configuration: tap devices, the vsock's path, drives' files, whether written pages are counted. For the VMM,
    /// with the configuration that was in the snapshot, before it makes the devices.
    ///
    /// # Errors
    /// An override is for something that isn't in the snapshot, or two interfaces would use one tap device; nothing is changed then.
    pub fn apply_load(&mut self, load: &LoadSnapshot) -> Result<(), ConfigureError> {
        let mut changed = self.clone();
        for change in &load.network_overrides {
            let known = changed
                .interfaces
                .iter_mut()
                .find(|known| known.iface_id == change.iface_id);
            let unknown = || ConfigureError::NoInterfaceToOverride {
                id: change.iface_id.to_string(),
            };
            known.ok_or_else(unknown)?.host_dev_name = change.host_dev_name.clone();
        }
        for (index, interface) in changed.interfaces.iter().enumerate() {
            let mut others = changed.interfaces.iter().take(index);
            if let Some(known) = others.find(|known| known.host_dev_name == interface.host_dev_name) {
                let device = interface.host_dev_name.as_str().to_owned();
                return Err(ConfigureError::DeviceInUse {
                    known: known.iface_id.to_string(),
                    device,
                });
            }
        }
        if let Some(path) = &load.vsock_override {
            changed
                .vsock
                .as_mut()
                .ok_or(ConfigureError::NoVsockToOverride)?
                .uds_path = path.clone();
        }
        for change in &load.drive_overrides {
            let known = changed
                .drives
                .iter_mut()
                .find(|known| known.drive_id == change.drive_id);
            let unknown = || ConfigureError::NoDriveToOverride {
                id: change.drive_id.to_string(),
            };
            known.ok_or_else(unknown)?.path_on_host = change.path_on_host.clone();
        }
        let tracking = MachineUpdate {
            track_dirty_pages: Some(load.track_dirty_pages),
            ..MachineUpdate::default()
        };
        changed.machine = changed.machine.updated(&tracking)?;
        *self = changed;
        Ok(())
    }

    /// The drive that is the root.
    pub fn root_drive(&self) -> Option<&Drive> {
        self.drives.iter().find(|drive| drive.is_root_device)
    }

    /// Adds what an action configures, and gives back actions that configure nothing here.
    ///
    /// # Errors
    /// It doesn't fit the rest; nothing is changed then.
    pub fn configure(&mut self, action: Action) -> Result<Option<Action>, ConfigureError> {
        match action {
            Action::SetBootSource(boot) => self.boot_source = Some(boot),
            Action::SetMachine(machine) => self.set_machine(machine)?,
            Action::UpdateMachine(update) => self.set_machine(self.machine.updated(&update)?)?,
            // Only a template that changes nothing is an action at all.
            Action::SetCpuTemplate(_) => {}
            Action::InsertDrive(drive) => self.insert_drive(drive)?,
            Action::InsertNetworkInterface(interface) => self.insert_interface(interface)?,
            Action::SetVsock(vsock) => self.vsock = Some(vsock),
            Action::SetEntropy(entropy) => self.entropy = Some(entropy),
            Action::SetBalloon(balloon) => {
                fits(balloon.amount_mib, &self.machine)?;
                self.balloon = Some(balloon);
            }
            Action::SetSerial(serial) => self.serial = Some(serial),
            Action::SetMmdsConfig(config) => self.set_mmds_config(config)?,
            other => return Ok(Some(other)),
        }
        Ok(None)
    }

    fn set_machine(&mut self, machine: MachineConfig) -> Result<(), ConfigureError> {
        if machine.smt() && !self.architecture.has_smt() {
            return Err(ConfigureError::NoSmt);
        }
        if let Some(balloon) = &self.balloon {
            fits(balloon.amount_mib, &machine)?;
        }
        self.machine = machine;
        Ok(())
    }

    /// A drive with a known id replaces that one. The root is always the first, so that it is the first disk of the guest.
    fn insert_drive(&mut self, drive: Drive) -> Result<(), ConfigureError> {
        let other_root = self
            .root_drive()
            .filter(|root| drive.is_root_device && root.drive_id != drive.drive_id);
        if let Some(root) = other_root {
            return Err(ConfigureError::SecondRoot {
                known: root.drive_id.to_string(),
            });
        }
        let is_root = drive.is_root_device;
        let is_full = self.drives.len() >= MAX_DEVICES_OF_A_KIND;
        match self.drives.iter_mut().find(|known| known.drive_id == drive.drive_id) {
            Some(known) => *known = drive,
            None if is_full => {
                return Err(ConfigureError::TooMany {
                    kind: "drives",
                    max: MAX_DEVICES_OF_A_KIND,
                });
            }
            None => self.drives.push(drive),
        }
        if is_root {
            self.drives.sort_by_key(|drive| !drive.is_root_device);
        }
        Ok(())
    }

    /// An interface with a known id replaces that one.
    fn insert_interface(&mut self, interface: NetworkInterface) -> Result<(), ConfigureError> {
        for known in self
            .interfaces
            .iter()
            .filter(|known| known.iface_id != interface.iface_id)
        {
            if let Some(mac) = interface.guest_mac.filter(|mac| known.guest_mac == Some(*mac)) {
                return Err(ConfigureError::MacInUse {
                    known: known.iface_id.to_string(),
                    mac: mac.to_string(),
                });
            }
            if known.host_dev_name == interface.host_dev_name {
                let device = interface.host_dev_name.as_str().to_owned();
                return Err(ConfigureError::DeviceInUse {
                    known: known.iface_id.to_string(),
                    device,
                });
            }
        }
        let is_full = self.interfaces.len() >= MAX_DEVICES_OF_A_KIND;
        match self
            .interfaces
            .iter_mut()
            .find(|known| known.iface_id == interface.iface_id)
        {
            Some(known) => *known = interface,
            None if is_full => {
                return Err(ConfigureError::TooMany {
                    kind: "network interfaces",
                    max: MAX_DEVICES_OF_A_KIND,
                });
            }
            None => self.interfaces.push(interface),
        }
        Ok(())
    }

    fn set_mmds_config(&mut self, config: MmdsConfig) -> Result<(), ConfigureError> {
        let unknown = |id: &&_| self.interfaces.iter().all(|known| known.iface_id != **id);
        if let Some(id) = config.network_interfaces.iter().find(unknown) {
            return Err(ConfigureError::NoSuchInterface { id: id.to_string() });
        }
        self.mmds_config = Some(config);
        Ok(())
    }
}

/// Checks that the guest has what the balloon would take.
pub(crate) fn fits(balloon_mib: u32, machine: &MachineConfig) -> Result<(), ConfigureError> {
    let memory_mib = machine.memory().mib();
    if u64::from(balloon_mib) > memory_mib {
        return Err(ConfigureError::BalloonTooLarge {
            balloon_mib,
            memory_mib,
        });
    }
    Ok(())
}
