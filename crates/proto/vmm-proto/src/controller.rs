//! What is done about an action: decided here from the state and the configuration, so the VMM only ever gets commands that are legal.
//!
//! Call order: [`Controller::decide`]; for [`Decision::Perform`] the VMM does it, and after success calls [`Controller::settle`]. A command that
//! failed changes nothing here.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::action::Action;
use crate::answer::Answer;
use crate::architecture::Architecture;
use crate::balloon::{BalloonStatisticsUpdate, BalloonUpdate};
use crate::drive::DriveUpdate;
use crate::fault::Fault;
use crate::full_config::FullConfig;
use crate::instance::{InstanceId, InstanceInfo};
use crate::logger::Logger;
use crate::metrics::Metrics;
use crate::mmds_store::{MmdsStore, SharedStore};
use crate::name::ResourceId;
use crate::network::NetworkUpdate;
use crate::rate_limiter;
use crate::resources::{self, ConfigureError, Resources};
use crate::snapshot::{CreateSnapshot, LoadSnapshot};
use crate::state::{Legal, VmState};

/// What the VMM is to do. All of them are legal in the state that they were decided in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Make the machine of the [`Resources`] and let it run.
    Start,
    /// Make the machine of a snapshot. Afterwards the VMM also replaces [`Controller::resources_mut`].
    LoadSnapshot(LoadSnapshot),
    /// Write a snapshot; the machine stands still.
    CreateSnapshot(CreateSnapshot),
    /// Stop the vCPUs.
    Pause,
    /// Let the vCPUs go on.
    Resume,
    /// Press Ctrl+Alt+Del.
    SendCtrlAltDel,
    /// Write the counters.
    FlushMetrics,
    /// Change the log.
    SetLogger(Logger),
    /// Open the file for counters.
    SetMetrics(Metrics),
    /// Change a drive that exists.
    UpdateDrive(DriveUpdate),
    /// Change the limits of an interface that exists.
    UpdateNetworkInterface(NetworkUpdate),
    /// Change the size of the balloon, which exists; it isn't larger than the memory.
    UpdateBalloon(BalloonUpdate),
    /// Change the interval of statistics, which are on and stay on.
    UpdateBalloonStatistics(BalloonStatisticsUpdate),
    /// Answer with [`Answer::BalloonStatistics`]; the statistics are on.
    ReadBalloonStatistics,
}

/// What comes of an action.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// It is done.
    Answered(Answer),
    /// The VMM must do something.
    Perform(Command),
}

/// Why an action isn't done although the state is right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RefusedError {
    /// The configuration can't become so.
    #[error(transparent)]
    Configure(#[from] ConfigureError),
    /// There is nothing to boot.
    #[error("there is no boot-source, so there is nothing to start")]
    NoBootSource,
    /// The snapshot would replace what was configured.
    #[error("a snapshot is loaded into a fresh process, and this one has been configured already")]
    NotFresh,
    /// Metrics are opened once.
    #[error("metrics are configured already")]
    SecondMetrics,
    /// The machine has no such drive.
    #[error("there is no drive {id}")]
    NoSuchDrive {
        /// The id.
        id: String,
    },
    /// The machine has no such interface.
    #[error("there is no network interface {id}")]
    NoSuchInterface {
        /// The id.
        id: String,
    },
    /// The machine has no balloon.
    #[error("there is no balloon")]
    NoBalloon,
    /// The balloon has no statistics.
    #[error("the balloon was configured without statistics")]
    NoStatistics,
    /// The statistics would be switched on or off.
    #[error("statistics of the balloon can't be switched on or off after the start")]
    StatisticsSwitch,
    /// There is no keyboard.
    #[error("there is no keyboard controller on this architecture, so no SendCtrlAltDel")]
    NoKeyboard,
}

/// State, configuration and metadata of one instance.
#[derive(Debug)]
pub struct Controller {
    architecture: Architecture,
    id: InstanceId,
    vmm_version: &'static str,
    state: VmState,
    resources: Resources,
    is_fresh: bool,
    has_metrics: bool,
    mmds: SharedStore,
}

