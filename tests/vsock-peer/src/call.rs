//! The calling half: many connections at once, each with its own bytes, which must come back unchanged.

use std::fs::File;
use std::io::{self, Read, Write};
use std::thread;

use rustix::io::Errno;
use rustix::net::Shutdown;

use crate::address::{VsockAddress, socket};

/// Why a call was no success.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// The connection wasn't made.
    #[error("connection {which} of {count}: can't connect: {source}")]
    Connect {
        /// Which connection.
        which: usize,
        /// Of how many.
        count: usize,
        /// What the kernel said.
        source: Errno,
    },
    /// Sending or receiving failed.
    #[error("connection {which}: {source}")]
    Exchange {
        /// Which connection.
        which: usize,
        /// What the kernel said.
        source: io::Error,
    },
    /// Other bytes came back.
    #[error("connection {which}: sent {sent} bytes, received {received}, the same up to {same}")]
    Differs {
        /// Which connection.
        which: usize,
        /// How many bytes were sent.
        sent: usize,
        /// How many came back.
        received: usize,
        /// How many of them are right.
        same: usize,
    },
}

/// Opens all connections, then sends and receives over all of them at the same time.
///
/// # Errors
/// [`CallError`]: the first.
pub(crate) fn exchange(cid: u32, port: u32, count: usize, bytes: usize) -> Result<(), CallError> {
    let mut connections = Vec::new();
    for which in 0..count {
        let connect = || {
            let socket = socket()?;
            rustix::net::connect(&socket, &VsockAddress::new(cid, port))?;
            Ok(File::from(socket))
        };
        connections.push(connect().map_err(|source| CallError::Connect { which, count, source })?);
    }
    thread::scope(|scope| {
        let calls: Vec<_> = connections
            .iter()
            .enumerate()
            .map(|(which, connection)| scope.spawn(move || exchange_one(which, connection, bytes)))
            .collect();
        for (which, call) in calls.into_iter().enumerate() {
            let panicked = |_| CallError::Exchange {
                which,
                source: io::Error::other("the call panicked"),
            };
            call.join().map_err(panicked)??;
        }
        Ok(())
    })
}

fn exchange_one(which: usize, connection: &File, bytes: usize) -> Result<(), CallError> {
    let failed = |source| CallError::Exchange { which, source };
    let sent = pattern(which, bytes);
    let mut received = Vec::with_capacity(bytes);
    // Sending apart from receiving: with both directions' buffers full, an echo that waits to send reads no more.
    thread::scope(|scope| {
        let sending = scope.spawn(|| {
            let mut connection = connection;
            connection.write_all(&sent)?;
            rustix::net::shutdown(connection, Shutdown::Write)?;
            Ok(())
        });
        let mut reader = connection.take(u64::try_from(bytes).unwrap_or(u64::MAX).saturating_add(1));
        reader.read_to_end(&mut received)?;
        sending
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("sending panicked")))
    })
    .map_err(failed)?;
    if sent == received {
        return Ok(());
    }
    let same = sent
        .iter()
        .zip(&received)
        .take_while(|(sent, received)| sent == received)
        .count();
    Err(CallError::Differs {
        which,
        sent: sent.len(),
        received: received.len(),
        same,
    })
}

/// Bytes that differ between connections and don't repeat at any power of two, so that a mix-up shows.
fn pattern(which: usize, bytes: usize) -> Vec<u8> {
    /// The largest prime below 256.
    const PERIOD: usize = 251;
    (0..bytes)
        .map(|at| u8::try_from((at + at / PERIOD + which * 7) % PERIOD).unwrap_or_default())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_differ_between_connections_and_within_one() {
        let one = pattern(1, 4096);
        assert_eq!(one.len(), 4096);
        assert_ne!(one, pattern(2, 4096));
        assert_ne!(one[..1024], one[1024..2048]);
    }
}
