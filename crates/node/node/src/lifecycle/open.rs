//! Ways into a running sandbox, for the data plane.

use std::sync::Arc;

use http::Method;
use ringwall_sandbox::service::{ConnectSandbox, ServiceError, Stream};

use super::pause;
use crate::agent;
use crate::live::Live;
use crate::node::Inner;
use crate::record::Phase;

/// Port of the code interpreter.
const INTERPRETER_PORT: u16 = 49999;

/// Returns a sandbox that runs; one that is paused and resumes by traffic is resumed.
async fn awake(inner: &Arc<Inner>, id: &str) -> Result<Arc<Live>, ServiceError> {
    let live = inner.any(id)?;
    match live.phase() {
        Phase::Running => return Ok(live),
        // On its way up: its transition is waited for.
        Phase::Starting | Phase::Freezing { .. } => drop(live.transition.lock().await),
        Phase::Paused(_) | Phase::Pausing if live.look(|record| record.auto_resume) => {
            let timeout_s = live.look(|record| record.end_ms.saturating_sub(record.started_ms) / 1000);
            let request = ConnectSandbox {
                timeout_s: timeout_s.clamp(60, inner.config.max_timeout_s.max(60)),
                ..ConnectSandbox::default()
            };
            let (inner, live) = (Arc::clone(inner), Arc::clone(&live));
            // To its end, also when the one whose request this is hangs up.
            let task = tokio::spawn(async move { pause::connect(&inner, &live, request).await });
            task.await
                .map_err(ServiceError::internal("can't resume the sandbox"))??;
        }
        _ => {}
    }
    if live.phase() == Phase::Running {
        Ok(live)
    } else {
        // As E2B's clients know it: one that does not run was not found.
        Err(ServiceError::no_sandbox(id))
    }
}

pub(crate) async fn agent(inner: &Arc<Inner>, id: &str) -> Result<Stream, ServiceError> {
    let live = awake(inner, id).await?;
    let stream = agent::connect_agent(&inner.places.sandbox(&live.id))
        .await
        .map_err(|_| ServiceError::no_sandbox(id))?;
    let stream = stream
        .into_std()
        .map_err(ServiceError::internal("can't reach the sandbox's agent"))?;
    Ok(Stream::Unix(stream.into()))
}

pub(crate) async fn port(inner: &Arc<Inner>, id: &str, port: u16) -> Result<Stream, ServiceError> {
    let live = awake(inner, id).await?;
    let directory = inner.places.sandbox(&live.id);
    match agent::connect_port(&directory, port).await {
        Err(ServiceError::PortClosed) if port == INTERPRETER_PORT => {
            start_interpreter(&live, &directory).await?;
            agent::connect_port(&directory, port).await.map(Stream::Tcp)
        }
        result => result.map(Stream::Tcp),
    }
}

/// Starts the code interpreter, which is part of the agent's executable, and waits until it listens.
async fn start_interpreter(live: &Live, directory: &std::path::Path) -> Result<(), ServiceError> {
    let what = "can't start the code interpreter";
    let token = live.look(|record| record.token.clone());
    let (status, answer) = agent::request(directory, Method::POST, "/interpreter", Some(&token), Vec::new())
        .await
        .map_err(ServiceError::internal(what))?;
    if status.is_success() {
        return Ok(());
    }
    let cause = String::from_utf8_lossy(&answer).into_owned();
    Err(ServiceError::Internal { what, cause })
}
