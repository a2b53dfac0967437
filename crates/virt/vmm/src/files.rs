//! The one door to the host's files: a path that is opened, or a descriptor that the VMM's starter left open for it (`fd:N`).
//!
//! What can be named is settled at the start: descriptors that were open then, and never one that the VMM has made itself. A descriptor is
//! duplicated each time it is named, so that a request can be made again; only a connection is given away for good. What is given must be
//! of the kind, and open for what it is used for.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use ringwall_vmm_proto::{HostPath, MAX_DESCRIPTOR, Place};
use rustix::fs::OFlags;
use rustix::net::{AddressFamily, SocketType, sockopt};
use thiserror::Error;

use crate::append;
use crate::open::{self, OpenError};

/// Why a file can't be had.
#[derive(Debug, Error)]
pub enum OpenFileError {
    /// The system says no.
    #[error("can't open the {what} {path}")]
    Open {
        /// What it is for.
        what: &'static str,
        /// Which.
        path: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Something else is there.
    #[error(transparent)]
    NotFile(OpenError),
    /// It is outside of where this VMM may go.
    #[error("can't open the {what} {path}: it is outside of {allowed}, where --confine-to keeps this VMM")]
    Outside {
        /// What it is for.
        what: &'static str,
        /// Which.
        path: String,
        /// Where it may go.
        allowed: String,
    },
    /// This VMM opens nothing by its name.
    #[error("can't open the {what} {path}: with --no-paths everything is a descriptor, fd:N")]
    NoPaths {
        /// What it is for.
        what: &'static str,
        /// Which.
        path: String,
    },
    /// No such descriptor.
    #[error("the {what} is to be descriptor {number}, which was not open when this VMM was started, or was used up")]
    NotGiven {
        /// What it is for.
        what: &'static str,
        /// Which.
        number: u16,
    },
    /// Something else is open there.
    #[error("the {what} is to be descriptor {number}, which is not {wanted}")]
    Kind {
        /// What it is for.
        what: &'static str,
        /// Which.
        number: u16,
        /// What it should be.
        wanted: &'static str,
    },
    /// It is open for something else.
    #[error("the {what} is to be descriptor {number}, which is not open for {wanted}")]
    Mode {
        /// What it is for.
        what: &'static str,
        /// Which.
        number: u16,
        /// What it should be open for.
        wanted: &'static str,
    },
    /// The descriptor can't be used.
    #[error("the {what} is to be descriptor {number}, which can't be used")]
    Use {
        /// What it is for.
        what: &'static str,
        /// Which.
        number: u16,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// What a file is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reading a file.
    Read,
    /// Reading and writing a file.
    ReadWrite,
    /// A disk: a file or block device.
    Disk {
        /// Whether it is written too.
        writable: bool,
    },
    /// Writing to the end of a file, pipe, terminal or socket, which is made if there is nothing.
    Output,
    /// The same, for what may be a named pipe that has no reader yet (fifo(7)): a path is opened for reading too.
    Record,
}

/// Which paths can be opened at all. Landlock enforces it; this is for errors that say so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Reach {
    /// What the user may.
    #[default]
    Anywhere,
    /// What is below these.
    Below(Vec<PathBuf>),
    /// None.
    Nowhere,
}

/// The host's files, as far as this VMM gets.
#[derive(Debug, Default)]
pub struct Files {
    given: BTreeMap<u16, OwnedFd>,
    /// Which paths can be opened.
    pub reach: Reach,
}

impl Files {
    /// Takes every descriptor that is open now, but the standard streams. To be called before the program has opened anything itself.
    ///
    /// # Errors
    /// What the system says.
    pub fn inherit() -> io::Result<Self> {
        let all = ringwall_sys::inherited::take_all(MAX_DESCRIPTOR)?;
        let numbered = all
            .into_iter()
            .filter_map(|fd| Some((u16::try_from(fd.as_raw_fd()).ok()?, fd)));
        Ok(Files {
            given: numbered.collect(),
            reach: Reach::Anywhere,
        })
    }

