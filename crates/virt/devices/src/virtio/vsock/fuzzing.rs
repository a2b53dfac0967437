//! Entry points for fuzzers: not part of the interface.

use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::net::{AddressFamily, SocketFlags, SocketType, listen, socket_with};

use super::connector::Connector;
use super::deadlines::Timeouts;
use super::device::Vsock;
use super::metrics::Metrics;
use super::muxer::{MOST_CONNECTIONS, MOST_RESETS, Muxer};
use super::packet::{HEADER_BYTES, Header};

/// Connects some ports, and keeps the other ends.
#[derive(Debug, Default, Clone)]
struct Pairs(Arc<Mutex<Vec<UnixStream>>>);

impl Connector for Pairs {
    fn connect(&mut self, port: u32) -> std::io::Result<OwnedFd> {
        let mut ends = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if port % 4 == 3 || ends.len() >= 64 {
            return Err(std::io::ErrorKind::ConnectionRefused.into());
        }
        let (ours, theirs) = UnixStream::pair()?;
        theirs.set_nonblocking(true)?;
        ends.push(theirs);
        Ok(ours.into())
    }
}

/// What is outside of a device made by [`device`].
#[derive(Debug)]
pub struct Outside {
    listener: UnixListener,
    connected: Pairs,
}

impl Outside {
    /// Connects to the device's socket, without waiting for the device.
    ///
    /// # Errors
    /// What the system says; `EAGAIN` if too many wait already.
    pub fn connect(&self) -> std::io::Result<UnixStream> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        rustix::net::connect(&socket, &rustix::net::getsockname(&self.listener)?)?;
        Ok(socket.into())
    }

    /// The other ends of what the guest has connected to since the last call.
    #[must_use]
    pub fn take_connected(&self) -> Vec<UnixStream> {
        std::mem::take(&mut *self.connected.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A device for the guest 3, without any path.
///
/// # Errors
/// What the system says.
pub fn device() -> std::io::Result<(Vsock, Outside)> {
    let outside = Outside {
        listener: unnamed_listener()?,
        connected: Pairs::default(),
    };
    let listener = outside.listener.try_clone()?.into();
    let connector = Box::new(outside.connected.clone());
    let device = Vsock::new("vsock", 3, listener, connector, Timeouts::default()).map_err(std::io::Error::other)?;
    Ok((device, outside))
}

/// Feeds a muxer with packets: each is a byte that says what the guest does with its buffers and how much data follows, a header,
/// and the data.
pub fn fuzz_packets(data: &[u8]) {
    // A listener whose name the system chooses and forgets (unix(7), autobind).
    let Ok(listener) = unnamed_listener() else {
        return;
    };
    let connector = Box::new(Pairs::default());
    let Ok(mut muxer) = Muxer::new(
        3,
        listener.into(),
        connector,
        Timeouts::default(),
        Metrics::default().into(),
    ) else {
        return;
    };
    let mut room = [0; 4096];
    let mut rest = data;
    while let Some((&[step], after)) = rest.split_first_chunk::<1>()
        && let Some((header, after)) = after.split_first_chunk::<HEADER_BYTES>()
    {
        let length = usize::from(step >> 3).saturating_mul(8).min(after.len());
        let (data, after) = after.split_at_checked(length).unwrap_or_default();
        rest = after;
        let mut header = Header::parse(header);
        // Otherwise almost no packet would get past the first check.
        header.source_cid &= 3;
        header.destination_cid &= 3;
        header.source_port &= 7;
        header.destination_port &= 7;
        header.kind &= 3;
        header.operation &= 15;
        if step & 1 != 0 {
            header.length = u32::try_from(length).unwrap_or(u32::MAX);
        }
        let is_whole = usize::try_from(header.length).is_ok_and(|length| length == data.len());
        muxer.receive(&header, is_whole.then_some(data));
        if step & 2 != 0 {
            let _any = muxer.poll();
        }
        if step & 4 != 0 {
            while let Some(header) = muxer.next_for_guest(&mut room) {
                assert!(usize::try_from(header.length).is_ok_and(|length| length <= room.len()));
            }
        }
        assert!(muxer.known_to_guest().len() <= MOST_CONNECTIONS.saturating_add(MOST_RESETS));
        if muxer.is_full() {
            break;
        }
    }
}

fn unnamed_listener() -> std::io::Result<UnixListener> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    rustix::net::bind(&socket, &rustix::net::SocketAddrUnix::new_unnamed())?;
    listen(&socket, 64)?;
    Ok(socket.into())
}
