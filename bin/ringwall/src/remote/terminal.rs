//! The caller's terminal.

use ringwall_agent_proto::process::Size;
use rustix::termios::{self, OptionalActions, Termios};

/// Standard input in raw mode; back as it was on drop.
#[derive(Debug)]
pub(crate) struct RawMode {
    saved: Termios,
}

impl RawMode {
    /// Puts standard input into raw mode, if it is a terminal.
    pub(crate) fn enter() -> Option<Self> {
        let stdin = rustix::stdio::stdin();
        let saved = termios::tcgetattr(stdin).ok()?;
        let mut raw = saved.clone();
        raw.make_raw();
        // One that can't be set stays as it is: lines are then cooked twice, nothing worse.
        let _ = termios::tcsetattr(stdin, OptionalActions::Now, &raw);
        Some(RawMode { saved })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &self.saved);
    }
}

/// The size of the caller's terminal.
pub(crate) fn size() -> Option<Size> {
    let size = termios::tcgetwinsize(rustix::stdio::stdin())
        .or_else(|_| termios::tcgetwinsize(rustix::stdio::stdout()))
        .ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then(|| Size {
        cols: size.ws_col.into(),
        rows: size.ws_row.into(),
    })
}

/// Whether standard input is a terminal.
pub(crate) fn is_terminal() -> bool {
    termios::isatty(rustix::stdio::stdin())
}
