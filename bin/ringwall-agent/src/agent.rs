//! Everything the agent knows: one value that all requests share. Single-threaded, so plain cells.

use std::cell::RefCell;
use std::collections::BTreeMap;

use ringwall_agent_proto::rest::Init;

use crate::filesystem::watchers::Watchers;
use crate::process::oom::OomScore;
use crate::process::table::Table;
use crate::rest::metrics::CpuClock;
use crate::users::Identity;

/// State shared by all requests.
#[derive(Debug)]
pub(crate) struct Agent {
    /// What the server has set.
    pub(crate) settings: RefCell<Settings>,
    /// Who the agent is.
    pub(crate) identity: Identity,
    /// Running processes.
    pub(crate) processes: Table,
    /// How likely children are to be killed first when memory is out.
    pub(crate) oom: OomScore,
    /// Watchers that clients poll.
    pub(crate) watchers: Watchers,
    /// CPU use at the last `/metrics`.
    pub(crate) cpu: CpuClock,
}

/// What `POST /init` sets.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    /// Environment of every process.
    pub(crate) environment: BTreeMap<String, String>,
    /// The token that clients must show; none until the server has set one.
    pub(crate) access_token: Option<String>,
    /// Who runs a process when the client does not say.
    pub(crate) default_user: Option<String>,
    /// Where a process starts when the client does not say.
    pub(crate) default_workdir: Option<String>,
}

impl Settings {
    /// Replaces what the message names. An empty text unsets.
    pub(crate) fn replace(&mut self, init: Init) {
        let text = |text: String| (!text.is_empty()).then_some(text);
        if let Some(environment) = init.env_vars {
            self.environment = environment;
        }
        if let Some(token) = init.access_token {
            self.access_token = text(token);
        }
        if let Some(user) = init.default_user {
            self.default_user = text(user);
        }
        if let Some(workdir) = init.default_workdir {
            self.default_workdir = text(workdir);
        }
    }
}

impl Agent {
    /// The state at start. To be called before the process stops being dumpable.
    pub(crate) fn new() -> Self {
        Agent {
            settings: RefCell::default(),
            identity: Identity::of_this_process(),
            processes: Table::default(),
            oom: OomScore::open(),
            watchers: Watchers::default(),
            cpu: CpuClock::default(),
        }
    }
}
