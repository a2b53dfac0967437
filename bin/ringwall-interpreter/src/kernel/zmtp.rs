//! The client side of ZeroMQ's wire protocol, ZMTP 3.0 (rfc.zeromq.org/spec/23), as much as a Jupyter client needs.
//!
//! Connecting exchanges greetings and the NULL mechanism's READY commands; then messages of one or more frames go both
//! ways. The kernel is not trusted: no more is kept than [`MAX_MESSAGE_BYTES`] per message, whatever lengths it
//! announces; a longer message is skipped and reported. The crate `zeromq` has no such limit (it reserves the announced
//! 64-bit length), which is why it isn't used.

use std::net::SocketAddr;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Most bytes of one message, all frames together.
pub(crate) const MAX_MESSAGE_BYTES: u64 = 64 * 1024 * 1024;
/// Most frames of one message; Jupyter's have 6 and their binary buffers.
const MAX_FRAMES: usize = 1024;
/// Most bytes of a command; READY has under 100.
const MAX_COMMAND_BYTES: u64 = 64 * 1024;
/// Least room to read into.
const READ_BYTES: usize = 64 * 1024;
/// Bytes of a greeting (ZMTP 3.0, "greeting").
const GREETING_BYTES: usize = 64;

// Bits of a frame's flags (ZMTP 3.0, "Framing").
const MORE: u8 = 1;
const LONG: u8 = 2;
const COMMAND: u8 = 4;

/// Why a connection can't be used any longer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ZmtpError {
    /// The socket failed.
    #[error("the connection to the kernel failed")]
    Io(#[from] std::io::Error),
    /// The kernel closed the connection.
    #[error("the kernel closed the connection")]
    Closed,
    /// The peer doesn't speak ZMTP 3 without encryption.
    #[error("the kernel doesn't greet in plain ZMTP 3")]
    Greeting,
    /// The peer broke the framing.
    #[error("the kernel broke the framing: {0}")]
    Framing(&'static str),
}

/// The kind of socket this end plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SocketKind {
    /// Sends requests and receives replies.
    Dealer,
    /// Receives everything published.
    Subscriber,
}

/// What arrived.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// A whole message.
    Message(Vec<Bytes>),
    /// A message longer than allowed, of this many bytes, which was skipped.
    Oversized(u64),
}

/// A connection that has shaken hands.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    incoming: BytesMut,
    parser: FrameParser,
}

impl Connection {
    /// Connects and shakes hands; a subscriber subscribes to everything.
    ///
    /// # Errors
    /// Nobody listens there, or they don't speak ZMTP 3.
    pub(crate) async fn open(address: SocketAddr, kind: SocketKind, identity: &str) -> Result<Self, ZmtpError> {
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        stream.write_all(&greeting()).await?;
        let mut theirs = [0_u8; GREETING_BYTES];
        stream.read_exact(&mut theirs).await?;
        check_greeting(&theirs)?;
        stream.write_all(&ready(kind, identity)).await?;
        let mut connection = Self {
            stream,
            incoming: BytesMut::new(),
            parser: FrameParser::default(),
        };
        while !connection.parser.is_ready {
            if connection.parser.next(&mut connection.incoming)?.is_some() {
                return Err(ZmtpError::Framing("a message before READY"));
            }
            if !connection.parser.is_ready {
                connection.read().await?;
            }
        }
        if kind == SocketKind::Subscriber {
            connection.send(&[Bytes::from_static(&[1])]).await?;
        }
        Ok(connection)
    }

    /// Sends one message. Not cancel safe: a call given up leaves half a message behind.
    ///
    /// # Errors
    /// The socket failed.
    pub(crate) async fn send(&mut self, frames: &[Bytes]) -> Result<(), ZmtpError> {
        let mut outgoing = BytesMut::with_capacity(frames.iter().map(|frame| frame.len() + 9).sum());
        for (index, frame) in frames.iter().enumerate() {
            let more = if index + 1 < frames.len() { MORE } else { 0 };
            put_frame(&mut outgoing, more, frame);
        }
        self.stream.write_all(&outgoing).await?;
        Ok(())
    }

    /// Waits for the next message. Cancel safe.
    ///
    /// # Errors
    /// The kernel closed the connection or broke the framing.
    pub(crate) async fn receive(&mut self) -> Result<Received, ZmtpError> {
        loop {
            if let Some(received) = self.parser.next(&mut self.incoming)? {
                return Ok(received);
            }
            self.read().await?;
        }
    }

    async fn read(&mut self) -> Result<(), ZmtpError> {
        self.incoming
            .reserve(self.parser.wanted(self.incoming.len()).max(READ_BYTES));
        if self.stream.read_buf(&mut self.incoming).await? == 0 {
            return Err(ZmtpError::Closed);
        }
        Ok(())
    }
}

/// Cuts a byte stream into messages. Pure, so it can be tested without a socket.
#[derive(Debug, Default)]
struct FrameParser {
    is_ready: bool,
    frames: Vec<Bytes>,
    message_bytes: u64,
    is_oversized: bool,
    pending: Option<PendingFrame>,
}

#[derive(Debug, Clone, Copy)]
struct PendingFrame {
    flags: u8,
    remaining: u64,
}

impl FrameParser {
    /// Bytes still missing of the frame being read, given those already there; never more than one message may have.
    fn wanted(&self, available: usize) -> usize {
        match self.pending {
            Some(frame) if !self.is_oversized => {
                usize::try_from(frame.remaining).unwrap_or(0).saturating_sub(available)
            }
            _ => 0,
        }
    }

