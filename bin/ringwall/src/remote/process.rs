//! A command in a sandbox, joined to this process: input, output, signals, window size, exit code.

use std::time::{Duration, Instant};

use ringwall_agent_proto::process::{
    Empty, End, Event, Input, Output, Pty, SERVICE, SelectRequest, Selector, SendInputRequest, SendSignalRequest,
    Signal, StartRequest, UpdateRequest,
};
use ringwall_agent_proto::{Code, RpcError};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::agent::{Events, Sandbox};
use super::error::CallError;
use super::terminal::{self, RawMode};
use crate::failure::{Failure, OWN};
use crate::ui;

/// Bytes of standard input sent at a time; a message may have 4 MiB.
const INPUT_BYTES: usize = 64 * 1024;
/// The end of input, typed at a terminal (Ctrl-D).
const END_OF_TRANSMISSION: u8 = 4;
/// Exit code of a command that had no more time, as with timeout(1).
const TIMED_OUT: u8 = 124;
/// Exit code of a command that was not found, and of one that can't be executed, as with env(1).
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;
/// So many signals mean: leave, whatever becomes of the command.
const SIGNALS_TO_LEAVE: u32 = 3;

/// How a command is joined.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Joined {
    /// Standard input is passed on.
    pub(crate) input: bool,
    /// It is killed after this time.
    pub(crate) timeout: Option<Duration>,
}

/// Runs a command to its end and returns its exit code.
pub(crate) async fn run(sandbox: &Sandbox, mut request: StartRequest, joined: Joined) -> Result<u8, Failure> {
    let has_terminal = request.pty.is_some();
    if has_terminal {
        request.pty = Some(Pty { size: terminal::size() });
    }
    request.stdin = Some(joined.input);
    let begun = Instant::now();
    let (mut events, pid) = start(sandbox, &request, joined.timeout).await?;
    let hook = |kind: SignalKind| signal(kind).map_err(Failure::own);
    let mut interrupt = hook(SignalKind::interrupt())?;
    let mut terminate = hook(SignalKind::terminate())?;
    let mut hangup = hook(SignalKind::hangup())?;
    let mut resized = hook(SignalKind::window_change())?;
    let _raw = (has_terminal && joined.input).then(RawMode::enter).flatten();
    if joined.input {
        tokio::spawn(feed(sandbox.clone(), pid, has_terminal));
    }
    let mut signals = 0;
    loop {
        tokio::select! {
            event = events.next() => match or_late(event, joined.timeout)? {
                Event::Data(output) => {
                    if !show(&output) {
                        // Whoever read our output is gone: the command is told as a pipe would tell it.
                        send_signal(sandbox, pid, Signal::Terminate);
                    }
                }
                Event::End(end) => {
                    let is_late = joined.timeout.is_some_and(|timeout| !end.exited && begun.elapsed() >= timeout);
                    return Ok(if is_late { TIMED_OUT } else { exit_code(&end) });
                }
                Event::Start { .. } | Event::Keepalive {} => {}
            },
            _ = async { tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {}, _ = hangup.recv() => {} } } => {
                signals += 1;
                if signals >= SIGNALS_TO_LEAVE {
                    return Err(Failure::own("interrupted; the command may still run"));
                }
                // The protocol knows these two only.
                send_signal(sandbox, pid, if signals == 1 { Signal::Terminate } else { Signal::Kill });
            }
            _ = resized.recv(), if has_terminal => {
                let (sandbox, size) = (sandbox.clone(), terminal::size());
                tokio::spawn(async move {
                    let update = UpdateRequest { process: Some(by_pid(pid)), pty: Some(Pty { size }) };
                    drop(sandbox.call::<Empty>(SERVICE, "Update", &update).await);
                });
            }
        }
    }
}

/// The agent ends the stream at the deadline, having killed the command.
fn or_late(event: Result<Event, CallError>, timeout: Option<Duration>) -> Result<Event, Failure> {
    event.map_err(|error| match (error, timeout) {
        (CallError::Rpc(error), Some(timeout)) if error.code == Code::DeadlineExceeded => Failure {
            code: TIMED_OUT,
            ..Failure::own(format!("killed: it ran longer than {}s", timeout.as_secs_f64()))
        },
        (error, _) => error.into(),
    })
}

/// Runs a command without input to its end; returns its exit code and what it wrote to standard error.
pub(crate) async fn run_quietly(sandbox: &Sandbox, command: &[String]) -> Result<(u8, String), Failure> {
    let (cmd, args) = command.split_first().ok_or_else(|| Failure::own("no command"))?;
    let request = StartRequest {
        process: Some(ringwall_agent_proto::process::ProcessConfig {
            cmd: cmd.clone(),
            args: args.to_vec(),
            ..Default::default()
        }),
        stdin: Some(false),
        ..StartRequest::default()
    };
    let (mut events, _) = start(sandbox, &request, None).await?;
    let mut said = Vec::new();
    loop {
        match events.next().await? {
            Event::Data(output) => {
                let bytes = output.stderr.unwrap_or_default();
                let room = INPUT_BYTES.saturating_sub(said.len());
                said.extend(bytes.into_iter().take(room));
            }
            Event::End(end) => return Ok((exit_code(&end), String::from_utf8_lossy(&said).into_owned())),
            Event::Start { .. } | Event::Keepalive {} => {}
        }
    }
}

async fn start(sandbox: &Sandbox, request: &StartRequest, timeout: Option<Duration>) -> Result<(Events, u32), Failure> {
    let mut events = sandbox.stream(SERVICE, "Start", request, timeout).await?;
    match events.next().await {
        Ok(Event::Start { pid }) => Ok((events, pid)),
        Ok(_) => Err(Failure::own("the sandbox's agent does not say what it has started")),
        Err(CallError::Rpc(error)) => Err(not_started(error)),
        Err(error) => Err(error.into()),
    }
}