    /// Opens a file.
    ///
    /// # Errors
    /// See [`OpenFileError`].
    pub fn open(&self, what: &'static str, path: &HostPath, access: Access) -> Result<File, OpenFileError> {
        match path.place() {
            Place::Path(path) => {
                self.reach(what, path)?;
                let opened = match access {
                    Access::Read => return self.known(what, path, open::file(what, path, false)),
                    Access::ReadWrite => return self.known(what, path, open::file(what, path, true)),
                    Access::Disk { writable } => return self.known(what, path, open::disk(path, writable)),
                    // A pipe without reader must not stop the VMM, and one that is full not the guest.
                    Access::Output => append::open(path, false),
                    Access::Record => append::open(path, true),
                };
                opened.map_err(|source| self.failed(what, path, source))
            }
            Place::Descriptor(number) => self.given_file(what, number, access),
        }
    }

    fn known(&self, what: &'static str, path: &Path, opened: Result<File, OpenError>) -> Result<File, OpenFileError> {
        opened.map_err(|error| match error {
            OpenError::Open { source, .. } => self.failed(what, path, source),
            other => OpenFileError::NotFile(other),
        })
    }

    /// Reads all of something; a pipe will do, which is how a shell gives what another program writes.
    ///
    /// # Errors
    /// See [`OpenFileError`].
    pub fn read(&self, what: &'static str, path: &HostPath) -> Result<Vec<u8>, OpenFileError> {
        match path.place() {
            Place::Path(path) => {
                self.reach(what, path)?;
                std::fs::read(path).map_err(|source| self.failed(what, path, source))
            }
            Place::Descriptor(number) => {
                let mut contents = Vec::new();
                let read = self.given_file(what, number, Access::Read)?.read_to_end(&mut contents);
                read.map_err(|source| OpenFileError::Use { what, number, source })?;
                Ok(contents)
            }
        }
    }

    /// Whether a path can be opened at all.
    ///
    /// # Errors
    /// [`OpenFileError::NoPaths`].
    pub fn reach(&self, what: &'static str, path: &Path) -> Result<(), OpenFileError> {
        match self.reach {
            Reach::Nowhere => Err(OpenFileError::NoPaths {
                what,
                path: path.display().to_string(),
            }),
            Reach::Anywhere | Reach::Below(_) => Ok(()),
        }
    }

    /// Whether a socket can be connected to, which Landlock does not decide (not in its ABI 7).
    ///
    /// # Errors
    /// [`OpenFileError::NoPaths`], [`OpenFileError::Outside`].
    pub fn reach_socket(&self, what: &'static str, path: &Path) -> Result<(), OpenFileError> {
        self.reach(what, path)?;
        let Reach::Below(folders) = &self.reach else {
            return Ok(());
        };
        match path.canonicalize() {
            Ok(whole) if !is_below(&whole, folders) => {
                Err(self.failed(what, &whole, io::ErrorKind::PermissionDenied.into()))
            }
            // What is not there is said when it is connected to.
            _ => Ok(()),
        }
    }

    /// The error of a path that could not be opened.
    #[must_use]
    pub fn failed(&self, what: &'static str, path: &Path, source: io::Error) -> OpenFileError {
        match &self.reach {
            Reach::Below(folders) if source.kind() == io::ErrorKind::PermissionDenied && !is_below(path, folders) => {
                let folders: Vec<_> = folders.iter().map(|folder| folder.display().to_string()).collect();
                OpenFileError::Outside {
                    what,
                    path: path.display().to_string(),
                    allowed: folders.join(" and "),
                }
            }
            _ => OpenFileError::Open {
                what,
                path: path.display().to_string(),
                source,
            },
        }
    }

    /// A duplicate of a given descriptor of any kind.
    ///
    /// # Errors
    /// [`OpenFileError::NotGiven`], [`OpenFileError::Use`].
    pub fn duplicate(&self, what: &'static str, number: u16) -> Result<OwnedFd, OpenFileError> {
        let given = self.given.get(&number);
        let given = given.ok_or(OpenFileError::NotGiven { what, number })?;
        given
            .try_clone()
            .map_err(|source| OpenFileError::Use { what, number, source })
    }

