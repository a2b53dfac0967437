//! Pausing, resuming, timeouts, network rules.

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use ringwall_sandbox::service::{ConnectSandbox, Network, Owner, PauseSandbox, StartedAs};

use super::body::{Body, Path};
use crate::app::App;
use crate::caller::Caller;
use crate::dto::{ConnectBody, NetworkBody, PauseBody, RefreshBody, Sandbox, TimeoutBody};
use crate::error::ApiError;

/// Resumes a paused sandbox, or prolongs a running one.
#[utoipa::path(post, path = "/v2/sandboxes/{id}/connect", params(("id" = String, Path)), request_body = ConnectBody, responses((status = 200, body = Sandbox, description = "It ran already"), (status = 201, body = Sandbox, description = "It was resumed"), (status = 404)))]
pub(crate) async fn connect(
    State(app): State<App>,
    Caller(owner): Caller,
    Path(id): Path<String>,
    Body(body): Body<ConnectBody>,
) -> Result<(StatusCode, Json<Sandbox>), ApiError> {
    connect_with(&app, &owner, &id, &body).await
}

/// The same as older clients ask for it: always 201, and an error if it runs already.
#[utoipa::path(post, path = "/sandboxes/{id}/resume", params(("id" = String, Path)), request_body = ConnectBody, responses((status = 201, body = Sandbox), (status = 404), (status = 409)))]
pub(crate) async fn resume(
    State(app): State<App>,
    Caller(owner): Caller,
    Path(id): Path<String>,
    Body(body): Body<ConnectBody>,
) -> Result<(StatusCode, Json<Sandbox>), ApiError> {
    match connect_with(&app, &owner, &id, &body).await? {
        (StatusCode::CREATED, sandbox) => Ok((StatusCode::CREATED, sandbox)),
        _ => Err(ApiError::new(
            StatusCode::CONFLICT,
            format!("sandbox {id} is already running"),
        )),
    }
}

async fn connect_with(
    app: &App,
    owner: &Owner,
    id: &str,
    body: &ConnectBody,
) -> Result<(StatusCode, Json<Sandbox>), ApiError> {
    let request = ConnectSandbox {
        timeout_s: body.timeout.unwrap_or(app.config.default_timeout_s),
        reboot: body.memory == Some(false),
        auto_pause: body.auto_pause,
    };
    let connected = app.sandboxes.connect(owner, id, request).await?;
    let status = match connected.started {
        StartedAs::Running => StatusCode::OK,
        StartedAs::Resumed => StatusCode::CREATED,
    };
    Ok((status, Json(Sandbox::new(connected.sandbox, &app.config))))
}

/// Freezes a sandbox.
#[utoipa::path(post, path = "/sandboxes/{id}/pause", params(("id" = String, Path)), request_body = PauseBody, responses((status = 204), (status = 404), (status = 409, description = "It is paused already")))]
pub(crate) async fn pause(
    State(app): State<App>,
    Caller(owner): Caller,
    Path(id): Path<String>,
    Body(body): Body<PauseBody>,
) -> Result<StatusCode, ApiError> {
    let request = PauseSandbox {
        memory: body.memory.unwrap_or(true),
    };
    app.sandboxes.pause(&owner, &id, request).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Sets when a sandbox ends.
#[utoipa::path(post, path = "/sandboxes/{id}/timeout", params(("id" = String, Path)), request_body = TimeoutBody, responses((status = 204), (status = 404)))]
pub(crate) async fn set_timeout(
    State(app): State<App>,
    Caller(owner): Caller,
    Path(id): Path<String>,
    Body(body): Body<TimeoutBody>,
) -> Result<StatusCode, ApiError> {
    app.sandboxes.set_timeout(&owner, &id, body.timeout).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Prolongs a sandbox's life; never shortens it.
#[utoipa::path(post, path = "/sandboxes/{id}/refreshes", params(("id" = String, Path)), request_body = RefreshBody, responses((status = 204), (status = 404)))]
pub(crate) async fn refresh(
    State(app): State<App>,
    Caller(owner): Caller,
    Path(id): Path<String>,
    Body(body): Body<RefreshBody>,
) -> Result<StatusCode, ApiError> {
    let seconds = body.duration.unwrap_or(app.config.default_timeout_s);
    app.sandboxes.refresh(&owner, &id, seconds).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Replaces a sandbox's network rules. What can't be enforced is refused.
#[utoipa::path(put, path = "/sandboxes/{id}/network", params(("id" = String, Path)), request_body = NetworkBody, responses((status = 204), (status = 400, description = "A rule can't be enforced"), (status = 404)))]
pub(crate) async fn set_network(
    State(app): State<App>,
    Caller(owner): Caller,
    Path(id): Path<String>,
    Body(body): Body<NetworkBody>,
) -> Result<StatusCode, ApiError> {
    app.sandboxes.set_network(&owner, &id, Network::from(body)).await?;
    Ok(StatusCode::NO_CONTENT)
}
