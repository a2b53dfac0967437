//! The controllers that limits need, and the mechanism by which one holds. Values only.

use std::fmt;
use std::path::PathBuf;

use ringwall_types::LimitKind;
use serde::Serialize;

/// A resource controller of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Controller {
    /// Memory, including page cache and kernel memory.
    Memory,
    /// CPU bandwidth.
    Cpu,
    /// Number of processes and threads.
    Pids,
}

/// By what a limit holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "mechanism")]
pub enum Mechanism {
    /// The unified hierarchy.
    #[serde(rename = "cgroup-v2")]
    CgroupV2 {
        /// The group's directory.
        path: PathBuf,
    },
    /// A hierarchy of the old kind.
    #[serde(rename = "cgroup-v1")]
    CgroupV1 {
        /// The group's directory.
        path: PathBuf,
    },
}

impl Controller {
    /// Every controller, in the order in which limits are reported.
    pub const ALL: [Controller; 3] = [Controller::Memory, Controller::Cpu, Controller::Pids];

    /// The kernel's name, the same in v1 and v2.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Controller::Memory => "memory",
            Controller::Cpu => "cpu",
            Controller::Pids => "pids",
        }
    }

    /// The limit that it enforces.
    #[must_use]
    pub fn limit(self) -> LimitKind {
        match self {
            Controller::Memory => LimitKind::Memory,
            Controller::Cpu => LimitKind::Cpus,
            Controller::Pids => LimitKind::Pids,
        }
    }

    /// Whether a comma- or space-separated list, as in mount options and `cgroup.controllers`, names it.
    pub(crate) fn is_in(self, list: &str) -> bool {
        list.split([',', ' ', '\n']).any(|word| word == self.name())
    }
}

impl fmt::Display for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Mechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mechanism::CgroupV2 { path } => write!(f, "control group v2 {}", path.display()),
            Mechanism::CgroupV1 { path } => write!(f, "control group v1 {}", path.display()),
        }
    }
}
