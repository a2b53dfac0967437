//! A descriptor that is written to without waiting for whoever reads it: standard output and error, which this program shares with its starter,
//! and files of its own.
//!
//! `O_NONBLOCK` is a property of what is open and not of the descriptor (open(2)), so setting it on standard output would change it for the
//! starter too. So each kind of it has a way of its own:
//!
//! | | |
//! |---|---|
//! | pipe | opened once more by /proc, without waiting; where that may not be, asked before each `PIPE_BUF` bytes |
//! | terminal | asked before each byte |
//! | socket | sent to with `MSG_DONTWAIT` |
//! | file, other device | never waits for a reader |

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};
use rustix::net::{SendFlags, send};

/// `PIPE_BUF` (linux/limits.h): a pipe that says it is writable takes so much at once (pipe(7)).
const PIPE_BUF: usize = 4096;
/// A terminal that says it is writable takes one byte.
const TERMINAL_BYTES: usize = 1;

/// How not to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// It is open without waiting, or of a kind that has no reader.
    Write,
    /// Asked before, and at most so many bytes.
    Ask(usize),
    Send,
}

/// A descriptor that is written to without waiting; what it does not take is `WouldBlock`.
#[derive(Debug)]
pub(crate) struct Outlet {
    descriptor: OwnedFd,
    way: Way,
}

impl Outlet {
    /// One that others have too.
    ///
    /// # Errors
    /// What the system says; above all that it is closed.
    pub(crate) fn shared(descriptor: BorrowedFd<'_>) -> io::Result<Self> {
        let kind = FileType::from_raw_mode(fstat(descriptor)?.st_mode);
        let (way, own) = match kind {
            FileType::Fifo => match reopen(descriptor) {
                Ok(own) => (Way::Write, Some(own)),
                Err(_) => (Way::Ask(PIPE_BUF), None),
            },
            FileType::Socket => (Way::Send, None),
            // Not opened once more: of a pseudoterminal's master that makes another terminal (pts(4)).
            FileType::CharacterDevice if rustix::termios::isatty(descriptor) => (Way::Ask(TERMINAL_BYTES), None),
            _ => (Way::Write, None),
        };
        let descriptor = match own {
            Some(own) => own,
            None => descriptor.try_clone_to_owned()?,
        };
        Ok(Outlet { descriptor, way })
    }

    /// One that was opened without waiting, or a terminal, of which that may not hold.
    pub(crate) fn own(file: File) -> Self {
        let way = if rustix::termios::isatty(&file) {
            Way::Ask(TERMINAL_BYTES)
        } else {
            Way::Write
        };
        Outlet {
            descriptor: file.into(),
            way,
        }
    }

    /// Whether it takes something now, or within so much time.
    pub(crate) fn is_ready(&self, within: Duration) -> bool {
        let mut descriptors = [PollFd::new(&self.descriptor, PollFlags::OUT)];
        let timeout = Timespec::try_from(within).ok();
        // Hang-up and error too: writing then says so.
        poll(&mut descriptors, timeout.as_ref()).is_ok_and(|ready| ready > 0)
    }

    /// Writes all, waiting for the reader no longer than `within`; false if that was not enough, or it is gone.
    pub(crate) fn write_within(&mut self, mut bytes: &[u8], within: Duration) -> bool {
        let begun = Instant::now();
        while !bytes.is_empty() {
            match self.write(bytes) {
                Ok(taken) if taken > 0 => bytes = bytes.get(taken..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let left = within.saturating_sub(begun.elapsed());
                    if left.is_zero() || !self.is_ready(left) {
                        return false;
                    }
                }
                Ok(_) | Err(_) => return false,
            }
        }
        true
    }
}

/// Opens what a descriptor is open for once more, with properties of its own.
fn reopen(descriptor: BorrowedFd<'_>) -> rustix::io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", descriptor.as_raw_fd());
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty())
}

