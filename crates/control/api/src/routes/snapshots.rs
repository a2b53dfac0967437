//! Snapshots and forks.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use ringwall_sandbox::service::{ForkSandbox, SnapshotFilter, TakeSnapshot};
use serde::Deserialize;

use super::body::{Body, Path, Query};
use super::sandboxes::{page_size, paged};
use crate::app::App;
use crate::caller::Caller;
use crate::dto::{FileChangeBody, ForkBody, ForkResult, Sandbox, Snapshot, SnapshotBody};
use crate::error::{ApiError, ErrorBody};

/// Freezes the files of a sandbox as something that sandboxes can start from. Its processes start anew.
#[utoipa::path(post, path = "/sandboxes/{id}/snapshots", params(("id" = String, Path)), request_body = SnapshotBody, responses((status = 201, body = Snapshot), (status = 404)))]
pub(crate) async fn take_snapshot(
    State(app): State<App>,
    Caller(owner): Caller,
    Path(id): Path<String>,
    Body(body): Body<SnapshotBody>,
) -> Result<(StatusCode, Json<Snapshot>), ApiError> {
    let request = TakeSnapshot {
        name: body.name.filter(|name| !name.is_empty()),
    };
    let info = app.sandboxes.snapshot(&owner, &id, request).await?;
    Ok((StatusCode::CREATED, Json(Snapshot::from(info))))
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SnapshotQuery {
    #[serde(rename = "sandboxID")]
    sandbox_id: Option<String>,
    name: Option<String>,
    limit: Option<usize>,
    next_token: Option<String>,
}

/// The caller's snapshots, the newest first.
#[utoipa::path(get, path = "/snapshots", params(("sandboxID" = Option<String>, Query), ("name" = Option<String>, Query), ("limit" = Option<usize>, Query), ("nextToken" = Option<String>, Query)), responses((status = 200, body = Vec<Snapshot>)))]
pub(crate) async fn list_snapshots(
    State(app): State<App>,
    Caller(owner): Caller,
    Query(query): Query<SnapshotQuery>,
) -> Result<Response, ApiError> {
    let filter = SnapshotFilter {
        sandbox: query.sandbox_id.filter(|id| !id.is_empty()),
        name: query.name.filter(|name| !name.is_empty()),
        limit: page_size(query.limit)?,
        next: query.next_token.filter(|token| !token.is_empty()),
    };
    let page = app.sandboxes.snapshots(&owner, filter).await?;
    let items: Vec<Snapshot> = page.items.into_iter().map(Snapshot::from).collect();
    Ok(paged(Json(items).into_response(), page.next.as_deref()))
}

/// Makes copies of a sandbox.
#[utoipa::path(post, path = "/sandboxes/{id}/fork", params(("id" = String, Path)), request_body = ForkBody, responses((status = 201, body = Vec<ForkResult>), (status = 404)))]
pub(crate) async fn fork(
    State(app): State<App>,
    Caller(owner): Caller,
    Path(id): Path<String>,
    Body(body): Body<ForkBody>,
) -> Result<(StatusCode, Json<Vec<ForkResult>>), ApiError> {
    let request = ForkSandbox {
        timeout_s: body.timeout.unwrap_or(app.config.default_timeout_s),
        count: body.count.unwrap_or(1),
    };
    let forked = app.sandboxes.fork(&owner, &id, request).await?;
    let results = forked.into_iter().map(|copy| match copy.result {
        Ok(info) => ForkResult {
            sandbox: Some(Sandbox::new(info, &app.config)),
            error: None,
        },
        Err(error) => {
            let error = ApiError::from(error);
            ForkResult {
                sandbox: None,
                error: Some(ErrorBody {
                    code: error.status.as_u16(),
                    message: error.message,
                }),
            }
        }
    });
    Ok((StatusCode::CREATED, Json(results.collect())))
}

#[derive(Debug, Deserialize)]
pub(crate) struct DiffQuery {
    from: String,
    to: String,
}

/// What differs between the files of two sandboxes or snapshots. (Ringwall's own; E2B has no such call.)
#[utoipa::path(get, path = "/ringwall/diff", params(("from" = String, Query), ("to" = String, Query)), responses((status = 200, body = Vec<FileChangeBody>), (status = 404)))]
pub(crate) async fn diff(
    State(app): State<App>,
    Caller(owner): Caller,
    Query(query): Query<DiffQuery>,
) -> Result<Json<Vec<FileChangeBody>>, ApiError> {
    let found = app.sandboxes.diff(&owner, &query.from, &query.to).await?;
    let bodies = found.into_iter().map(|change| FileChangeBody {
        kind: change.kind.to_string(),
        path: change.path,
    });
    Ok(Json(bodies.collect()))
}