fn by_pid(pid: u32) -> Selector {
    Selector {
        pid: Some(pid),
        tag: None,
    }
}

/// Chooses the exit code of a command that did not start.
fn not_started(error: RpcError) -> Failure {
    let is_command = error.code == Code::InvalidArgument && error.message.starts_with("cannot start");
    let code = match is_command {
        true if error.message.contains("os error 2)") => Some(NOT_FOUND),
        true => Some(NOT_EXECUTABLE),
        false => None,
    };
    let mut failure = Failure::from(CallError::Rpc(error));
    if let Some(code) = code {
        failure.code = code;
    }
    failure
}

/// In the background: a sandbox that is paused meanwhile answers when it goes on.
fn send_signal(sandbox: &Sandbox, pid: u32, signal: Signal) {
    let sandbox = sandbox.clone();
    tokio::spawn(async move {
        let request = SendSignalRequest {
            process: Some(by_pid(pid)),
            signal,
        };
        // It may have ended by itself.
        drop(sandbox.call::<Empty>(SERVICE, "SendSignal", &request).await);
    });
}

/// Writes what the command wrote; `false` when nobody reads it.
fn show(output: &Output) -> bool {
    let shown = |bytes: &Option<Vec<u8>>, write: fn(&[u8]) -> bool| bytes.as_ref().is_none_or(|bytes| write(bytes));
    shown(&output.stdout, ui::pass_out) & shown(&output.pty, ui::pass_out) & shown(&output.stderr, ui::pass_err)
}

/// Passes standard input on until it ends, or the command no longer takes any.
async fn feed(sandbox: Sandbox, pid: u32, has_terminal: bool) {
    let (sender, mut pieces) = mpsc::channel(2);
    // A thread, since a read of a terminal can't be given up; it ends with the process.
    std::thread::spawn(move || {
        let mut buffer = vec![0_u8; INPUT_BYTES];
        loop {
            match rustix::io::read(rustix::stdio::stdin(), &mut buffer) {
                Err(rustix::io::Errno::INTR) => {}
                Ok(0) | Err(_) => return,
                Ok(count) => {
                    let piece = buffer.get(..count).unwrap_or_default().to_vec();
                    if sender.blocking_send(piece).is_err() {
                        return;
                    }
                }
            }
        }
    });
    while let Some(piece) = pieces.recv().await {
        if !send_input(&sandbox, pid, piece, has_terminal).await {
            return;
        }
    }
    if has_terminal {
        send_input(&sandbox, pid, vec![END_OF_TRANSMISSION], true).await;
    } else {
        let request = SelectRequest {
            process: Some(by_pid(pid)),
        };
        drop(sandbox.call::<Empty>(SERVICE, "CloseStdin", &request).await);
    }
}

async fn send_input(sandbox: &Sandbox, pid: u32, piece: Vec<u8>, has_terminal: bool) -> bool {
    let (stdin, pty) = if has_terminal {
        (None, Some(piece))
    } else {
        (Some(piece), None)
    };
    let request = SendInputRequest {
        process: Some(by_pid(pid)),
        input: Some(Input { stdin, pty }),
    };
    sandbox.call::<Empty>(SERVICE, "SendInput", &request).await.is_ok()
}

/// The exit code: the command's own, or 128 + the signal's number, which the protocol says in words.
fn exit_code(end: &End) -> u8 {
    if end.exited {
        return u8::try_from(end.exit_code & 0xff).unwrap_or(OWN);
    }
    let number = match end.status.strip_prefix("signal: ").unwrap_or_default() {
        "hangup" => 1,
        "interrupt" => 2,
        "quit" => 3,
        "illegal instruction" => 4,
        "trace/breakpoint trap" => 5,
        "aborted" => 6,
        "bus error" => 7,
        "floating point exception" => 8,
        "killed" => 9,
        "user defined signal 1" => 10,
        "segmentation fault" => 11,
        "user defined signal 2" => 12,
        "broken pipe" => 13,
        "alarm clock" => 14,
        "terminated" => 15,
        "CPU time limit exceeded" => 24,
        "file size limit exceeded" => 25,
        "bad system call" => 31,
        other => match other.strip_prefix("signal ").and_then(|number| number.parse().ok()) {
            Some(number @ 1..=64) => number,
            _ => return OWN,
        },
    };
    128 + number
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(exited: bool, exit_code: i32, status: &str) -> u8 {
        super::exit_code(&End {
            exit_code,
            exited,
            status: status.to_owned(),
            error: None,
        })
    }

    #[test]
    fn exit_codes_are_those_of_a_shell() {
        assert_eq!(code(true, 3, "exit status 3"), 3);
        assert_eq!(code(true, 256, ""), 0);
        assert_eq!(code(false, -1, "signal: killed"), 137);
        assert_eq!(code(false, -1, "signal: signal 34"), 162);
        assert_eq!(code(false, -1, "signal: signal 200"), OWN);
        assert_eq!(code(false, -1, "?"), OWN);
    }

    #[test]
    fn commands_that_do_not_start_have_their_codes() {
        let error = |text: &str| not_started(RpcError::new(Code::InvalidArgument, text)).code;
        assert_eq!(error("cannot start 'x': No such file or directory (os error 2)"), 127);
        assert_eq!(error("cannot start 'x': Permission denied (os error 13)"), 126);
        assert_eq!(error("cwd '/x' does not exist"), crate::failure::USAGE);
    }
}
