//! All printing. Results go to standard output, everything about Ringwall itself to standard error.

use std::io::{IsTerminal as _, Write};
use std::process::ExitCode;

use crate::failure::Failure;

/// Writes a result. A reader that went away (`| head`) is no failure.
pub(crate) fn out(text: &str) {
    drop(std::io::stdout().lock().write_all(text.as_bytes()));
}

/// Passes a sandboxed program's output on, as it is and at once; `false` when nobody reads it.
pub(crate) fn pass_out(bytes: &[u8]) -> bool {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).is_ok()
}

/// The same for its errors.
pub(crate) fn pass_err(bytes: &[u8]) -> bool {
    std::io::stderr().lock().write_all(bytes).is_ok()
}

/// Writes a result as JSON.
pub(crate) fn json(value: &impl serde::Serialize) -> Result<(), Failure> {
    line(&serde_json::to_string_pretty(value).map_err(Failure::own)?);
    Ok(())
}

/// Writes rows in columns as wide as they need be. What a cell holds may be anybody's text.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) {
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|row| row.iter().map(|cell| visible(&cell.replace('\n', "\\n"))).collect())
        .collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        let longest = cells.map(|cell| cell.chars().count()).max().unwrap_or(0);
        longest.max(header.get(column).map_or(0, |name| name.len()))
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let write = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells
            .zip(&widths)
            .map(|(cell, &width)| format!("{cell:<width$}"))
            .collect();
        line(padded.join("  ").trim_end());
    };
    write(&mut header.iter().copied());
    for row in &rows {
        write(&mut row.iter().map(String::as_str));
    }
}

/// How something long goes: a line that moves on a terminal, plain lines elsewhere.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: Option<indicatif::ProgressBar>,
}

impl Progress {
    /// Begins, under a title.
    pub(crate) fn begin(title: &str) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = indicatif::ProgressBar::new_spinner();
            bar.set_message(visible(title));
            bar.enable_steady_tick(std::time::Duration::from_millis(100));
            bar
        });
        Progress { bar }
    }

    /// Writes a line of what is going on.
    pub(crate) fn say(&self, text: &str) {
        let text = visible(text);
        match &self.bar {
            Some(bar) => bar.println(text),
            None => err(&format!("{text}\n")),
        }
    }

    /// Ends; the moving line goes.
    pub(crate) fn end(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Writes a line of a result.
pub(crate) fn line(text: &str) {
    out(&format!("{text}\n"));
}

/// Writes text of our own making to standard error.
pub(crate) fn err(text: &str) {
    drop(std::io::stderr().lock().write_all(text.as_bytes()));
}

/// Makes text harmless for a terminal: names and paths may hold anything, and some were chosen by an untrusted program.
pub(crate) fn visible(text: &str) -> String {
    let mut visible = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() && character != '\n' {
            visible.extend(character.escape_debug());
        } else {
            visible.push(character);
        }
    }
    visible
}

/// Writes a note about the run, in one line.
pub(crate) fn note(text: &str) {
    drop(
        std::io::stderr()
            .lock()
            .write_all(visible(&format!("ringwall: {text}\n")).as_bytes()),
    );
}

/// Tells of a failure and returns its exit code.
pub(crate) fn failure(failure: &Failure) -> ExitCode {
    let mut text = format!("Error: {}\n", failure.error);
    let mut source = failure.error.source();
    while let Some(cause) = source {
        text.push_str(&format!("Caused by: {cause}\n"));
        source = cause.source();
    }
    if let Some(hint) = &failure.hint {
        text.push_str(&format!("Hint: {hint}\n"));
    }
    drop(std::io::stderr().lock().write_all(visible(&text).as_bytes()));
    ExitCode::from(failure.code)
}

/// Prints help and versions to standard output, wrong usage to standard error with exit code 2.
pub(crate) fn clap_error(error: &clap::Error) -> ExitCode {
    drop(error.print());
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(crate::failure::USAGE))
}
