//! The two sockets on which an agent is reached, in the state directory of its sandbox.
//!
//! The keeper binds them, so that they belong to the host; the agent inherits them listening. Nothing inside can name them.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};

/// HTTP of the agent: a stream socket.
pub const AGENT_SOCKET: &str = "agent.sock";
/// Descriptors of ports inside: a socket of packets.
pub const PORTS_SOCKET: &str = "ports.sock";

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 512;

/// Both, listening.
#[derive(Debug)]
pub(crate) struct GuestSockets {
    agent: OwnedFd,
    ports: OwnedFd,
}

impl GuestSockets {
    /// Binds them in `directory`, in place of what a former keeper left. The name's lock must be held.
    pub(crate) fn bind(directory: &Path) -> io::Result<Self> {
        let directory = rustix::fs::openat(
            CWD,
            directory,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let make = |name: &str, kind| -> io::Result<OwnedFd> {
            match rustix::fs::unlinkat(&directory, name, rustix::fs::AtFlags::empty()) {
                Ok(()) | Err(rustix::io::Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
            let socket = socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
            // By descriptor: a socket's address has room for 108 bytes only (unix(7)).
            let address = SocketAddrUnix::new(format!("/proc/self/fd/{}/{name}", directory.as_raw_fd()))?;
            bind(&socket, &address)?;
            listen(&socket, BACKLOG)?;
            Ok(socket)
        };
        Ok(GuestSockets {
            agent: make(AGENT_SOCKET, SocketType::STREAM)?,
            ports: make(PORTS_SOCKET, SocketType::SEQPACKET)?,
        })
    }

    /// Arguments that tell the agent.
    pub(crate) fn arguments(&self) -> Vec<CString> {
        let [agent, ports] = self.descriptors();
        [
            "--listen-fd".to_owned(),
            agent.to_string(),
            "--ports-fd".to_owned(),
            ports.to_string(),
        ]
        .into_iter()
        .filter_map(|text| CString::new(text).ok())
        .collect()
    }

    pub(crate) fn descriptors(&self) -> [RawFd; 2] {
        [self.agent.as_raw_fd(), self.ports.as_raw_fd()]
    }
}
