//! Guest memory whose pages another process brings when they are touched (userfaultfd(2)), by the protocol of Firecracker's handlers
//! (its docs/snapshotting/handling-page-faults-on-snapshot-resume.md):
//!
//! ```text
//! VMM     connects to the handler's Unix socket
//!         makes guest memory anonymous and empty, makes a userfaultfd, registers every region
//!         sends one message: a JSON array of mappings, and the userfaultfd (SCM_RIGHTS); nothing else is ever sent
//! handler reads faults from the userfaultfd and answers them; of UFFD_EVENT_REMOVE it learns what the balloon gave back
//! ```
//!
//! Two things are ours. The connection stays open and is watched ([`HandlerWatch`]). And the VMM keeps its copy of the userfaultfd for as
//! long as guest memory is used: when the last one is closed, the kernel lets all waiting faults go on with pages of zeroes, which would be
//! a guest that runs on with other memory than was saved.
#![expect(unsafe_code, reason = "guest memory is registered by its address")]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ringwall_arch::GuestRam;
use ringwall_sys::{pass_fd, userfaultfd};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde::Serialize;
use thiserror::Error;
use vm_memory::{GuestMemoryBackend as _, GuestMemoryRegion as _};

use super::fault_clock::FaultClock;
use super::handler_watch::{HandlerWatch, LastWords, Looks};
use crate::memory::{self, HUGE_PAGE_BYTES, MemoryError, MemoryOptions};

/// Longest wait for a handler that listens and takes no connection; a local handler takes it in milliseconds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// What makes a userfaultfd where the system call may not (Linux 6.1).
const DEVICE: &str = "/dev/userfaultfd";

