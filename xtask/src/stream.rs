//! Runs a program and hands over its output line by line while it runs (standard output and error as one stream), with an
//! end in time: a program that runs too long is killed with everything below it, and one that leaves a process behind that
//! holds the pipe open doesn't make the caller wait for ever.

use std::fs;
use std::io::{BufRead, BufReader, PipeReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::command::{CommandError, shown};

/// How often the end of the program is looked for while it prints nothing.
const POLL: Duration = Duration::from_millis(100);
/// How long output is waited for after the program has ended: only a process it left behind can still write.
const LINGER: Duration = Duration::from_secs(3);

/// How a streamed program ended.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ended {
    /// By itself.
    Exited(ExitStatus),
    /// It was killed because its time was over.
    TimedOut,
}

/// Runs a program, calling `on_line` for each line that it or its children print, without the line's end.
///
/// # Errors
/// [`CommandError::Start`] and [`CommandError::Read`]; a program that fails is no error here but an [`Ended::Exited`].
pub(crate) fn stream(
    mut command: Command,
    timeout: Duration,
    mut on_line: impl FnMut(&str),
) -> Result<Ended, CommandError> {
    let name = shown(&command);
    let read_error = |source| CommandError::Read {
        command: name.clone(),
        source,
    };
    let (reader, writer) = std::io::pipe().map_err(read_error)?;
    let errors = writer.try_clone().map_err(read_error)?;
    command.stdin(Stdio::null()).stdout(writer).stderr(errors);
    let mut child = command.spawn().map_err(|source| CommandError::Start {
        command: name.clone(),
        source,
    })?;
    drop(command); // it holds our copies of the pipe's writing end: the reader would never see the end
    let (sender, lines) = channel();
    thread::spawn(move || send_lines(reader, &sender));

    let deadline = Instant::now() + timeout;
    loop {
        match lines.recv_timeout(POLL) {
            Ok(line) => on_line(&line),
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                if let Some(status) = child.try_wait().map_err(read_error)? {
                    drain(&lines, &mut on_line);
                    return Ok(Ended::Exited(status));
                }
            }
        }
        if Instant::now() >= deadline {
            kill_tree(&mut child);
            drain(&lines, &mut on_line);
            return Ok(Ended::TimedOut);
        }
    }
    // The pipe is closed but the program may go on: it is still held to its time.
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait().map_err(read_error)? {
            return Ok(Ended::Exited(status));
        }
        thread::sleep(POLL);
    }
    kill_tree(&mut child);
    Ok(Ended::TimedOut)
}

fn send_lines(reader: PipeReader, sender: &Sender<String>) {
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
        let text = String::from_utf8_lossy(&line);
        // A serial console ends its lines with CR LF.
        if sender.send(text.trim_end_matches(['\n', '\r']).to_owned()).is_err() {
            return;
        }
        line.clear();
    }
}

/// Hands over what is still in the pipe, but waits no longer than [`LINGER`] for its end.
fn drain(lines: &Receiver<String>, on_line: &mut impl FnMut(&str)) {
    let deadline = Instant::now() + LINGER;
    while let Ok(line) = lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        on_line(&line);
    }
}

/// Kills a program and all its descendants: `cargo test` alone would leave the test running.
fn kill_tree(child: &mut Child) {
    let mut doomed = vec![child.id()];
    let processes = parents();
    let mut next = 0;
    while let Some(&parent) = doomed.get(next) {
        doomed.extend(processes.iter().filter(|(_, of)| *of == parent).map(|(id, _)| *id));
        next += 1;
    }
    for id in doomed {
        if let Some(pid) = i32::try_from(id).ok().and_then(Pid::from_raw) {
            // Gone already is as good as killed.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
    drop(child.wait());
}

/// Each process with its parent, from /proc/PID/stat (proc_pid_stat(5)).
fn parents() -> Vec<(u32, u32)> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let ids = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    ids.filter_map(|id: u32| {
        Some((
            id,
            parent_in_stat(&fs::read_to_string(format!("/proc/{id}/stat")).ok()?)?,
        ))
    })
    .collect()
}

/// The fourth field; the second, the program's name in parentheses, may itself hold spaces and parentheses.
fn parent_in_stat(stat: &str) -> Option<u32> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, timeout: Duration) -> (Ended, Vec<String>, Duration) {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let (start, mut lines) = (Instant::now(), Vec::new());
        let ended = stream(command, timeout, |line| lines.push(line.to_owned())).unwrap();
        (ended, lines, start.elapsed())
    }

    #[test]
    fn lines_of_both_streams_arrive() {
        let (ended, lines, _) = sh("echo one; printf 'two\\r\\n' >&2; exit 4", Duration::from_secs(20));
        assert!(matches!(ended, Ended::Exited(status) if status.code() == Some(4)));
        assert_eq!(lines, ["one", "two"]);
    }

    #[test]
    fn a_program_that_runs_too_long_is_killed_with_its_children() {
        let (ended, lines, took) = sh("echo begun; sleep 60 & sleep 60", Duration::from_millis(500));
        assert!(matches!(ended, Ended::TimedOut));
        assert_eq!(lines, ["begun"]);
        // The children held the pipe: had they lived, draining it would have taken LINGER.
        assert!(took < LINGER, "{took:?}");
    }

    #[test]
    fn a_process_left_behind_does_not_block() {
        let (ended, _, took) = sh("sleep 8 & exit 0", Duration::from_secs(30));
        assert!(matches!(ended, Ended::Exited(status) if status.success()));
        assert!(took < Duration::from_secs(7), "{took:?}");
    }

    #[test]
    fn the_parent_is_found_behind_a_hostile_name() {
        assert_eq!(parent_in_stat("7 (a) b (c) S 42 7 7 0"), Some(42));
        assert_eq!(parent_in_stat("7 (a"), None);
    }
}