impl Write for Outlet {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = match self.way {
            Way::Write => rustix::io::write(&self.descriptor, bytes),
            Way::Send => send(&self.descriptor, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL),
            Way::Ask(most) => {
                if !self.is_ready(Duration::ZERO) {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                rustix::io::write(&self.descriptor, bytes.get(..most).unwrap_or(bytes))
            }
        };
        Ok(taken?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Outlet {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::fcntl_getfl;
    use std::io::Read as _;
    use std::os::unix::net::UnixStream;

    /// Writes until it takes nothing more; how much that was.
    fn fill(outlet: &mut Outlet) -> usize {
        let chunk: Vec<u8> = (0..10_000_u32).map(|number| number.to_le_bytes()[0]).collect();
        let mut all = 0;
        loop {
            match outlet.write(&chunk[all % chunk.len()..]) {
                Ok(taken) => all += taken,
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                    return all;
                }
            }
            assert!(all < 16 << 20, "it takes everything");
        }
    }

    fn is_whole(bytes: &[u8]) -> bool {
        bytes
            .iter()
            .zip(0_usize..)
            .all(|(&byte, at)| usize::from(byte) == at % 10_000 % 256)
    }

    #[test]
    fn a_full_pipe_takes_nothing_and_stays_as_its_other_users_know_it() {
        for is_asked in [false, true] {
            let (mut reader, writer) = io::pipe().unwrap();
            let mut outlet = Outlet::shared(writer.as_fd()).unwrap();
            assert_eq!(outlet.way, Way::Write);
            if is_asked {
                // As where /proc does not give it.
                outlet = Outlet {
                    descriptor: writer.try_clone().unwrap().into(),
                    way: Way::Ask(PIPE_BUF),
                };
            }
            let filled = fill(&mut outlet);
            assert!(filled >= 30_000, "{filled}");
            assert!(!fcntl_getfl(&writer).unwrap().contains(OFlags::NONBLOCK));
            let begun = Instant::now();
            assert!(!outlet.write_within(b"more", Duration::from_millis(50)));
            assert!(begun.elapsed() < Duration::from_secs(10));
            let mut bytes = vec![0; filled];
            reader.read_exact(&mut bytes).unwrap();
            assert!(is_whole(&bytes));
            assert!(outlet.write_within(b"more", Duration::from_secs(10)));
            drop(reader);
            // Another test may be starting a program, which has all descriptors for a moment.
            while !outlet
                .write(b"x")
                .is_err_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
            {
                assert!(begun.elapsed() < Duration::from_secs(60), "it goes on without reader");
                std::thread::yield_now();
            }
        }
    }

    #[test]
    fn a_full_socket_takes_nothing() {
        let (reader, writer) = UnixStream::pair().unwrap();
        let mut outlet = Outlet::shared(writer.as_fd()).unwrap();
        assert_eq!(outlet.way, Way::Send);
        fill(&mut outlet);
        assert!(!fcntl_getfl(&writer).unwrap().contains(OFlags::NONBLOCK));
        drop(reader);
        assert!(outlet.write(b"x").is_err());
    }

    #[test]
    fn a_full_terminal_takes_nothing() {
        use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let terminal = openat(CWD, name, flags, Mode::empty()).unwrap();
        let mut outlet = Outlet::shared(terminal.as_fd()).unwrap();
        assert_eq!(outlet.way, Way::Ask(TERMINAL_BYTES));
        assert!(fill(&mut outlet) > 0);
        assert_eq!(Outlet::own(terminal.into()).way, Way::Ask(TERMINAL_BYTES));
    }

    #[test]
    fn a_file_takes_everything() {
        let mut file = tempfile::tempfile().unwrap();
        let mut outlet = Outlet::shared(file.as_fd()).unwrap();
        assert_eq!(outlet.way, Way::Write);
        assert!(outlet.write_within(&[7; 1 << 20], Duration::ZERO));
        assert_eq!(
            io::Seek::stream_position(&mut file).unwrap(),
            1 << 20,
            "one place for both"
        );
        let null = File::open("/dev/null").unwrap();
        assert_eq!(Outlet::shared(null.as_fd()).unwrap().way, Way::Write);
    }
}
