//! Carrying output from a process to its listeners. While one listener has no room nothing is read: the process waits in its own write.

use std::io;
use std::rc::Rc;

use crate::descriptor::Watched;
use ringwall_agent_proto::process::{Event, Output};
use tokio::net::unix::pipe;

use super::live::Process;

/// The agent's side of a terminal.
pub(super) type Terminal = Watched;

/// Most bytes in one event from a pipe; upstream's chunk.
const PIPE_CHUNK_BYTES: usize = 32 * 1024;
/// Most bytes in one event from a terminal; upstream's chunk.
const TERMINAL_CHUNK_BYTES: usize = 16 * 1024;

/// Where output comes from.
#[derive(Debug)]
pub(super) enum Source {
    /// Standard output.
    Stdout(pipe::Receiver),
    /// Standard error.
    Stderr(pipe::Receiver),
    /// Both, on a terminal.
    Terminal(Rc<Terminal>),
}

impl Source {
    /// Carries output until the last process that can write it is gone. Without listeners it is read and dropped.
    pub(super) async fn pump(self, process: &Process) {
        // An error is an end too: there is nothing more to read.
        while let Ok(Some(chunk)) = self.read().await {
            if process.has_listeners() {
                process.tell(self.event(chunk).into_frame()).await;
            }
            // A process that never stops writing must not keep the others waiting.
            tokio::task::yield_now().await;
        }
    }

    async fn read(&self) -> io::Result<Option<Vec<u8>>> {
        let chunk = match self {
            Source::Stdout(pipe) | Source::Stderr(pipe) => read_pipe(pipe).await?,
            Source::Terminal(terminal) => read_terminal(terminal).await?,
        };
        Ok((!chunk.is_empty()).then_some(chunk))
    }

    fn event(&self, chunk: Vec<u8>) -> Event {
        let mut output = Output::default();
        let slot = match self {
            Source::Stdout(_) => &mut output.stdout,
            Source::Stderr(_) => &mut output.stderr,
            Source::Terminal(_) => &mut output.pty,
        };
        *slot = Some(chunk);
        Event::Data(output)
    }
}

/// Reads what is there; empty at the end. The buffer is made only then: a silent process costs no memory.
async fn read_pipe(pipe: &pipe::Receiver) -> io::Result<Vec<u8>> {
    loop {
        pipe.readable().await?;
        let mut chunk = Vec::with_capacity(PIPE_CHUNK_BYTES);
        match pipe.try_read_buf(&mut chunk) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            result => return result.map(|_| chunk),
        }
    }
}

async fn read_terminal(terminal: &Terminal) -> io::Result<Vec<u8>> {
    loop {
        let mut ready = terminal.readable().await?;
        let mut chunk = vec![0; TERMINAL_CHUNK_BYTES];
        match ready.try_io(|inner| Ok(rustix::io::read(inner, &mut chunk)?)) {
            // EIO: the last process has closed the terminal (pty(7)).
            Ok(Err(error)) if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => {
                return Ok(Vec::new());
            }
            Ok(Ok(count)) => {
                chunk.truncate(count);
                return Ok(chunk);
            }
            Ok(Err(error)) => return Err(error),
            Err(_would_block) => {}
        }
    }
}
