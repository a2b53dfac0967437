//! A running process and those who listen to it.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;

use bytes::Bytes;
use ringwall_agent_proto::process::{Event, ProcessConfig, Size};
use ringwall_agent_proto::{Code, RpcError, envelope};
use ringwall_sys::process::Ended;
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::sync::Mutex;

use super::ending::end;
use super::input::Input;
use super::pump::Terminal;
use crate::rpc::stream::FrameSender;

/// One started process.
#[derive(Debug)]
pub(crate) struct Process {
    /// Its pid, which is its process group's and session's too.
    pub(super) pid: u32,
    /// What was asked for.
    pub(super) config: ProcessConfig,
    /// Its name.
    pub(super) tag: Option<String>,
    /// Where input goes. Locked over a write, so that inputs don't mix.
    pub(super) input: Mutex<Input>,
    /// Its terminal.
    pub(super) terminal: Option<Rc<Terminal>>,
    /// Who gets its output.
    pub(super) listeners: RefCell<Vec<FrameSender>>,
}

impl Process {
    /// Adds a listener; its first frame says that the process runs.
    pub(super) fn listen(&self, listener: FrameSender) {
        // The queue is empty and the client's: it can't be full or closed.
        let _sent = listener.try_send(Event::Start { pid: self.pid }.into_frame());
        let mut listeners = self.listeners.borrow_mut();
        // A silent process learns of lost listeners here only: clients that come and go must not pile up.
        listeners.retain(|listener| !listener.is_closed());
        listeners.push(listener);
    }

    /// Whether anyone would get output.
    pub(super) fn has_listeners(&self) -> bool {
        !self.listeners.borrow().is_empty()
    }

    /// Gives a frame to all listeners, waiting for each to have room. Forgets those that are gone.
    pub(super) async fn tell(&self, frame: Bytes) {
        // Copied: a listener may join while we wait.
        let listeners = self.listeners.borrow().clone();
        let mut lost = false;
        for listener in listeners {
            lost |= listener.send(frame.clone()).await.is_err();
        }
        if lost {
            self.listeners.borrow_mut().retain(|listener| !listener.is_closed());
        }
    }

    /// Tells all listeners how it ended and lets them go. Each on its own, so that a slow one does not keep the news from the rest.
    pub(super) fn tell_end(&self, ended: Ended) {
        let frame = Event::End(end(ended)).into_frame();
        for listener in self.listeners.take() {
            let frame = frame.clone();
            tokio::task::spawn_local(async move {
                // A client that is gone needs no end.
                if listener.send(frame).await.is_ok() {
                    let _gone = listener.send(envelope::end_of_stream(None)).await;
                }
            });
        }
    }

    /// Signals the whole process group: all that the command has started, unless it left the group on purpose.
    pub(crate) fn signal_group(&self, signal: i32) -> io::Result<()> {
        match i32::try_from(self.pid) {
            Ok(pid) if pid > 1 => ringwall_sys::process::kill(-pid, signal),
            // -1 and 0 would mean everyone, or ourselves.
            _ => Err(io::Error::from_raw_os_error(rustix::io::Errno::SRCH.raw_os_error())),
        }
    }

    /// Changes the size of its terminal.
    pub(super) fn resize(&self, size: Size) -> Result<(), RpcError> {
        let terminal = self
            .terminal
            .as_ref()
            .ok_or_else(|| RpcError::new(Code::FailedPrecondition, "the process has no terminal"))?;
        tcsetwinsize(terminal.get_ref(), winsize(size)).map_err(|error| {
            RpcError::new(
                Code::Internal,
                format!("cannot resize the terminal: {}", io::Error::from(error)),
            )
        })
    }
}

/// The kernel's form of a size; what does not fit is the largest there is.
pub(super) fn winsize(size: Size) -> Winsize {
    Winsize {
        ws_row: u16::try_from(size.rows).unwrap_or(u16::MAX),
        ws_col: u16::try_from(size.cols).unwrap_or(u16::MAX),
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absurd_sizes_are_clamped() {
        let size = winsize(Size { cols: 70000, rows: 5 });
        assert_eq!((size.ws_col, size.ws_row), (u16::MAX, 5));
    }
}