impl Controller {
    /// An instance of which nothing is configured. `vmm_version` is the program's; the metadata may have `mmds_bytes`.
    pub fn new(architecture: Architecture, id: InstanceId, vmm_version: &'static str, mmds_bytes: usize) -> Self {
        Self {
            architecture,
            id,
            vmm_version,
            state: VmState::NotStarted,
            resources: Resources::new(architecture),
            is_fresh: true,
            has_metrics: false,
            mmds: Arc::new(Mutex::new(MmdsStore::new(mmds_bytes))),
        }
    }

    /// What the machine does.
    pub const fn state(&self) -> VmState {
        self.state
    }

    /// What was configured.
    pub const fn resources(&self) -> &Resources {
        &self.resources
    }

    /// For the VMM, after it loaded a snapshot: to say what is in it.
    pub const fn resources_mut(&mut self) -> &mut Resources {
        &mut self.resources
    }

    /// The metadata, for the machine's service that guests ask.
    pub const fn mmds(&self) -> &SharedStore {
        &self.mmds
    }

    fn metadata(&self) -> MutexGuard<'_, MmdsStore> {
        self.mmds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Decides about an action.
    ///
    /// # Errors
    /// It isn't legal now, or doesn't fit the configuration; nothing is changed then.
    pub fn decide(&mut self, action: Action) -> Result<Decision, Fault> {
        Legal::of(&action).check(self.state)?;
        let configures_boot = action.configures_boot();
        let Some(action) = self.resources.configure(action).map_err(RefusedError::from)? else {
            if configures_boot {
                self.is_fresh = false;
            }
            return Ok(Decision::Answered(Answer::Empty));
        };
        let answer = match action {
            Action::DescribeInstance => Answer::InstanceInfo(self.instance_info()),
            Action::DescribeVersion => Answer::Version(crate::API_VERSION),
            Action::DescribeMachine => Answer::Machine(self.resources.machine),
            Action::DescribeBalloon => Answer::Balloon(self.resources.balloon.ok_or(RefusedError::NoBalloon)?),
            Action::DescribeConfig => Answer::FullConfig(Box::new(FullConfig::from(&self.resources))),
            Action::ReadMmds => Answer::Mmds(self.metadata().value()),
            Action::PutMmds(value) => self.metadata().put(value).map(|()| Answer::Empty)?,
            Action::PatchMmds(value) => self.metadata().patch(value).map(|()| Answer::Empty)?,
            // Asking for what is already so is a success, as Firecracker has it.
            Action::Pause if self.state == VmState::Paused => Answer::Empty,
            Action::Resume if self.state == VmState::Running => Answer::Empty,
            other => return self.command(other).map(Decision::Perform),
        };
        Ok(Decision::Answered(answer))
    }

    /// The command for an action that the VMM must do.
    fn command(&self, action: Action) -> Result<Command, Fault> {
        let command = match action {
            Action::Start if self.resources.boot_source.is_none() => Err(RefusedError::NoBootSource),
            Action::Start => Ok(Command::Start),
            Action::LoadSnapshot(_) if !self.is_fresh => Err(RefusedError::NotFresh),
            Action::LoadSnapshot(load) => Ok(Command::LoadSnapshot(load)),
            Action::CreateSnapshot(create) => Ok(Command::CreateSnapshot(create)),
            Action::Pause => Ok(Command::Pause),
            Action::Resume => Ok(Command::Resume),
            Action::SendCtrlAltDel if !self.architecture.has_keyboard_controller() => Err(RefusedError::NoKeyboard),
            Action::SendCtrlAltDel => Ok(Command::SendCtrlAltDel),
            Action::FlushMetrics => Ok(Command::FlushMetrics),
            Action::SetLogger(logger) => Ok(Command::SetLogger(logger)),
            Action::SetMetrics(_) if self.has_metrics => Err(RefusedError::SecondMetrics),
            Action::SetMetrics(metrics) => Ok(Command::SetMetrics(metrics)),
            Action::UpdateDrive(update) => self
                .drive_exists(&update.drive_id)
                .map(|()| Command::UpdateDrive(update)),
            Action::UpdateNetworkInterface(update) => self
                .interface_exists(&update.iface_id)
                .map(|()| Command::UpdateNetworkInterface(update)),
            Action::UpdateBalloon(update) => self.balloon_fits(update).map(|()| Command::UpdateBalloon(update)),
            Action::UpdateBalloonStatistics(update) => self
                .interval_fits(update)
                .map(|()| Command::UpdateBalloonStatistics(update)),
            Action::DescribeBalloonStatistics => self.has_statistics().map(|()| Command::ReadBalloonStatistics),
            // All others were answered or configured something.
            other => {
                return Err(Fault::new(
                    crate::FaultStatus::Internal,
                    &format_args!("{other:?} was not decided"),
                ));
            }
        };
        Ok(command?)
    }

