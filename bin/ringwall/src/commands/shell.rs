//! `ringwall shell`: bash, or what shell there is.

use std::collections::BTreeMap;
use std::process::ExitCode;

use ringwall_agent_proto::process::{ProcessConfig, Pty, StartRequest};

use super::exec;
use crate::args::ShellArgs;
use crate::failure::Failure;
use crate::remote::{process, terminal};

/// For a person at a terminal.
const AT_TERMINAL: &str = "command -v bash >/dev/null 2>&1 && exec bash -il; exec sh -i";
/// For a script on standard input.
const FROM_PIPE: &str = "command -v bash >/dev/null 2>&1 && exec bash -l; exec sh";

/// Opens it, and passes its exit code on.
pub(crate) fn execute(args: ShellArgs) -> Result<ExitCode, Failure> {
    let has_terminal = terminal::is_terminal();
    let mut envs = BTreeMap::new();
    if has_terminal {
        exec::terminal_kind(&mut envs);
    }
    let script = if has_terminal { AT_TERMINAL } else { FROM_PIPE };
    let request = StartRequest {
        process: Some(ProcessConfig {
            cmd: "/bin/sh".to_owned(),
            args: vec!["-c".to_owned(), script.to_owned()],
            envs,
            cwd: args.workdir,
        }),
        pty: has_terminal.then(Pty::default),
        ..StartRequest::default()
    };
    let joined = process::Joined {
        input: true,
        timeout: None,
    };
    exec::run(&args.id, args.user.as_deref(), request, joined)
}
