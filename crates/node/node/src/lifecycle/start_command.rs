//! The template's start command, run with every start of a sandbox, and the command that says when it is ready.

use std::time::{Duration, Instant};

use ringwall_sandbox::service::ServiceError;

use crate::agent_process::{self, Command};
use crate::node::Inner;
use crate::record::Stack;

/// How long a start command may take to be ready.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(100);

/// Starts what the template says, and waits until it is ready.
pub(crate) async fn start_commands(
    inner: &Inner,
    id: &str,
    stack: &Stack,
    token: Option<&str>,
) -> Result<(), ServiceError> {
    let Some(text) = &stack.start_command else {
        return Ok(());
    };
    let directory = inner.places.sandbox(id);
    let command = Command {
        text,
        user: stack.user.as_deref(),
        cwd: stack.workdir.as_deref(),
        env: stack.env.clone(),
        token,
    };
    agent_process::launch(&directory, &command)
        .await
        .map_err(ServiceError::internal("the template's start command does not start"))?;
    let Some(ready) = &stack.ready_command else {
        return Ok(());
    };
    let command = Command {
        text: ready,
        ..command.clone()
    };
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        let left = PATIENCE.saturating_sub(begun.elapsed());
        match agent_process::run(&directory, &command, left, |_, _| {}).await {
            Ok(0) => return Ok(()),
            Ok(_) => tokio::time::sleep(PAUSE).await,
            Err(error) => {
                return Err(ServiceError::internal("the template's ready command can't be run")(
                    error,
                ));
            }
        }
    }
    Err(ServiceError::Internal {
        what: "the template's start command does not become ready",
        cause: format!("{ready:?} has not succeeded for {PATIENCE:?}"),
    })
}
