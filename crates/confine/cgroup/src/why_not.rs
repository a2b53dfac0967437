//! Why a limit can't be held by a control group, and what would change that. Texts for people; facts in the fields.

use std::path::PathBuf;

use serde::Serialize;
use thiserror::Error;

/// Why a controller can't be used.
#[derive(Debug, Clone, PartialEq, Eq, Error, Serialize)]
#[serde(tag = "reason", rename_all = "kebab-case")]
pub enum WhyNot {
    /// No mounted hierarchy has the controller.
    #[error("no control group hierarchy with this controller is mounted")]
    NotMounted,
    /// The hierarchy is mounted, but this process's own group is not below the mount.
    #[error("this process's own control group is not visible below {}", mount_point.display())]
    OwnGroupHidden {
        /// Where the hierarchy is mounted.
        mount_point: PathBuf,
    },
    /// This user may not make groups in a v1 hierarchy.
    #[error("this user may not make control groups in {} (version 1, which belongs to root)", dir.display())]
    BelongsToRoot {
        /// This process's own group.
        dir: PathBuf,
    },
    /// This user may not make groups in the unified hierarchy.
    #[error("this user may not make control groups in {} or above it", dir.display())]
    NotDelegated {
        /// This process's own group.
        dir: PathBuf,
    },
    /// This user may make groups, but the controller was not handed down.
    #[error("the controller was not delegated to {}", dir.display())]
    ControllerAbsent {
        /// The topmost group that this user may write to.
        dir: PathBuf,
    },
    /// The controller would have to be switched on in a group that holds processes, which the kernel refuses.
    #[error("{} holds processes itself, so that the controller can't be switched on for groups below it", dir.display())]
    HoldsProcesses {
        /// The group in question.
        dir: PathBuf,
    },
    /// A threaded group can't have a sandbox below it.
    #[error("{} is a threaded control group", dir.display())]
    Threaded {
        /// The group in question.
        dir: PathBuf,
    },
    /// Each wanted controller can be had somewhere, but in no group together.
    #[error("the wanted controllers can't be had in one control group")]
    NotTogether,
}

impl WhyNot {
    /// What would make the limit possible.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            WhyNot::NotMounted => {
                "mount a cgroup hierarchy with this controller (in a container: give it a writable /sys/fs/cgroup)"
            }
            WhyNot::OwnGroupHidden { .. } => {
                "give the container its own cgroup namespace and a writable /sys/fs/cgroup"
            }
            WhyNot::BelongsToRoot { .. } => {
                "run it as root, or boot with systemd.unified_cgroup_hierarchy=1: version 2 can be delegated to users"
            }
            WhyNot::NotDelegated { .. } | WhyNot::HoldsProcesses { .. } | WhyNot::Threaded { .. } => {
                "run it as `systemd-run --user --scope -p Delegate=yes ringwall …`, or as root"
            }
            WhyNot::ControllerAbsent { .. } | WhyNot::NotTogether => {
                "as root: `systemctl edit user@.service`, add `[Service]` and `Delegate=cpu memory pids`, then log in again"
            }
        }
    }
}
