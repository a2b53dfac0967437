//! All printing. Results go to standard output, everything about Ringwall itself to standard error.

use std::io::Write;
use std::process::ExitCode;

use crate::failure::Failure;

/// Writes a result. A reader that went away (`| head`) is no failure.
pub(crate) fn out(text: &str) {
    drop(std::io::stdout().lock().write_all(text.as_bytes()));
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
fn visible(text: &str) -> String {
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