    /// A duplicate of a given Unix socket that listens; it no longer waits.
    ///
    /// # Errors
    /// See [`OpenFileError`].
    pub fn listener(&self, what: &'static str, number: u16) -> Result<OwnedFd, OpenFileError> {
        let socket = self.duplicate(what, number)?;
        if !is_unix_stream(&socket) || sockopt::socket_acceptconn(&socket) != Ok(true) {
            let wanted = "a listening Unix stream socket";
            return Err(OpenFileError::Kind { what, number, wanted });
        }
        does_not_wait(&socket).map_err(|source| OpenFileError::Use { what, number, source })?;
        Ok(socket)
    }

    /// Gives a connected Unix socket away: were it duplicated, the other end would not see it closed.
    ///
    /// # Errors
    /// See [`OpenFileError`].
    pub fn take_connection(&mut self, what: &'static str, number: u16) -> Result<OwnedFd, OpenFileError> {
        let given = self.given.get(&number);
        let socket = given.ok_or(OpenFileError::NotGiven { what, number })?;
        if !is_unix_stream(socket) || sockopt::socket_acceptconn(socket) != Ok(false) {
            let wanted = "a connected Unix stream socket";
            return Err(OpenFileError::Kind { what, number, wanted });
        }
        self.given
            .remove(&number)
            .ok_or(OpenFileError::NotGiven { what, number })
    }

    /// Gives a descriptor away, whatever it is; it can't be named any more.
    pub fn give_away(&mut self, number: u16) -> Option<OwnedFd> {
        self.given.remove(&number)
    }

