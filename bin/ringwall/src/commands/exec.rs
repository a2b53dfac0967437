//! `ringwall exec`: a command in a sandbox.

use std::process::ExitCode;

use ringwall_agent_proto::process::{ProcessConfig, Pty, StartRequest};

use crate::args::{ExecArgs, map};
use crate::failure::Failure;
use crate::remote::{self, Sandbox, process};

/// Runs it and passes its exit code on.
pub(crate) fn execute(args: ExecArgs) -> Result<ExitCode, Failure> {
    let mut words = args
        .command
        .into_iter()
        .map(|word| {
            word.into_string()
                .map_err(|word| Failure::usage(format!("{word:?} is not UTF-8, which the protocol can't carry")))
        })
        .collect::<Result<Vec<String>, Failure>>()?;
    let cmd = words.remove(0);
    let mut envs = map(&args.env);
    if args.tty {
        terminal_kind(&mut envs);
    }
    let request = StartRequest {
        process: Some(ProcessConfig {
            cmd,
            args: words,
            envs,
            cwd: args.workdir,
        }),
        pty: args.tty.then(Pty::default),
        ..StartRequest::default()
    };
    let joined = process::Joined {
        input: args.interactive,
        timeout: args.timeout.map(|timeout| timeout.0),
    };
    run(&args.id, args.user.as_deref(), request, joined)
}

/// Programs in a terminal are told of which kind it is.
pub(super) fn terminal_kind(envs: &mut std::collections::BTreeMap<String, String>) {
    let kind = std::env::var("TERM").ok().filter(|kind| !kind.is_empty());
    envs.entry("TERM".to_owned())
        .or_insert_with(|| kind.unwrap_or_else(|| "xterm-256color".to_owned()));
}

/// Runs a command in a sandbox, joined to this process.
pub(super) fn run(
    id: &str,
    user: Option<&str>,
    request: StartRequest,
    joined: process::Joined,
) -> Result<ExitCode, Failure> {
    let code = remote::run(async |service| {
        let sandbox = Sandbox::open(service, id, user).await?;
        process::run(&sandbox, request, joined).await
    })?;
    Ok(ExitCode::from(code))
}
