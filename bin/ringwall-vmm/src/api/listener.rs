//! The socket that clients connect to: made here, or given by whoever started this program.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::net::{AddressFamily, sockopt};
use rustix::process::umask;

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
    /// Makes a socket that only this user can connect to. Call before other threads make files: it sets the process's file mode mask meanwhile.
    ///
    /// # Errors
    /// [`ListenError::Exists`], [`ListenError::Bind`], [`ListenError::Prepare`].
    pub fn bind(path: &Path) -> Result<Self, ListenError> {
        // The mode must hold from the first moment, so it is the mask's doing: a chmod afterwards would come too late for somebody fast.
        let before = umask(Mode::RWXG | Mode::RWXO | Mode::XUSR);
        let bound = UnixListener::bind(path);
        umask(before);
        let socket = bound.map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => ListenError::Exists { path: path.to_owned() },
            _ => ListenError::Bind {
                path: path.to_owned(),
                source,
            },
        })?;
        Self::prepared(socket)
    }

    /// Takes a socket that is bound and listening.
    ///
    /// # Errors
    /// [`ListenError::WrongDescriptor`], [`ListenError::Prepare`].
    pub fn from_fd(fd: OwnedFd) -> Result<Self, ListenError> {
        let is_unix = sockopt::socket_domain(&fd) == Ok(AddressFamily::UNIX);
        let is_stream = sockopt::socket_type(&fd) == Ok(rustix::net::SocketType::STREAM);
        let is_listening = sockopt::socket_acceptconn(&fd) == Ok(true);
        if !(is_unix && is_stream && is_listening) {
            return Err(ListenError::WrongDescriptor);
        }
        Self::prepared(UnixListener::from(fd))
    }

    /// The next client, if one waits.
    pub(crate) fn accept(&self) -> io::Result<UnixStream> {
        let (stream, _) = self.socket.accept()?;
        stream.set_nonblocking(true)?;
        Ok(stream)
    }

    fn prepared(socket: UnixListener) -> Result<Self, ListenError> {
        socket.set_nonblocking(true).map_err(ListenError::Prepare)?;
        Ok(Self { socket })
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
