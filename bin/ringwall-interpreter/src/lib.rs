//! The code interpreter inside a sandbox: E2B's code-interpreter HTTP API in front of Jupyter kernels.
//!
//! A request passes through `routes` (HTTP in and out), a `context` (a language, a working directory, one execution at a
//! time) and an `execution` to the context's `kernel` (a process started from a kernelspec, spoken to over ZeroMQ on
//! 127.0.0.1), and comes back as a stream of JSON lines.
//!
//! What the kernel sends is untrusted: it runs whatever the client sent. The server in front authenticates; nothing here
//! does, so it listens on the loopback address only.

mod arguments;
mod client;
mod context;
mod contexts;
mod environment;
mod event;
mod execution;
mod kernel;
mod language;
mod request;
mod response;
mod rich;
mod routes;
mod server;

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

/// Serves until SIGTERM or SIGINT; `arguments` are those after the program's name.
///
/// Exits with 0 after a signal, 2 for wrong arguments and 125 when it can't serve (the port is taken, say).
pub fn main(arguments: Vec<OsString>) -> ExitCode {
    let arguments = match arguments::Arguments::parse(arguments) {
        Ok(arguments) => arguments,
        Err(error) => return fail(&error, 2),
    };
    match server::serve(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error, 125),
    }
}

/// Prints `error` with its causes and returns `code`.
fn fail(error: &dyn std::error::Error, code: u8) -> ExitCode {
    let mut text = format!("ringwall-interpreter: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!("\n  caused by: {error}"));
        cause = error.source();
    }
    // Nobody may be reading; the exit code says it all the same.
    drop(writeln!(std::io::stderr(), "{text}"));
    ExitCode::from(code)
}
