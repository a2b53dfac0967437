//! A connection that is held until the machine below is another: a restore resets all connections, and their owners must hear of it.

use std::fs::File;
use std::io::{self, Read, Write};

use crate::address::{VsockAddress, socket};

/// What is said over the connection, and comes back.
const WORD: &[u8] = b"held";

/// Opens a connection to an echo, tries it, calls `held`, and waits for the connection's end.
///
/// # Errors
/// It can't be made, it does not echo, or something comes instead of its end.
pub(crate) fn hold(cid: u32, port: u32, held: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let socket = socket()?;
    rustix::net::connect(&socket, &VsockAddress::new(cid, port))?;
    let mut connection = File::from(socket);
    connection.write_all(WORD)?;
    let mut echo = [0; WORD.len()];
    connection.read_exact(&mut echo)?;
    if echo != WORD {
        return Err(io::Error::other("other bytes came back"));
    }
    held()?;
    match connection.read(&mut echo) {
        Ok(0) => Ok(()),
        // The latter if the reset came before the read began.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::ConnectionReset | io::ErrorKind::NotConnected
            ) =>
        {
            Ok(())
        }
        Ok(bytes) => Err(io::Error::other(format!("{bytes} bytes that nobody sent"))),
        Err(error) => Err(error),
    }
}