/// Why memory can't be had of a page fault handler.
#[derive(Debug, Error)]
pub enum FaultHandlerError {
    /// Nobody listens.
    #[error("can't connect to the page fault handler at {path}")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// This user may not.
    #[error(
        "this user may not make a userfaultfd: set the sysctl vm.unprivileged_userfaultfd to 1, or give the user rights to {DEVICE}, \
         or CAP_SYS_PTRACE"
    )]
    Forbidden {
        /// What the device said.
        #[source]
        device: io::Error,
    },
    /// The kernel has none, or no descriptors are left.
    #[error("can't make a userfaultfd")]
    Create(#[source] io::Error),
    /// The kernel is too old.
    #[error("this kernel's userfaultfd lacks a feature (events of removed pages, missing pages of hugetlbfs)")]
    Features(#[source] io::Error),
    /// Guest memory can't be made anew.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// A region is not taken.
    #[error("{bytes} bytes of guest memory can't be registered with the userfaultfd")]
    Register {
        /// The region's size.
        bytes: u64,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The mappings can't be written down; a defect of ours.
    #[error("the mappings can't be written down")]
    Mappings(#[source] serde_json::Error),
    /// The handler went, or does not read.
    #[error("the page fault handler does not take the mappings")]
    Send(#[source] io::Error),
    /// No threads.
    #[error("the page fault handler can't be watched")]
    Watch(#[source] io::Error),
}

/// A region of guest memory, as handlers are told of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct Mapping {
    /// Where it is in the VMM.
    base_host_virt_addr: u64,
    /// In bytes.
    size: u64,
    /// Where it begins in the memory file, in bytes.
    offset: u64,
    /// In bytes: what faults are aligned to, and the least that can be copied.
    page_size: u64,
    /// The same, also in bytes: so it is in Firecracker, whatever the name says.
    page_size_kib: u64,
}

/// A connection to a handler that has been told nothing yet, and the userfaultfd that it will get.
#[derive(Debug)]
pub struct Connection {
    socket: UnixStream,
    /// Made with the connection, because it may take a capability that is dropped before guest memory is touched.
    userfault: OwnedFd,
    patience: Option<Duration>,
}

impl Connection {
    /// Connects to a handler's socket, and makes a userfaultfd. The handler has `patience` for each page fault, or as long as it likes.
    ///
    /// # Errors
    /// [`FaultHandlerError::Connect`], [`FaultHandlerError::Create`] and [`FaultHandlerError::Forbidden`].
    pub fn open(path: &Path, device: Option<&File>, patience: Option<Duration>) -> Result<Self, FaultHandlerError> {
        let connected = || -> io::Result<UnixStream> {
            let flags = SocketFlags::CLOEXEC;
            let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
            // Also of connect(2): it waits while the handler's backlog is full.
            set_socket_timeout(&socket, Timeout::Send, Some(CONNECT_TIMEOUT))?;
            rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
            Ok(UnixStream::from(socket))
        };
        let socket = connected().map_err(|source| FaultHandlerError::Connect {
            path: path.to_owned(),
            source,
        })?;
        Connection::over(socket, device, patience)
    }

    /// Takes a connection that is there already, and makes a userfaultfd: by the system call, else by `device`, which is opened if it is not
    /// given. `patience` as above.
    ///
    /// # Errors
    /// [`FaultHandlerError::Create`] and [`FaultHandlerError::Forbidden`].
    pub fn over(
        socket: UnixStream,
        device: Option<&File>,
        patience: Option<Duration>,
    ) -> Result<Self, FaultHandlerError> {
        // It may have been made not to wait, which a message must be able to.
        socket.set_nonblocking(false).map_err(FaultHandlerError::Send)?;
        // But not for ever: a handler that reads nothing is none.
        let bounded = set_socket_timeout(&socket, Timeout::Send, Some(CONNECT_TIMEOUT));
        bounded.map_err(|error| FaultHandlerError::Send(error.into()))?;
        Ok(Connection {
            socket,
            userfault: create(device)?,
            patience,
        })
    }

    /// Empties guest memory and gives it into the handler's hands. From now on an access to it may wait for the handler, and the process
    /// ends when the handler goes.
    ///
    /// # Errors
    /// See [`FaultHandlerError`]; the VM must not run then.
    pub fn take_over(
        self,
        memory: &GuestRam,
        options: MemoryOptions,
        last_words: LastWords,
    ) -> Result<FaultHandler, FaultHandlerError> {
        memory::make_anonymous(memory, options)?;
        let userfault = self.userfault;
        let features = if options.huge_pages {
            userfaultfd::EVENT_REMOVE | userfaultfd::MISSING_HUGETLBFS
        } else {
            userfaultfd::EVENT_REMOVE
        };
        userfaultfd::handshake(userfault.as_fd(), features).map_err(FaultHandlerError::Features)?;
        for region in memory.iter() {
            let bytes = region.len();
            // SAFETY: the range is one mapping that `memory` keeps alive, and guest memory is only ever accessed volatilely.
            let registered = unsafe { userfaultfd::register_missing(userfault.as_fd(), region.as_ptr(), bytes) };
            registered.map_err(|source| FaultHandlerError::Register { bytes, source })?;
        }
        let message = serde_json::to_vec(&mappings(memory, options)).map_err(FaultHandlerError::Mappings)?;
        pass_fd::send(self.socket.as_fd(), &message, &[userfault.as_fd()]).map_err(FaultHandlerError::Send)?;
        let looks = self.patience.map(|patience| looks(patience, &userfault, memory));
        let looks = looks.transpose().map_err(FaultHandlerError::Watch)?;
        let watch = HandlerWatch::start(self.socket, looks, last_words).map_err(FaultHandlerError::Watch)?;
        Ok(FaultHandler {
            watch,
            _userfault: userfault,
        })
    }
}

/// A handler that guest memory is in the hands of. Drop it after everything that uses guest memory.
#[derive(Debug)]
pub struct FaultHandler {
    watch: HandlerWatch,
    _userfault: OwnedFd,
}

impl FaultHandler {
    /// Says that the snapshot is loaded.
    pub fn loaded(&self) {
        self.watch.loaded();
    }

    /// Says that the VM ends by itself.
    pub fn release(&self) {
        self.watch.release();
    }
}

fn looks(patience: Duration, userfault: &OwnedFd, memory: &GuestRam) -> io::Result<Looks> {
    let mut clock = FaultClock::new(userfault.try_clone()?, memory)?;
    Ok(Looks {
        patience,
        period: FaultClock::period(patience),
        is_late: Box::new(move || clock.is_late()),
    })
}

fn create(device: Option<&File>) -> Result<OwnedFd, FaultHandlerError> {
    match userfaultfd::create() {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let device = match device {
                Some(given) => given.try_clone(),
                None => File::options().read(true).write(true).open(DEVICE),
            };
            device
                .and_then(|device| userfaultfd::create_by_device(&device))
                .map_err(|device| FaultHandlerError::Forbidden { device })
        }
        made => made.map_err(FaultHandlerError::Create),
    }
}

/// The regions lie in the memory file one after the other.
fn mappings(memory: &GuestRam, options: MemoryOptions) -> Vec<Mapping> {
    let page_size = if options.huge_pages {
        HUGE_PAGE_BYTES
    } else {
        rustix::param::page_size() as u64
    };
    let mut offset = 0;
    let mut found = Vec::new();
    for region in memory.iter() {
        found.push(Mapping {
            base_host_virt_addr: region.as_ptr().addr() as u64,
            size: region.len(),
            offset,
            page_size,
            page_size_kib: page_size,
        });
        offset += region.len();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;
    use vm_memory::GuestAddress;

    #[test]
    fn regions_follow_each_other_in_the_file() {
        let regions = [(GuestAddress(0), 1 << 20), (GuestAddress(4 << 30), 2 << 20)];
        let memory = memory::create(&regions, MemoryOptions::default()).unwrap();
        let told = serde_json::to_value(mappings(&memory, MemoryOptions::default())).unwrap();
        let page = rustix::param::page_size();
        assert_eq!(told[1]["size"], 2 << 20);
        assert_eq!(told[1]["offset"], 1 << 20);
        assert_eq!(
            (&told[0]["page_size"], &told[0]["page_size_kib"]),
            (&page.into(), &page.into())
        );
        let base = memory.get_host_address(GuestAddress(4 << 30)).unwrap() as u64;
        assert_eq!(told[1]["base_host_virt_addr"], base);
    }

    /// `UFFD_EVENT_REMOVE` (linux/userfaultfd.h), the first byte of a `struct uffd_msg` of 32 bytes.
    const REMOVE: u8 = 0x15;

    #[test]
    fn a_handler_gets_the_mappings_and_is_told_of_what_the_balloon_gives_back() {
        if let Err(error) = create(None) {
            println!("SKIPPED: {error}");
            return;
        }
        let memory = memory::create(&[(GuestAddress(0), 1 << 20)], MemoryOptions::default()).unwrap();
        let base = memory.get_host_address(GuestAddress(0)).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("faults");
        let listener = UnixListener::bind(&path).unwrap();
        let handler = std::thread::spawn(move || {
            let (connection, _) = listener.accept().unwrap();
            let (message, descriptors) = pass_fd::receive(connection.as_fd()).unwrap().unwrap();
            let [userfault] = <[OwnedFd; 1]>::try_from(descriptors).unwrap();
            let mut ready = [rustix::event::PollFd::new(&userfault, rustix::event::PollFlags::IN)];
            rustix::event::poll(&mut ready, None).unwrap();
            let mut event = [0; 32];
            assert_eq!(rustix::io::read(&userfault, &mut event).unwrap(), 32);
            (message, event, connection)
        });
        let connection = Connection::open(&path, None, Some(Duration::from_secs(60))).unwrap();
        let options = MemoryOptions::default();
        let taken = connection.take_over(&memory, options, Box::new(|_| {})).unwrap();
        let page = base.wrapping_add(8192).cast();
        // SAFETY: a page of `memory`, which is accessed only volatilely.
        let advised = unsafe { rustix::mm::madvise(page, 4096, rustix::mm::Advice::LinuxDontNeed) };
        advised.unwrap();
        let (message, event, _connection) = handler.join().unwrap();
        let told: serde_json::Value = serde_json::from_slice(&message).unwrap();
        assert_eq!(told[0]["base_host_virt_addr"], base as u64);
        assert_eq!(event[0], REMOVE);
        assert_eq!(u64::from_ne_bytes(event[8..16].try_into().unwrap()), base as u64 + 8192);
        assert_eq!(
            u64::from_ne_bytes(event[16..24].try_into().unwrap()),
            base as u64 + 12288
        );
        // Before the handler's end is closed, which would end this process.
        drop(taken);
    }

    #[test]
    fn a_socket_that_nobody_listens_on_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("none");
        let error = Connection::open(&path, None, None).unwrap_err();
        let wanted = format!("can't connect to the page fault handler at {}", path.display());
        assert_eq!(error.to_string(), wanted);
        drop(UnixListener::bind(&path).unwrap());
        assert!(Connection::open(&path, None, None).is_err());
    }
}
