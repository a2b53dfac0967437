//! The two process tiers, `namespace` and `landlock`: from a spec to a running command and back to a report.
//!
//! `plan` resolves the spec against this machine (all checks happen there, before anything is made); `keeper` makes the processes,
//! forwards signals, watches limits and collects the end; `init` is the first process of the sandbox, `launch` the way from there to
//! the program. `state` holds what outlives a process: names, locks, records. A keeper has no threads: it forks.
#![forbid(unsafe_code)]

mod control;
mod denials;
mod disk_watch;
mod error;
mod freeze;
mod gc;
mod guest_sockets;
mod identity;
mod init;
mod keeper;
mod kill_tree;
mod launch;
mod limits;
mod plan;
mod protections;
mod settle;
mod state;
mod terminal;

pub use error::RunError;
pub use freeze::{FreezeError, FreezeWay, Frozen, freeze, thaw};
pub use gc::{Leftover, collect, remove_left_groups};
pub use guest_sockets::{AGENT_SOCKET, PORTS_SOCKET};
pub use keeper::{KILL_REQUEST, ProcessBackend, run};
pub use plan::{PlanError, SYSTEM_TREES, system_configuration};
pub use state::{OpenStateError, Record, RunState, StateDir, StoredSandbox};