    /// Notes that a command was done.
    pub fn settle(&mut self, command: &Command) {
        match command {
            Command::Start | Command::Resume => self.state = VmState::Running,
            Command::Pause => self.state = VmState::Paused,
            Command::LoadSnapshot(load) => {
                self.is_fresh = false;
                self.state = if load.resume_vm {
                    VmState::Running
                } else {
                    VmState::Paused
                };
            }
            Command::SetMetrics(_) => self.has_metrics = true,
            Command::UpdateDrive(update) => self.settle_drive(update),
            Command::UpdateNetworkInterface(update) => self.settle_interface(update),
            Command::UpdateBalloon(update) => {
                if let Some(balloon) = &mut self.resources.balloon {
                    balloon.amount_mib = update.amount_mib;
                }
            }
            Command::UpdateBalloonStatistics(update) => {
                if let Some(balloon) = &mut self.resources.balloon {
                    balloon.stats_polling_interval_s = update.stats_polling_interval_s;
                }
            }
            Command::CreateSnapshot(_)
            | Command::SendCtrlAltDel
            | Command::FlushMetrics
            | Command::SetLogger(_)
            | Command::ReadBalloonStatistics => {}
        }
    }

    fn instance_info(&self) -> InstanceInfo {
        InstanceInfo {
            id: self.id.clone(),
            state: self.state,
            vmm_version: self.vmm_version,
            app_name: "Ringwall",
        }
    }

    fn drive_exists(&self, id: &ResourceId) -> Result<(), RefusedError> {
        match self.resources.drives.iter().any(|drive| drive.drive_id == *id) {
            true => Ok(()),
            false => Err(RefusedError::NoSuchDrive { id: id.to_string() }),
        }
    }

    fn interface_exists(&self, id: &ResourceId) -> Result<(), RefusedError> {
        match self
            .resources
            .interfaces
            .iter()
            .any(|interface| interface.iface_id == *id)
        {
            true => Ok(()),
            false => Err(RefusedError::NoSuchInterface { id: id.to_string() }),
        }
    }

    fn balloon_fits(&self, update: BalloonUpdate) -> Result<(), RefusedError> {
        if self.resources.balloon.is_none() {
            return Err(RefusedError::NoBalloon);
        }
        Ok(resources::fits(update.amount_mib, &self.resources.machine)?)
    }

    fn has_statistics(&self) -> Result<(), RefusedError> {
        match self.resources.balloon {
            None => Err(RefusedError::NoBalloon),
            Some(balloon) if balloon.stats_polling_interval_s == 0 => Err(RefusedError::NoStatistics),
            Some(_) => Ok(()),
        }
    }

    fn interval_fits(&self, update: BalloonStatisticsUpdate) -> Result<(), RefusedError> {
        let balloon = self.resources.balloon.ok_or(RefusedError::NoBalloon)?;
        if (balloon.stats_polling_interval_s == 0) != (update.stats_polling_interval_s == 0) {
            return Err(RefusedError::StatisticsSwitch);
        }
        Ok(())
    }

    fn settle_drive(&mut self, update: &DriveUpdate) {
        if let Some(drive) = self
            .resources
            .drives
            .iter_mut()
            .find(|drive| drive.drive_id == update.drive_id)
        {
            if let Some(path) = &update.path_on_host {
                drive.path_on_host = path.clone();
            }
            drive.rate_limiter = rate_limiter::merged(drive.rate_limiter, update.rate_limiter);
        }
    }

    fn settle_interface(&mut self, update: &NetworkUpdate) {
        let interfaces = &mut self.resources.interfaces;
        if let Some(known) = interfaces.iter_mut().find(|known| known.iface_id == update.iface_id) {
            known.rx_rate_limiter = rate_limiter::merged(known.rx_rate_limiter, update.rx_rate_limiter);
            known.tx_rate_limiter = rate_limiter::merged(known.tx_rate_limiter, update.tx_rate_limiter);
        }
    }
}
