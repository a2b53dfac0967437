//! A socket of the host's, used without ever waiting.

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

/// What reading came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Read {
    /// So many bytes.
    Bytes(usize),
    /// Nothing now.
    Nothing,
    /// The end: the other side sends no more.
    End,
    /// Neither direction works any more: the other side was closed before it had read everything (`ECONNRESET`, unix(7)).
    Broken,
}

/// Reads what there is, as far as it goes into `room`, which is not empty.
pub(super) fn read(socket: &OwnedFd, room: &mut [u8]) -> Read {
    loop {
        return match recv(socket, &mut *room, RecvFlags::DONTWAIT) {
            Ok((0, _)) => Read::End,
            Ok((count, _)) => Read::Bytes(count),
            Err(Errno::AGAIN) => Read::Nothing,
            Err(Errno::INTR) => continue,
            Err(_) => Read::Broken,
        };
    }
}

/// Writes what the socket takes; returns how much, and whether the other side is gone.
pub(super) fn write(socket: &OwnedFd, data: &[u8]) -> (usize, bool) {
    let mut sent = 0_usize;
    while let Some(rest) = data.get(sent..).filter(|rest| !rest.is_empty()) {
        match send(socket, rest, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Ok(count) => sent = sent.saturating_add(count),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => break,
            Err(_) => return (sent, true),
        }
    }
    (sent, false)
}
