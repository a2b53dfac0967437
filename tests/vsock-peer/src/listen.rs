//! The answering half: echoes what comes, for a given number of connections.

use std::fs::File;
use std::io::{self, Read, Write};
use std::thread;

use rustix::net::Shutdown;

use crate::address::{ANY, VsockAddress, socket};

/// How much is read at a time; odd on purpose, so that reads and packets don't stay in step.
const CHUNK: usize = 3001;

/// Accepts `count` connections and echoes each to its end; all may be open at once.
///
/// # Errors
/// The first that any connection met.
pub(crate) fn echo(port: u32, count: usize) -> Result<(), io::Error> {
    let listener = socket()?;
    rustix::net::bind(&listener, &VsockAddress::new(ANY, port))?;
    rustix::net::listen(&listener, i32::try_from(count).unwrap_or(i32::MAX))?;
    thread::scope(|scope| {
        let mut echoes = Vec::new();
        for _ in 0..count {
            let connection = File::from(rustix::net::accept(&listener)?);
            echoes.push(scope.spawn(move || echo_one(connection)));
        }
        for echo in echoes {
            echo.join().map_err(|_| io::Error::other("an echo panicked"))??;
        }
        Ok(())
    })
}

fn echo_one(mut connection: File) -> Result<(), io::Error> {
    let mut buffer = [0; CHUNK];
    loop {
        let read = connection.read(&mut buffer)?;
        if read == 0 {
            rustix::net::shutdown(&connection, Shutdown::Write)?;
            return Ok(());
        }
        connection.write_all(buffer.get(..read).unwrap_or_default())?;
    }
}
