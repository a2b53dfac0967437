//! What the machine does, and what may be asked of it meanwhile.
//!
//! ```text
//!                 InstanceStart, or load with resume_vm
//! Not started -----------------------------------------> Running
//!      |                                              Paused | ^ Resumed
//!      |                    load                             v |
//!      '-------------------------------------------------> Paused
//! ```

use serde::Serialize;

use crate::action::Action;

/// What the machine does; the texts are the wire's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum VmState {
    /// It is being configured.
    #[serde(rename = "Not started")]
    NotStarted,
    /// Its vCPUs run.
    Running,
    /// Its vCPUs stand still.
    Paused,
}

/// When an action may be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Legal {
    /// Before the machine is started.
    BeforeStart,
    /// After that, running or paused.
    AfterStart,
    /// After that, only paused.
    WhilePaused,
    /// At any time.
    Always,
}

/// Why an action isn't done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WrongStateError {
    /// It configures what runs already.
    #[error("that can't be done after the machine was started")]
    Started,
    /// It needs a machine.
    #[error("that can't be done before the machine is started")]
    NotStarted,
    /// It needs a machine that stands still.
    #[error("that can't be done while the machine runs; pause it first")]
    Running,
}

impl Legal {
    /// When `action` may be asked for.
    pub const fn of(action: &Action) -> Self {
        match action {
            Action::DescribeInstance
            | Action::DescribeVersion
            | Action::DescribeMachine
            | Action::DescribeBalloon
            | Action::DescribeConfig
            | Action::ReadMmds
            | Action::PutMmds(_)
            | Action::PatchMmds(_) => Self::Always,
            Action::SetBootSource(_)
            | Action::SetMachine(_)
            | Action::UpdateMachine(_)
            | Action::SetCpuTemplate(_)
            | Action::InsertDrive(_)
            | Action::InsertNetworkInterface(_)
            | Action::SetVsock(_)
            | Action::SetEntropy(_)
            | Action::SetBalloon(_)
            | Action::SetSerial(_)
            | Action::SetLogger(_)
            | Action::SetMetrics(_)
            | Action::SetMmdsConfig(_)
            | Action::Start
            | Action::LoadSnapshot(_) => Self::BeforeStart,
            Action::UpdateDrive(_)
            | Action::UpdateNetworkInterface(_)
            | Action::UpdateBalloon(_)
            | Action::UpdateBalloonStatistics(_)
            | Action::DescribeBalloonStatistics
            | Action::FlushMetrics
            | Action::SendCtrlAltDel
            | Action::Pause
            | Action::Resume => Self::AfterStart,
            Action::CreateSnapshot(_) => Self::WhilePaused,
        }
    }

    /// Whether that is now.
    ///
    /// # Errors
    /// Why not.
    pub const fn check(self, state: VmState) -> Result<(), WrongStateError> {
        match (self, state) {
            (Self::Always, _)
            | (Self::BeforeStart, VmState::NotStarted)
            | (Self::AfterStart, VmState::Running | VmState::Paused)
            | (Self::WhilePaused, VmState::Paused) => Ok(()),
            (Self::BeforeStart, VmState::Running | VmState::Paused) => Err(WrongStateError::Started),
            (Self::AfterStart | Self::WhilePaused, VmState::NotStarted) => Err(WrongStateError::NotStarted),
            (Self::WhilePaused, VmState::Running) => Err(WrongStateError::Running),
        }
    }
}
