//! What a snapshot keeps of a vsock device: no connection outlives it, but the guest must learn which are gone.

use serde::{Deserialize, Serialize};

use super::muxer::{END_PORT, FIRST_PORT, MOST_CONNECTIONS, MOST_RESETS};
use super::packet::Ports;
use crate::virtio::RestoreError;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    /// The guest's context id when it was saved. Told, not used: the restored device has the one that it is made with.
    pub(super) cid: u64,
    /// The next port of the host's connections, so that a new one does not meet an old one's packets.
    pub(super) next_port: u32,
    /// What the guest believes to be connections: host's port, guest's port.
    pub(super) connections: Vec<(u32, u32)>,
}

impl State {
    /// Reads a saved state.
    pub(super) fn parse(value: serde_json::Value) -> Result<Self, RestoreError> {
        let state: State = serde_json::from_value(value)?;
        let unfit = |what: String| Err(RestoreError::Unfit { what });
        if !(FIRST_PORT..END_PORT).contains(&state.next_port) {
            return unfit(format!("the next port, {}, is not one of the host's", state.next_port));
        }
        // Resets stop being taken at the limit, but ends of connections come on top.
        let most = MOST_CONNECTIONS.saturating_mul(2).saturating_add(MOST_RESETS);
        if state.connections.len() > most {
            return unfit(format!("{} connections are more than {most}", state.connections.len()));
        }
        Ok(state)
    }

    /// What the guest believes to be connections.
    pub(super) fn ports(&self) -> impl Iterator<Item = Ports> {
        self.connections.iter().map(|&(host, guest)| Ports { host, guest })
    }
}
