//! Talking to the agent of a sandbox: small requests, small answers.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use ringwall_backend_process::{AGENT_SOCKET, PORTS_SOCKET};
use ringwall_sandbox::service::ServiceError;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use tokio::net::UnixStream;

/// Longest answer taken.
const MAX_ANSWER_BYTES: usize = 1 << 20;
/// How long an agent has to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Opens a path of a socket that may be longer than a socket's address can be.
fn by_directory(directory: &Path, name: &str) -> io::Result<(OwnedFd, String)> {
    let fd = rustix::fs::openat(
        CWD,
        directory,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let path = format!("/proc/self/fd/{}/{name}", fd.as_raw_fd());
    Ok((fd, path))
}

/// Connects to the agent of the sandbox whose state directory this is.
pub(crate) async fn connect_agent(directory: &Path) -> io::Result<UnixStream> {
    let (_directory, path) = by_directory(directory, AGENT_SOCKET)?;
    UnixStream::connect(path).await
}

/// Sends one request and returns the status and body of the answer.
pub(crate) async fn request(
    directory: &Path,
    method: Method,
    path: &str,
    token: Option<&str>,
    body: Vec<u8>,
) -> io::Result<(StatusCode, Bytes)> {
    let exchange = async {
        let stream = connect_agent(directory).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        let driver = tokio::spawn(connection);
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "agent")
            .header("content-type", "application/json");
        if let Some(token) = token {
            request = request.header("x-access-token", token);
        }
        let request = request.body(Full::new(Bytes::from(body))).map_err(io::Error::other)?;
        let answer = sender.send_request(request).await.map_err(io::Error::other)?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES)
            .collect()
            .await
            .map_err(io::Error::other)?
            .to_bytes();
        driver.abort();
        Ok((status, body))
    };
    tokio::time::timeout(PATIENCE, exchange)
        .await
        .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "the agent does not answer")))
}

/// Asks the agent for a connection to a TCP port inside.
pub(crate) async fn connect_port(directory: &Path, port: u16) -> Result<OwnedFd, ServiceError> {
    let failed = ServiceError::internal("can't reach the sandbox's agent");
    let exchange = async {
        let (_directory, path) = by_directory(directory, PORTS_SOCKET)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        connect(&socket, &SocketAddrUnix::new(path)?)?;
        rustix::net::send(&socket, &port.to_le_bytes(), rustix::net::SendFlags::NOSIGNAL)?;
        // For tokio only a descriptor to wait on: no byte is read but by recvmsg(2) below.
        let socket = UnixStream::from_std(socket.into())?;
        loop {
            socket.readable().await?;
            match socket.try_io(tokio::io::Interest::READABLE, || {
                ringwall_sys::pass_fd::receive(socket.as_fd())
            }) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                answer => return answer,
            }
        }
    };
    let answer = tokio::time::timeout(PATIENCE, exchange)
        .await
        .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "the agent does not answer")));
    match answer {
        Ok(Some((bytes, mut fds))) => match (bytes.first(), fds.pop()) {
            (Some(0), Some(fd)) => Ok(fd),
            (Some(1), _) => Err(ServiceError::PortClosed),
            _ => Err(failed(io::Error::other("the agent could not connect"))),
        },
        Ok(None) => Err(failed(io::Error::from(io::ErrorKind::UnexpectedEof))),
        Err(error) => Err(failed(error)),
    }
}
