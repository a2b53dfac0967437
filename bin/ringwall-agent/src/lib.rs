//! The agent: the program inside a sandbox that serves E2B's `envd` API over a Unix socket the host holds the other end of.
//!
//! A request passes `server` (connections) -> `router` (path, token) -> one of `rest`, `files`, `process`, `filesystem`. Everything runs on
//! one thread; only file I/O leaves it, for one of two blocking threads, and is done with the rights of the request's user (`rights`). The agent
//! trusts the host, and nothing else in the sandbox.

mod agent;
mod arguments;
mod body;
mod descriptor;
mod files;
mod filesystem;
mod paths;
mod ports;
mod process;
mod rest;
mod rights;
mod router;
mod rpc;
mod server;
mod shared_body;
mod shutdown;
mod users;

use std::ffi::OsString;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::{Arc, Barrier};
use std::time::Duration;

use crate::agent::Agent;
use crate::arguments::{Arguments, ArgumentsError};
use crate::rights::Powers;

/// Exit code for a command line that makes no sense.
const EXIT_USAGE: u8 = 2;
/// Exit code for a failure of the agent itself.
const EXIT_FAILURE: u8 = 125;
/// Threads for file I/O.
const BLOCKING_THREADS: usize = 2;
/// How long they stay when idle: a century, so that none is ever started later.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
/// Enough for file I/O, which is all that runs on these threads, and for the recursion of `create_dir_all` over the longest path: 2,048
/// levels. Only what is used takes memory.
const BLOCKING_STACK_BYTES: usize = 4 * 1024 * 1024;

/// Why the agent could not run.
#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error(transparent)]
    Arguments(#[from] ArgumentsError),
    #[error("cannot prepare the process")]
    Prepare(#[source] std::io::Error),
    #[error("cannot start the event loop")]
    Runtime(#[source] std::io::Error),
    #[error("cannot serve")]
    Serve(#[source] std::io::Error),
}

/// Runs the agent until it is told to stop. `arguments` are those after the program's name.
#[must_use]
pub fn main(arguments: Vec<OsString>) -> ExitCode {
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
            eprintln!("ringwall-agent: {error}{}", cause.unwrap_or_default());
            ExitCode::from(match error {
                RunError::Arguments(_) => EXIT_USAGE,
                _ => EXIT_FAILURE,
            })
        }
    }
}

fn run(arguments: Vec<OsString>) -> Result<(), RunError> {
    let arguments = Arguments::parse(arguments)?;
    // Children get the standard streams they are given and nothing else, whatever this process was started with.
    ringwall_sys::process::close_on_exec_from(3).map_err(RunError::Prepare)?;
    // Opens files under /proc/self that are root's once the process is not dumpable.
    let agent = Rc::new(Agent::new());
    rights::keep_from_programs().map_err(RunError::Prepare)?;
    ringwall_sys::privilege::set_dumpable(false).map_err(RunError::Prepare)?;
    // All signals become events of a descriptor: PID 1 has no default actions, and a write to a closed pipe is an error, not a death.
    ringwall_sys::signal::block_all().map_err(RunError::Prepare)?;
    if std::process::id() != 1 {
        ringwall_sys::privilege::adopt_orphans().map_err(RunError::Prepare)?;
    }
    let powers = agent.identity.powers();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .on_thread_start(move || {
            // Runs on blocking threads only. One with too many rights must not work at all.
            if powers != Powers::OneUser && rights::reduce_to_file_work(powers).is_err() {
                ringwall_sys::process::exit_now(i32::from(EXIT_FAILURE));
            }
        })
        .enable_io()
        .enable_time()
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_keep_alive(FOREVER)
        .thread_stack_size(BLOCKING_STACK_BYTES)
        .build()
        .map_err(RunError::Runtime)?;
    start_blocking_threads(&runtime);
    let tasks = tokio::task::LocalSet::new();
    let served = tasks.block_on(&runtime, server::serve(agent.clone(), arguments));
    shutdown::kill_everything(&agent);
    // A blocking thread may be stuck in a file system that does not answer: it must not hold up the end.
    runtime.shutdown_background();
    served.map_err(RunError::Serve)
}

/// Starts all blocking threads now. Later the sandbox's programs may have used up its processes, and tokio can't go on when it gets no thread.
fn start_blocking_threads(runtime: &tokio::runtime::Runtime) {
    let all_run = Arc::new(Barrier::new(BLOCKING_THREADS));
    for _ in 0..BLOCKING_THREADS {
        let all_run = all_run.clone();
        // Each waits for the others: one thread could do all of it in turn otherwise.
        drop(runtime.spawn_blocking(move || all_run.wait()));
    }
}
