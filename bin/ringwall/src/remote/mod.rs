//! The client of a service of sandboxes, wherever that is.
//!
//! A command goes: [`run`] (a runtime; `locate` finds the service, or `host` starts one in this process) -> [`Service`] (the control
//! plane: JSON in and out, `wire`) -> [`Sandbox`] (one sandbox's agent: `process`, `files`) -> the command's own output. Whatever comes
//! back is untrusted: the agent runs beside the sandbox's programs.

mod agent;
mod error;
mod files;
pub(crate) mod host;
mod http;
mod locate;
pub(crate) mod port;
pub(crate) mod process;
mod service;
pub(crate) mod terminal;
mod tls;
pub(crate) mod wire;

use std::time::Duration;

use crate::failure::Failure;

pub(crate) use agent::Sandbox;
pub(crate) use error::CallError;
pub(crate) use files::{chunks, reading};
pub(crate) use locate::{Search, publish, withdraw};
pub(crate) use service::{LOCAL_SOCKET, Place, Service, encode};

/// How long what still blocks (files being removed) may go on after a command.
const LAST_WORK: Duration = Duration::from_secs(5);

/// Reads a part of an answer.
pub(crate) fn read<T: serde::de::DeserializeOwned>(
    value: serde_json::Value,
    what: &'static str,
) -> Result<T, CallError> {
    serde_json::from_value(value).map_err(|error| CallError::Malformed {
        what,
        why: error.to_string(),
    })
}

/// Finds the service and does `work` with it.
pub(crate) fn run<T>(work: impl AsyncFnOnce(&mut Service) -> Result<T, Failure>) -> Result<T, Failure> {
    match run_if_any(Search::OrStart, work) {
        Ok(Some(done)) => Ok(done),
        // `OrStart` always finds or starts one.
        Ok(None) => Err(Failure::own("there is no service")),
        Err(failure) => Err(failure),
    }
}

/// [`run`], or nothing where there is no service and never was one.
pub(crate) fn run_if_any<T>(
    search: Search,
    work: impl AsyncFnOnce(&mut Service) -> Result<T, Failure>,
) -> Result<Option<T>, Failure> {
    with_runtime(async {
        let found = locate::locate(search).await?;
        with_service(found, work).await
    })
}

/// Does `work` with this machine's service, whatever the environment says, if there was ever one.
pub(crate) fn run_local<T>(work: impl AsyncFnOnce(&mut Service) -> Result<T, Failure>) -> Result<Option<T>, Failure> {
    with_runtime(async {
        let found = locate::locate_here(Search::IfAny).await?;
        with_service(found, work).await
    })
}

async fn with_service<T>(
    found: Option<Service>,
    work: impl AsyncFnOnce(&mut Service) -> Result<T, Failure>,
) -> Result<Option<T>, Failure> {
    let Some(mut service) = found else { return Ok(None) };
    let done = work(&mut service).await;
    service.finish().await;
    done.map(Some)
}

fn with_runtime<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::own(format!("can't start the runtime: {error}")))?;
    let done = runtime.block_on(work);
    // A thread may still wait for standard input; it ends with the process.
    runtime.shutdown_background();
    done
}
