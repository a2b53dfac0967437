//! Where connections come from, and how one too many is sent away.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::tls::{self, Tls};

/// What a connection too many is told.
const TOO_MANY: &str = "{\"code\":503,\"message\":\"too many connections at once\"}";

/// Where connections come from, and what is spoken there.
#[derive(Debug)]
pub enum Listener {
    /// Plain HTTP.
    Plain(TcpListener),
    /// HTTP within TLS.
    Tls(TcpListener, Arc<Tls>),
    /// Plain HTTP on a Unix socket, for this machine's own commands: they need no name that a certificate is for.
    Local(UnixListener),
}

/// A connection just taken.
#[derive(Debug)]
pub(crate) enum Taken {
    Plain(TcpStream),
    Tls(TcpStream, Arc<Tls>),
    Local(UnixStream),
}

/// Who is at the other end, for logs.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Peer {
    Address(SocketAddr),
    Local,
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Peer::Address(address) => address.fmt(f),
            Peer::Local => f.write_str("local"),
        }
    }
}

impl Listener {
    pub(crate) async fn take(&self) -> std::io::Result<(Taken, Peer)> {
        match self {
            Listener::Plain(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok((Taken::Plain(stream), Peer::Address(peer)))
            }
            Listener::Tls(listener, tls) => {
                let (stream, peer) = listener.accept().await?;
                Ok((Taken::Tls(stream, Arc::clone(tls)), Peer::Address(peer)))
            }
            Listener::Local(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok((Taken::Local(stream), Peer::Local))
            }
        }
    }
}

/// Answers a connection too many without reading from it; what does not fit into its send buffer is not sent.
pub(crate) fn turn_away(taken: Taken) {
    let answer = || {
        format!(
            "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\nshould-retry: true\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{TOO_MANY}",
            TOO_MANY.len()
        )
    };
    match taken {
        Taken::Plain(stream) => {
            drop(stream.try_write(answer().as_bytes()));
            tokio::spawn(close(stream));
        }
        // A handshake costs more than all else: it is not done for those who are sent away.
        Taken::Tls(stream, _) => {
            drop(stream.try_write(&tls::ALERT_BUSY));
            tokio::spawn(close(stream));
        }
        Taken::Local(stream) => {
            drop(stream.try_write(answer().as_bytes()));
            tokio::spawn(close(stream));
        }
    }
}

async fn close(mut stream: impl AsyncWrite + Unpin) {
    drop(tokio::time::timeout(Duration::from_secs(1), stream.shutdown()).await);
}
