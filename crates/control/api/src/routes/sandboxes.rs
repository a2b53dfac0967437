//! Making, finding and ending sandboxes.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use ringwall_sandbox::service::{Filter, Owner, SandboxState};
use serde::Deserialize;

use super::body::{Body, Path, Query};
use crate::app::App;
use crate::caller::Caller;
use crate::dto::{NewSandbox, Sandbox, SandboxDetail};
use crate::error::ApiError;
use crate::filter::parse_metadata;

/// Where the next page starts.
pub(super) const NEXT_TOKEN: HeaderName = HeaderName::from_static("x-next-token");
/// Seconds that the first version of the API gives a sandbox when nothing is said.
const V1_TIMEOUT_S: u64 = 15;
/// Most sandboxes on a page, and how many when nothing is said.
const MAX_PAGE: usize = 100;

/// Makes a sandbox and answers once it can take its first command.
#[utoipa::path(post, path = "/v2/sandboxes", request_body = NewSandbox, responses((status = 201, body = Sandbox), (status = 400, body = crate::error::ErrorBody), (status = 401), (status = 404, description = "No such template"), (status = 409, description = "The Idempotency-Key was used for another request"), (status = 429), (status = 503)))]
pub(crate) async fn create(
    State(app): State<App>,
    Caller(owner): Caller,
    headers: HeaderMap,
    Body(body): Body<NewSandbox>,
) -> Result<(StatusCode, Json<Sandbox>), ApiError> {
    let timeout_s = app.config.default_timeout_s;
    create_with(&app, &owner, &headers, body, timeout_s).await
}

/// The same, as older clients ask for it.
#[utoipa::path(post, path = "/sandboxes", request_body = NewSandbox, responses((status = 201, body = Sandbox), (status = 400), (status = 401), (status = 404)))]
pub(crate) async fn create_v1(
    State(app): State<App>,
    Caller(owner): Caller,
    headers: HeaderMap,
    Body(body): Body<NewSandbox>,
) -> Result<(StatusCode, Json<Sandbox>), ApiError> {
    create_with(&app, &owner, &headers, body, V1_TIMEOUT_S).await
}

async fn create_with(
    app: &App,
    owner: &Owner,
    headers: &HeaderMap,
    body: NewSandbox,
    timeout_s: u64,
) -> Result<(StatusCode, Json<Sandbox>), ApiError> {
    let request = body.into_request(timeout_s, idempotency_key(headers)?)?;
    let info = app.sandboxes.create(owner, request).await?;
    Ok((StatusCode::CREATED, Json(Sandbox::new(info, &app.config))))
}

/// Reads `Idempotency-Key`: 1 to 255 of `a-z 0-9 -` in E2B's clients; letters of both cases are taken.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(value) = headers.get("idempotency-key") else {
        return Ok(None);
    };
    let is_good = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    match value.to_str() {
        Ok(text) if (1..=255).contains(&text.len()) && text.as_bytes().iter().all(is_good) => Ok(Some(text.to_owned())),
        _ => Err(ApiError::bad_request(
            "Idempotency-Key: use 1 to 255 letters, digits and '-'",
        )),
    }
}

/// Everything about one sandbox.
#[utoipa::path(get, path = "/sandboxes/{id}", params(("id" = String, Path)), responses((status = 200, body = SandboxDetail), (status = 404)))]
pub(crate) async fn detail(
    State(app): State<App>,
    Caller(owner): Caller,
    Path(id): Path<String>,
) -> Result<Json<SandboxDetail>, ApiError> {
    let info = app.sandboxes.get(&owner, &id).await?;
    Ok(Json(SandboxDetail::new(info, &app.config, true)))
}

