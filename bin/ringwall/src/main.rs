//! `ringwall`: runs untrusted programs in the strongest sandbox the machine has. This file only picks the command.
#![forbid(unsafe_code)]

mod args;
mod commands;
mod failure;
mod remote;
mod ui;

use std::process::ExitCode;

/// See Cargo.toml: musl's own costs too many calls.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() -> ExitCode {
    // One executable is all there is to install: inside a sandbox it is the agent or the interpreter, by the name it is started under.
    let mut arguments = std::env::args_os();
    match arguments.next().as_deref().and_then(std::ffi::OsStr::to_str) {
        Some("ringwall-agent") => return ringwall_agent::main(arguments.collect()),
        Some("ringwall-interpreter") => return ringwall_interpreter::main(arguments.collect()),
        _ => {}
    }
    let result = match args::parse() {
        Ok(args) => commands::execute(args),
        Err(error) => return ui::clap_error(&error),
    };
    match result {
        Ok(code) => code,
        Err(failure) => ui::failure(&failure),
    }
}
