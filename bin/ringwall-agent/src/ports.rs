//! Connecting to the sandbox's own TCP ports for the host, which has no way into this network namespace.
//!
//! One packet asks for a port; one packet answers, with the connected socket attached. The socket is non-blocking, as the agent used it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use crate::descriptor::{self, Watched};
use rustix::net::SocketFlags;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

/// Connected; the socket is attached.
const CONNECTED: u8 = 0;
/// Nobody listens on the port.
const REFUSED: u8 = 1;
/// Anything else.
const FAILED: u8 = 2;
/// Longest wait for a connection: on loopback it is at once or the backlog is full.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections of the host served at a time.
const MAX_CLIENTS: usize = 64;

/// Makes the listening socket fit for the event loop.
pub(crate) fn listener(fd: OwnedFd) -> io::Result<Watched> {
    rustix::io::ioctl_fionbio(&fd, true)?;
    descriptor::watch(fd)
}

/// Serves until the agent ends.
pub(crate) async fn serve(listener: Watched) {
    let places = Rc::new(Semaphore::new(MAX_CLIENTS));
    loop {
        if places
            .acquire()
            .await
            .map(tokio::sync::SemaphorePermit::forget)
            .is_err()
        {
            return;
        }
        match accept(&listener).await {
            Ok(client) => {
                let places = places.clone();
                tokio::task::spawn_local(async move {
                    // An error ends this connection only; the host makes another.
                    let _ended = converse(&client).await;
                    places.add_permits(1);
                });
            }
            Err(_) => {
                places.add_permits(1);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn accept(listener: &Watched) -> io::Result<Watched> {
    loop {
        let mut ready = listener.readable().await?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        if let Ok(accepted) = ready.try_io(|inner| Ok(rustix::net::accept_with(inner, flags)?)) {
            return descriptor::watch(accepted?);
        }
    }
}

/// Answers one host connection, a packet at a time, until it closes.
async fn converse(client: &Watched) -> io::Result<()> {
    loop {
        let mut ready = client.readable().await?;
        let Ok(received) = ready.try_io(|inner| ringwall_sys::pass_fd::receive(inner.as_fd())) else {
            continue;
        };
        // Descriptors sent to us are closed here: none are expected.
        let Some((packet, _)) = received? else {
            return Ok(());
        };
        let connected = match <[u8; 2]>::try_from(packet.as_slice()) {
            Ok(port) => connect(u16::from_le_bytes(port)).await,
            Err(_) => Err(io::ErrorKind::InvalidInput.into()),
        };
        match connected {
            Ok(stream) => answer(client, CONNECTED, &[stream.as_fd()]).await?,
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => answer(client, REFUSED, &[]).await?,
            Err(_) => answer(client, FAILED, &[]).await?,
        }
    }
}

async fn answer(client: &Watched, code: u8, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    loop {
        let mut ready = client.writable().await?;
        if let Ok(sent) = ready.try_io(|inner| ringwall_sys::pass_fd::send(inner.as_fd(), &[code], fds)) {
            return sent;
        }
    }
}

/// Connects over IPv4, then IPv6. Without a listener on either the answer is "refused", also where there is no IPv6.
async fn connect(port: u16) -> io::Result<TcpStream> {
    let try_one = async |address: IpAddr| {
        let connecting = TcpStream::connect(SocketAddr::new(address, port));
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await??;
        // A connection to an ephemeral port can meet itself (simultaneous open): nobody listens there.
        if stream.local_addr()? == stream.peer_addr()? {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        Ok(stream)
    };
    match try_one(Ipv4Addr::LOCALHOST.into()).await {
        Ok(stream) => Ok(stream),
        Err(first) => try_one(Ipv6Addr::LOCALHOST.into()).await.map_err(|_| first),
    }
}
