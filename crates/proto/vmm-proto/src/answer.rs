//! What a client is told when something was done.

use serde::Serialize;
use serde_json::Value;

use crate::balloon::{BalloonConfig, BalloonStatistics};
use crate::fault::{Fault, FaultStatus};
use crate::full_config::FullConfig;
use crate::instance::InstanceInfo;
use crate::machine::MachineConfig;

/// A success.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// Nothing to say: 204.
    Empty,
    /// Who answers.
    InstanceInfo(InstanceInfo),
    /// The version of the API.
    Version(&'static str),
    /// The machine.
    Machine(MachineConfig),
    /// The balloon.
    Balloon(BalloonConfig),
    /// What the guest says of its memory.
    BalloonStatistics(Box<BalloonStatistics>),
    /// All that was configured.
    FullConfig(Box<FullConfig>),
    /// The metadata.
    Mmds(Value),
}

/// The answer to `GET /version`; clients look for this very name.
#[derive(Debug, Serialize)]
struct WireVersion {
    firecracker_version: &'static str,
}

/// An answer as it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The number in the status line.
    pub status: u16,
    /// The body, JSON; none with status 204.
    pub body: Option<String>,
}

/// Makes status and body of what came of a request.
pub fn render(outcome: &Result<Answer, Fault>) -> Rendered {
    let (status, body) = match outcome {
        Ok(answer) => match answer.body() {
            Ok(Some(body)) => (200, Some(body)),
            Ok(None) => (204, None),
            Err(error) => {
                let fault = Fault::new(FaultStatus::Internal, &error);
                (fault.status().code(), Some(fault.body()))
            }
        },
        Err(fault) => (fault.status().code(), Some(fault.body())),
    };
    Rendered { status, body }
}

impl Answer {
    fn body(&self) -> Result<Option<String>, serde_json::Error> {
        match self {
            Self::Empty => Ok(None),
            Self::InstanceInfo(info) => serde_json::to_string(info).map(Some),
            Self::Version(firecracker_version) => serde_json::to_string(&WireVersion { firecracker_version }).map(Some),
            Self::Machine(machine) => serde_json::to_string(machine).map(Some),
            Self::Balloon(balloon) => serde_json::to_string(balloon).map(Some),
            Self::BalloonStatistics(statistics) => serde_json::to_string(statistics).map(Some),
            Self::FullConfig(config) => serde_json::to_string(config).map(Some),
            Self::Mmds(value) => serde_json::to_string(value).map(Some),
        }
    }
}