    fn given_file(&self, what: &'static str, number: u16, access: Access) -> Result<File, OpenFileError> {
        let unusable = |source| OpenFileError::Use { what, number, source };
        let mut file = File::from(self.duplicate(what, number)?);
        let flags = rustix::fs::fcntl_getfl(&file).map_err(|error| unusable(error.into()))?;
        let mode = flags & OFlags::RWMODE;
        let (is_open_for_it, wanted) = match access {
            Access::Read | Access::Disk { writable: false } => (mode != OFlags::WRONLY, "reading"),
            Access::ReadWrite | Access::Disk { writable: true } => {
                // pwrite(2), BUGS: with O_APPEND it writes to the end, whatever it is told.
                let is_anywhere = mode == OFlags::RDWR && !flags.contains(OFlags::APPEND);
                (is_anywhere, "reading and writing anywhere")
            }
            Access::Output | Access::Record => (mode != OFlags::RDONLY, "writing"),
        };
        if !is_open_for_it || flags.contains(OFlags::PATH) {
            return Err(OpenFileError::Mode { what, number, wanted });
        }
        let kind = file.metadata().map_err(unusable)?.file_type();
        match access {
            Access::Read | Access::ReadWrite if !kind.is_file() => {
                let wanted = "a file";
                Err(OpenFileError::Kind { what, number, wanted })
            }
            Access::Disk { .. } if !kind.is_file() && !kind.is_block_device() => {
                let wanted = "a file or block device";
                Err(OpenFileError::Kind { what, number, wanted })
            }
            Access::Read | Access::ReadWrite | Access::Disk { .. } => {
                // Its place is shared with the descriptor that was given, and whoever used that last left it somewhere.
                file.rewind().map_err(unusable)?;
                Ok(file)
            }
            Access::Output | Access::Record if kind.is_block_device() || kind.is_dir() => {
                let wanted = "a file, pipe, terminal or socket";
                Err(OpenFileError::Kind { what, number, wanted })
            }
            Access::Output | Access::Record => {
                if kind.is_fifo() || kind.is_socket() {
                    does_not_wait(&file).map_err(unusable)?;
                }
                Ok(file)
            }
        }
    }
}

fn is_unix_stream(socket: &OwnedFd) -> bool {
    let is_unix = sockopt::socket_domain(socket) == Ok(AddressFamily::UNIX);
    is_unix && sockopt::socket_type(socket) == Ok(SocketType::STREAM)
}

fn does_not_wait(descriptor: impl std::os::fd::AsFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(&descriptor)?;
    Ok(rustix::fs::fcntl_setfl(&descriptor, flags | OFlags::NONBLOCK)?)
}

/// Whether a path's text says that it is below one of these. Links are not followed: it only decides what an error says.
fn is_below(path: &Path, folders: &[PathBuf]) -> bool {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    folders.iter().any(|folder| path.starts_with(folder))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::os::unix::net::{UnixListener, UnixStream};

    fn holding(fds: Vec<(u16, OwnedFd)>) -> Files {
        Files {
            given: fds.into_iter().collect(),
            reach: Reach::Anywhere,
        }
    }

    fn named(path: &str) -> HostPath {
        HostPath::new("p", path.to_owned()).unwrap()
    }

    fn refused(files: &Files, number: u16, access: Access) -> String {
        let opened = files.open("drive", &named(&format!("fd:{number}")), access);
        opened.unwrap_err().to_string()
    }

    #[test]
    fn a_given_file_can_be_named_again_and_is_read_from_its_beginning() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"contents").unwrap();
        let files = holding(vec![(7, file.into())]);
        for _ in 0..2 {
            assert_eq!(files.read("kernel", &named("fd:7")).unwrap(), b"contents");
        }
    }

    #[test]
    fn a_descriptor_must_be_given_and_open_for_its_use() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let write_only = File::create(&path).unwrap();
        let read_only = File::open(&path).unwrap();
        let as_path = rustix::fs::open(&path, OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
        let directory = File::open(folder.path()).unwrap();
        let appends = File::options().read(true).append(true).open(&path).unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        let files = holding(vec![
            (10, write_only.into()),
            (11, read_only.into()),
            (12, as_path),
            (13, directory.into()),
            (14, reader.into()),
            (15, writer.into()),
            (16, appends.into()),
        ]);
        for (number, access, wanted) in [
            (9, Access::Read, "was not open when"),
            (10, Access::Read, "not open for reading"),
            (10, Access::ReadWrite, "not open for reading and writing"),
            (11, Access::ReadWrite, "not open for reading and writing"),
            (16, Access::ReadWrite, "not open for reading and writing"),
            (11, Access::Output, "not open for writing"),
            (12, Access::Read, "not open for reading"),
            (13, Access::Read, "not a file"),
            (14, Access::Disk { writable: false }, "not a file or block device"),
            (10, Access::Disk { writable: true }, "not open for reading and writing"),
        ] {
            let text = refused(&files, number, access);
            assert!(text.contains(wanted), "{number} {access:?}: {text}");
        }
        assert!(files.open("log", &named("fd:10"), Access::Record).is_ok());
        let pipe = files.open("log", &named("fd:15"), Access::Output).unwrap();
        assert!(rustix::fs::fcntl_getfl(&pipe).unwrap().contains(OFlags::NONBLOCK));
    }

    #[test]
    fn sockets_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("s")).unwrap();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut files = holding(vec![(20, listener.into()), (21, ours.into())]);
        assert!(files.listener("vsock", 20).is_ok());
        assert!(
            files
                .listener("vsock", 21)
                .unwrap_err()
                .to_string()
                .contains("listening")
        );
        let wrong = files.take_connection("handler", 20).unwrap_err();
        assert!(wrong.to_string().contains("connected"), "{wrong}");
        drop(files.take_connection("handler", 21).unwrap());
        // Nothing holds it any more.
        assert_eq!(theirs.read(&mut [0]).unwrap(), 0);
        let gone = files.take_connection("handler", 21).unwrap_err();
        assert!(matches!(gone, OpenFileError::NotGiven { .. }), "{gone}");
    }

    #[test]
    fn errors_say_where_a_vmm_is_kept() {
        let mut files = holding(Vec::new());
        let denied = || io::Error::from(io::ErrorKind::PermissionDenied);
        files.reach = Reach::Below(vec!["/srv/vm".into()]);
        let outside = files.failed("kernel", Path::new("/etc/shadow"), denied()).to_string();
        assert!(outside.contains("outside of /srv/vm"), "{outside}");
        let inside = files.failed("kernel", Path::new("/srv/vm/kernel"), denied());
        assert!(matches!(inside, OpenFileError::Open { .. }), "{inside}");
        files.reach = Reach::Nowhere;
        let refused = files.open("kernel", &named("/etc/passwd"), Access::Read).unwrap_err();
        assert!(matches!(refused, OpenFileError::NoPaths { .. }), "{refused}");
    }
}
