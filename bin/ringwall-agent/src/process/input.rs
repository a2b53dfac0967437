//! Writing to a process: a pipe or its terminal.

use std::io;
use std::rc::Rc;

use ringwall_agent_proto::process::Input as Bytes;
use ringwall_agent_proto::{Code, RpcError};
use tokio::io::AsyncWriteExt as _;
use tokio::net::unix::pipe;

use super::pump::Terminal;

/// Where a process reads from.
#[derive(Debug)]
pub(super) enum Input {
    /// /dev/null, or a pipe that is closed by now.
    Closed,
    /// A pipe.
    Pipe(pipe::Sender),
    /// A terminal.
    Terminal(Rc<Terminal>),
}

impl Input {
    /// Writes all of it, waiting for the process to read.
    pub(super) async fn write(&mut self, bytes: &Bytes) -> Result<(), RpcError> {
        let result = match (self, bytes) {
            (Input::Pipe(pipe), Bytes { stdin: Some(bytes), .. }) => pipe.write_all(bytes).await,
            (Input::Terminal(terminal), Bytes { pty: Some(bytes), .. }) => write_terminal(terminal, bytes).await,
            (Input::Terminal(_), Bytes { stdin: Some(_), .. }) => {
                return Err(failed("the process runs in a terminal: its input must be sent as pty"));
            }
            (Input::Closed, Bytes { stdin: Some(_), .. }) => {
                return Err(failed("the process's stdin is not open"));
            }
            (_, Bytes { pty: Some(_), .. }) => return Err(failed("the process does not run in a terminal")),
            _ => return Err(RpcError::new(Code::InvalidArgument, "the request has no input")),
        };
        result.map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => failed("the process has closed its stdin"),
            _ => RpcError::new(Code::Internal, format!("cannot write to the process: {error}")),
        })
    }

    /// Closes the pipe: the process reads its end.
    pub(super) fn close(&mut self) -> Result<(), RpcError> {
        match self {
            Input::Terminal(_) => Err(failed("a terminal can't be closed: send 0x04 (Ctrl-D) as pty instead")),
            Input::Pipe(_) | Input::Closed => {
                *self = Input::Closed;
                Ok(())
            }
        }
    }
}

fn failed(message: &str) -> RpcError {
    RpcError::new(Code::FailedPrecondition, message)
}

async fn write_terminal(terminal: &Terminal, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let mut ready = terminal.writable().await?;
        let Ok(written) = ready.try_io(|inner| Ok(rustix::io::write(inner, bytes)?)) else {
            continue;
        };
        bytes = bytes.get(written?..).unwrap_or_default();
    }
    Ok(())
}
