//! `/vsock`: sockets between host and guest.

use serde::{Deserialize, Serialize};

use crate::error::ValueError;
use crate::path::SocketPath;

/// Least address of a guest (vsock(7): 0 to 2 are the hypervisor, the local and the host address).
const MIN_GUEST_CID: u32 = 3;

/// Bytes that are appended to the path for a connection of the guest: `_` and a port of 32 bits in decimal.
const PORT_SUFFIX_BYTES: usize = 11;

/// The body of PUT.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(crate) struct WireVsock {
    #[serde(default)]
    vsock_id: Option<String>,
    guest_cid: u32,
    uds_path: String,
}

/// The socket device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Vsock {
    /// The guest's address.
    pub guest_cid: u32,
    /// Where the host connects; with `_PORT` appended, where the guest's connections go.
    pub uds_path: SocketPath,
}

impl WireVsock {
    /// Whether a field is used that clients shouldn't use any more.
    pub(crate) fn is_deprecated(&self) -> bool {
        self.vsock_id.is_some()
    }
}

impl TryFrom<WireVsock> for Vsock {
    type Error = ValueError;

    fn try_from(wire: WireVsock) -> Result<Self, ValueError> {
        // The largest number stands for any address (VMADDR_CID_ANY, include/uapi/linux/vm_sockets.h).
        if wire.guest_cid < MIN_GUEST_CID || wire.guest_cid == u32::MAX {
            return Err(ValueError::GuestCid { got: wire.guest_cid });
        }
        Ok(Self {
            guest_cid: wire.guest_cid,
            uds_path: SocketPath::new("uds_path", wire.uds_path, PORT_SUFFIX_BYTES)?,
        })
    }
}

/// A vsock's new path when a snapshot is loaded, checked as [`Vsock`]'s.
pub(crate) fn override_path(path: String) -> Result<SocketPath, ValueError> {
    SocketPath::new("vsock_override.uds_path", path, PORT_SUFFIX_BYTES)
}