    /// Takes what it can from `buffer`: a message, or nothing yet.
    fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Received>, ZmtpError> {
        loop {
            let Some(frame) = self.pending else {
                let Some(frame) = take_header(buffer)? else {
                    return Ok(None);
                };
                self.admit(frame)?;
                self.pending = Some(frame);
                continue;
            };
            let is_command = frame.flags & COMMAND != 0;
            if self.is_oversized && !is_command {
                let skipped = buffer.len().min(usize::try_from(frame.remaining).unwrap_or(usize::MAX));
                buffer.advance(skipped);
                let remaining = frame.remaining - skipped as u64;
                if remaining > 0 {
                    self.pending = Some(PendingFrame { remaining, ..frame });
                    return Ok(None);
                }
            } else {
                // `admit` bounded the length, so it fits.
                let length = usize::try_from(frame.remaining).map_err(|_| ZmtpError::Framing("a frame too long"))?;
                if buffer.len() < length {
                    return Ok(None);
                }
                let body = buffer.split_to(length).freeze();
                if is_command {
                    self.pending = None;
                    self.command(&body)?;
                    continue;
                }
                self.frames.push(body);
            }
            self.pending = None;
            if frame.flags & MORE == 0 {
                let frames = std::mem::take(&mut self.frames);
                let bytes = std::mem::take(&mut self.message_bytes);
                return Ok(Some(if std::mem::take(&mut self.is_oversized) {
                    Received::Oversized(bytes)
                } else {
                    Received::Message(frames)
                }));
            }
        }
    }

    /// Counts a frame just begun against the limits.
    fn admit(&mut self, frame: PendingFrame) -> Result<(), ZmtpError> {
        if frame.flags & COMMAND != 0 {
            return if frame.remaining > MAX_COMMAND_BYTES {
                Err(ZmtpError::Framing("a command too long"))
            } else {
                Ok(())
            };
        }
        self.message_bytes = self.message_bytes.saturating_add(frame.remaining);
        if self.message_bytes > MAX_MESSAGE_BYTES || self.frames.len() >= MAX_FRAMES {
            self.is_oversized = true;
            self.frames = Vec::new();
        }
        Ok(())
    }

    /// Handles READY and ERROR; others (a later version's PING, say) don't concern a 3.0 peer.
    fn command(&mut self, body: &[u8]) -> Result<(), ZmtpError> {
        if body.starts_with(b"\x05READY") {
            self.is_ready = true;
        } else if body.starts_with(b"\x05ERROR") {
            return Err(ZmtpError::Framing("the kernel refused the connection"));
        }
        Ok(())
    }
}

/// Takes a frame's header, if all of it is there.
fn take_header(buffer: &mut BytesMut) -> Result<Option<PendingFrame>, ZmtpError> {
    let Some(&flags) = buffer.first() else { return Ok(None) };
    if flags & !(MORE | LONG | COMMAND) != 0 {
        return Err(ZmtpError::Framing("reserved flags are set"));
    }
    let header_bytes = if flags & LONG == 0 { 2 } else { 9 };
    if buffer.len() < header_bytes {
        return Ok(None);
    }
    buffer.advance(1);
    let remaining = if flags & LONG == 0 {
        u64::from(buffer.get_u8())
    } else {
        buffer.get_u64()
    };
    Ok(Some(PendingFrame { flags, remaining }))
}

fn put_frame(outgoing: &mut BytesMut, flags: u8, body: &[u8]) {
    if let Ok(length) = u8::try_from(body.len()) {
        outgoing.put_u8(flags);
        outgoing.put_u8(length);
    } else {
        outgoing.put_u8(flags | LONG);
        outgoing.put_u64(body.len() as u64);
    }
    outgoing.put_slice(body);
}

/// The greeting: signature, version 3.0, mechanism NULL, not a server.
fn greeting() -> [u8; GREETING_BYTES] {
    let mut bytes = [0_u8; GREETING_BYTES];
    bytes[0] = 0xff;
    bytes[9] = 0x7f;
    bytes[10] = 3;
    bytes[12..16].copy_from_slice(b"NULL");
    bytes
}

fn check_greeting(bytes: &[u8; GREETING_BYTES]) -> Result<(), ZmtpError> {
    let is_plain = bytes[0] == 0xff && bytes[9] & 1 == 1 && bytes[10] >= 3 && bytes[12..32].starts_with(b"NULL\0");
    if is_plain { Ok(()) } else { Err(ZmtpError::Greeting) }
}

/// The READY command with the properties Socket-Type and, for a dealer, Identity.
fn ready(kind: SocketKind, identity: &str) -> BytesMut {
    let mut body = BytesMut::new();
    body.put_slice(b"\x05READY");
    let mut property = |name: &str, value: &str| {
        body.put_u8(u8::try_from(name.len()).unwrap_or(0));
        body.put_slice(name.as_bytes());
        body.put_u32(u32::try_from(value.len()).unwrap_or(0));
        body.put_slice(value.as_bytes());
    };
    match kind {
        SocketKind::Dealer => {
            property("Socket-Type", "DEALER");
            property("Identity", identity);
        }
        SocketKind::Subscriber => property("Socket-Type", "SUB"),
    }
    let mut command = BytesMut::new();
    put_frame(&mut command, COMMAND, &body);
    command
}

#[cfg(test)]
#[path = "zmtp_tests.rs"]
mod tests;
