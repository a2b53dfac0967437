//! The socket that clients connect to: made here, or given by whoever started this program.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, fchmod};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with, sockopt};

/// Clients that may wait to be taken. More than are served at once, so that those are told.
const BACKLOG: i32 = 128;

/// A listening, non-blocking Unix socket.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Something is at the path: perhaps another VMM's socket, so it isn't removed.
    #[error("{path} exists already; is another VMM using it? Remove it if not")]
    Exists {
        /// The path.
        path: PathBuf,
    },
    /// The path can't be a socket.
    #[error("can't listen on {path}")]
    Bind {
        /// The path.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The given descriptor is of another kind.
    #[error("the given descriptor isn't a listening Unix stream socket")]
    WrongDescriptor,
    /// The socket can't be made non-blocking.
    #[error("can't prepare the socket")]
    Prepare(#[source] io::Error),
}

impl Listener {
    /// Makes a socket that only this user can connect to.
    ///
    /// # Errors
    /// [`ListenError::Exists`], [`ListenError::Bind`].
    pub fn bind(path: &Path) -> Result<Self, ListenError> {
        bind_private(path)
            .map(|fd| Self {
                socket: UnixListener::from(fd),
            })
            .map_err(|error| match error {
                Errno::ADDRINUSE => ListenError::Exists { path: path.to_owned() },
                _ => ListenError::Bind {
                    path: path.to_owned(),
                    source: error.into(),
                },
            })
    }

    /// Takes a socket that is bound and listening.
    ///
    /// # Errors
    /// [`ListenError::WrongDescriptor`], [`ListenError::Prepare`].
    pub fn from_fd(fd: OwnedFd) -> Result<Self, ListenError> {
        let is_unix = sockopt::socket_domain(&fd) == Ok(AddressFamily::UNIX);
        let is_stream = sockopt::socket_type(&fd) == Ok(SocketType::STREAM);
        let is_listening = sockopt::socket_acceptconn(&fd) == Ok(true);
        if !(is_unix && is_stream && is_listening) {
            return Err(ListenError::WrongDescriptor);
        }
        let socket = UnixListener::from(fd);
        socket.set_nonblocking(true).map_err(ListenError::Prepare)?;
        Ok(Self { socket })
    }

    /// The next client, if one waits.
    pub(crate) fn accept(&self) -> io::Result<UnixStream> {
        let (stream, _) = self.socket.accept()?;
        stream.set_nonblocking(true)?;
        Ok(stream)
    }
}

/// A listening socket at `path` with mode 0600. The kernel gives the file the mode of the unbound socket, less the process's mask (`unix_bind`,
/// net/unix/af_unix.c); a chmod after `bind` would come too late for somebody fast.
fn bind_private(path: &Path) -> Result<OwnedFd, Errno> {
    let address = SocketAddrUnix::new(path)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    bind(&socket, &address)?;
    listen(&socket, BACKLOG)?;
    Ok(socket)
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
