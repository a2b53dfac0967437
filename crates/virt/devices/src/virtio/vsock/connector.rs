//! The host's side by paths, as Firecracker has it: the VMM listens on one Unix socket, and what the guest connects to is another.

use std::fmt::Debug;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with};

/// Clients that wait for the VMM to accept them: as many as may be without a `CONNECT` line after it.
const BACKLOG: i32 = 128;

/// Connects what the guest asks for.
pub trait Connector: Debug + Send {
    /// Returns a connected stream socket for the guest's connection to `port` of the host. Must not wait: it is called from the event
    /// loop, as often as the guest asks.
    ///
    /// # Errors
    /// Any: the guest is refused.
    fn connect(&mut self, port: u32) -> io::Result<OwnedFd>;
}

/// Connects port P to the Unix socket `<path>_<P>`.
#[derive(Debug, Clone)]
pub struct PathConnector {
    base: PathBuf,
}

impl PathConnector {
    /// Connects to sockets beside `base`.
    #[must_use]
    pub fn new(base: impl Into<PathBuf>) -> Self {
        PathConnector { base: base.into() }
    }
}

impl Connector for PathConnector {
    fn connect(&mut self, port: u32) -> io::Result<OwnedFd> {
        let mut path = self.base.clone().into_os_string();
        path.push(format!("_{port}"));
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        // Does not wait: a full backlog is EAGAIN (unix(7)), and the guest is refused.
        connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(socket)
    }
}

/// Connects nothing: every connection of the guest is refused.
#[derive(Debug, Clone, Copy)]
pub struct NoConnector;

impl Connector for NoConnector {
    fn connect(&mut self, _port: u32) -> io::Result<OwnedFd> {
        Err(io::ErrorKind::ConnectionRefused.into())
    }
}

/// Listens on a Unix socket at `path`, for the host's clients.
///
/// # Errors
/// [`io::ErrorKind::AddrInUse`] if the path exists: it may be another VM's, so removing a stale one is its owner's business, as with
/// Firecracker. Otherwise what the system says; the path may have 107 bytes.
pub fn listen_at(path: &Path) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    listen(&socket, BACKLOG)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::{UnixListener, UnixStream};

    #[test]
    fn a_path_that_exists_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("v.sock");
        let socket = listen_at(&path).unwrap();
        assert_eq!(listen_at(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(socket);
        assert_eq!(listen_at(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse, "stale");
        let other = folder.path().join("file");
        std::fs::write(&other, "kept").unwrap();
        assert_eq!(listen_at(&other).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(std::fs::read(&other).unwrap(), b"kept");
        assert!(listen_at(&folder.path().join("x".repeat(108))).is_err());
    }

    #[test]
    fn a_port_is_a_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("v.sock");
        let listener = UnixListener::bind(folder.path().join("v.sock_52")).unwrap();
        let mut connector = PathConnector::new(&path);
        let mut ours = UnixStream::from(connector.connect(52).unwrap());
        let (mut theirs, _) = listener.accept().unwrap();
        ours.write_all(b"hello").unwrap();
        drop(ours);
        let mut text = String::new();
        theirs.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
        assert_eq!(connector.connect(53).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(NoConnector.connect(52).is_err());
    }
}
