//! Runs other programs and turns "couldn't start" and "exited non-zero" into one error that shows the whole command line.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

/// Why a program that a task needs didn't do its work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    /// The program couldn't be started.
    #[error("can't start `{command}`")]
    Start {
        /// The command line.
        command: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Its output couldn't be read.
    #[error("can't read the output of `{command}`")]
    Read {
        /// The command line.
        command: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The program ran and failed.
    #[error("`{command}` failed: {status}{}", if stderr.is_empty() { String::new() } else { format!("\n{stderr}") })]
    Failed {
        /// The command line.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// What it said, when its standard error wasn't the terminal.
        stderr: String,
    },
}

/// The command line as one would type it (no quoting: for messages only).
pub(crate) fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

/// Runs a program to its end with this process's standard output and error, and nothing to read.
///
/// # Errors
/// [`CommandError`]: it couldn't be started, or it failed.
pub(crate) fn run(command: &mut Command) -> Result<(), CommandError> {
    let status = command.stdin(Stdio::null()).status();
    let status = status.map_err(|source| CommandError::Start {
        command: shown(command),
        source,
    })?;
    succeeded(command, status, &[])
}

/// Runs a program to its end and returns its standard output, without changing it.
///
/// # Errors
/// [`CommandError`]: it couldn't be started, or it failed; the error then holds its standard error.
pub(crate) fn output(command: &mut Command) -> Result<Vec<u8>, CommandError> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|source| CommandError::Start {
        command: shown(command),
        source,
    })?;
    succeeded(command, output.status, &output.stderr)?;
    Ok(output.stdout)
}

/// Like [`output`], as text.
///
/// # Errors
/// As [`output`]. Bytes that aren't UTF-8 are replaced: this is for the output of our own tools.
pub(crate) fn text(command: &mut Command) -> Result<String, CommandError> {
    Ok(String::from_utf8_lossy(&output(command)?).into_owned())
}

fn succeeded(command: &Command, status: ExitStatus, stderr: &[u8]) -> Result<(), CommandError> {
    if status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(stderr).trim().to_owned();
    Err(CommandError::Failed {
        command: shown(command),
        status,
        stderr,
    })
}

/// Whether a program of this name is on the `PATH` (or in /usr/sbin or /sbin, which users' paths often lack on Debian).
pub(crate) fn is_on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders.into_iter().any(|folder| is_executable(&folder.join(program)))
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata()
        .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

/// A command for a program that Debian keeps in /usr/sbin, found whether or not the user's `PATH` has that folder.
pub(crate) fn sbin(program: &str) -> Command {
    let candidates = ["/usr/sbin", "/sbin"].map(|folder| Path::new(folder).join(program));
    let found = candidates.into_iter().find(|path| is_executable(path));
    Command::new(found.unwrap_or_else(|| program.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failure_shows_the_command_and_its_words() {
        let error = output(Command::new("sh").args(["-c", "echo reason >&2; exit 3"]))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("sh -c") && error.contains("exit status: 3") && error.ends_with("reason"),
            "{error}"
        );
    }

    #[test]
    fn path_search_finds_sh_and_nothing_else() {
        assert!(is_on_path("sh"));
        assert!(!is_on_path("no-such-program-anywhere"));
    }
}