/// Ends a sandbox and removes its files.
#[utoipa::path(delete, path = "/sandboxes/{id}", params(("id" = String, Path)), responses((status = 204), (status = 404)))]
pub(crate) async fn kill(
    State(app): State<App>,
    Caller(owner): Caller,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    app.sandboxes.kill(&owner, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ListQuery {
    metadata: Option<String>,
    state: Option<String>,
    template: Option<String>,
    started_after: Option<String>,
    order: Option<String>,
    limit: Option<usize>,
    next_token: Option<String>,
}

/// The caller's sandboxes, a page of them.
#[utoipa::path(get, path = "/v2/sandboxes", params(("metadata" = Option<String>, Query), ("state" = Option<String>, Query, description = "running, paused or both"), ("template" = Option<String>, Query), ("startedAfter" = Option<String>, Query), ("order" = Option<String>, Query, description = "asc or desc"), ("limit" = Option<usize>, Query), ("nextToken" = Option<String>, Query)), responses((status = 200, body = Vec<SandboxDetail>, headers(("x-next-token" = String, description = "Where the next page starts; absent at the end"))), (status = 400)))]
pub(crate) async fn list(
    State(app): State<App>,
    Caller(owner): Caller,
    Query(query): Query<ListQuery>,
) -> Result<Response, ApiError> {
    list_with(&app, &owner, query, &[]).await
}

/// The same in the first version: running ones only, unless asked otherwise.
#[utoipa::path(get, path = "/sandboxes", params(("metadata" = Option<String>, Query), ("state" = Option<String>, Query)), responses((status = 200, body = Vec<SandboxDetail>)))]
pub(crate) async fn list_v1(
    State(app): State<App>,
    Caller(owner): Caller,
    Query(query): Query<ListQuery>,
) -> Result<Response, ApiError> {
    list_with(&app, &owner, query, &[SandboxState::Running]).await
}

async fn list_with(
    app: &App,
    owner: &Owner,
    query: ListQuery,
    default_states: &[SandboxState],
) -> Result<Response, ApiError> {
    let metadata = match &query.metadata {
        Some(text) => parse_metadata(text).map_err(|error| ApiError::bad_request(error.to_string()))?,
        None => std::collections::BTreeMap::new(),
    };
    let states = match query.state.as_deref().filter(|text| !text.is_empty()) {
        None => default_states.to_vec(),
        Some(text) => text
            .split(',')
            .map(|word| match word {
                "running" => Ok(SandboxState::Running),
                "paused" => Ok(SandboxState::Paused),
                _ => Err(ApiError::bad_request(format!(
                    "state: {word:?} is neither running nor paused"
                ))),
            })
            .collect::<Result<_, _>>()?,
    };
    let started_after_ms = match &query.started_after {
        None => None,
        Some(text) => {
            let time: jiff::Timestamp = text
                .parse()
                .map_err(|_| ApiError::bad_request(format!("startedAfter: {text:?} is no RFC 3339 time")))?;
            Some(u64::try_from(time.as_millisecond()).unwrap_or(0))
        }
    };
    let ascending = match query.order.as_deref() {
        None | Some("desc") => false,
        Some("asc") => true,
        Some(other) => {
            return Err(ApiError::bad_request(format!(
                "order: {other:?} is neither asc nor desc"
            )));
        }
    };
    let filter = Filter {
        metadata,
        states,
        template: query.template,
        started_after_ms,
        ascending,
        limit: page_size(query.limit)?,
        next: query.next_token.filter(|token| !token.is_empty()),
    };
    let page = app.sandboxes.list(owner, filter).await?;
    let items: Vec<SandboxDetail> = page
        .items
        .into_iter()
        .map(|info| SandboxDetail::new(info, &app.config, false))
        .collect();
    Ok(paged(Json(items).into_response(), page.next.as_deref()))
}

/// How many items on a page.
pub(super) fn page_size(limit: Option<usize>) -> Result<usize, ApiError> {
    match limit {
        None => Ok(MAX_PAGE),
        Some(0) => Err(ApiError::bad_request("limit: at least 1")),
        Some(limit) => Ok(limit.min(MAX_PAGE)),
    }
}

/// Says in a header where the next page starts.
pub(super) fn paged(mut response: Response, next: Option<&str>) -> Response {
    if let Some(value) = next.and_then(|next| HeaderValue::from_str(next).ok()) {
        response.headers_mut().insert(NEXT_TOKEN, value);
    }
    response
}
