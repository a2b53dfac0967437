//! Building templates: uploads, the build itself, how it goes.

use axum::Json;
use axum::body::Body as RawBody;
use axum::extract::{Request, State};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::StreamExt as _;
use http::header::{CONTENT_LENGTH, HOST};
use http::{HeaderMap, StatusCode};
use ringwall_sandbox::service::{NewTemplate, Owner, ServiceError};
use serde::Deserialize;
use tokio::io::AsyncWriteExt as _;

use super::body::{Body, Path, Query};
use crate::app::App;
use crate::caller::Caller;
use crate::dto::{BuildBody, BuildStatusBody, TemplateBody, UploadPlace};
use crate::error::ApiError;
use crate::scheme::Scheme;

/// Largest archive of files for COPY.
const MAX_UPLOAD_BYTES: u64 = 4 << 30;
/// Most log lines of one answer.
const MAX_LOG_LINES: usize = 1000;

/// Says whether an archive of files is there, by its hash, and if not, where to put it.
#[utoipa::path(get, path = "/templates/{id}/files/{hash}", params(("id" = String, Path), ("hash" = String, Path)), responses((status = 201, body = UploadPlace), (status = 400), (status = 404)))]
pub(crate) async fn find_upload(
    State(app): State<App>,
    Caller(owner): Caller,
    Path((id, hash)): Path<(String, String)>,
    scheme: Scheme,
    headers: HeaderMap,
) -> Result<(StatusCode, Json<UploadPlace>), ApiError> {
    let present = app.sandboxes.has_upload(&owner, &id, &hash).await?;
    let url = if present {
        None
    } else {
        // The client can reach us under the name it has just used.
        let host = headers
            .get(HOST)
            .and_then(|host| host.to_str().ok())
            .ok_or_else(|| ApiError::bad_request("the request has no Host"))?;
        let token = app.upload_token(&owner, &id, &hash);
        Some(format!(
            "{}://{host}/uploads/{}/{id}/{hash}?token={token}",
            scheme.as_str(),
            owner.0
        ))
    };
    Ok((StatusCode::CREATED, Json(UploadPlace { present, url })))
}

#[derive(Debug, Deserialize)]
pub(crate) struct UploadQuery {
    token: String,
}

/// Takes an archive. The URL is the right to it: clients send no key here.
#[utoipa::path(put, path = "/uploads/{owner}/{template}/{hash}", params(("owner" = String, Path), ("template" = String, Path), ("hash" = String, Path), ("token" = String, Query)), responses((status = 201), (status = 401), (status = 413)))]
pub(crate) async fn upload(
    State(app): State<App>,
    Path((owner, template, hash)): Path<(String, String, String)>,
    Query(query): Query<UploadQuery>,
    request: Request,
) -> Result<StatusCode, ApiError> {
    let owner = Owner(owner);
    let wanted = app.upload_token(&owner, &template, &hash);
    if !ringwall_agent_proto::signature::same(&query.token, &wanted) {
        return Err(ApiError::unauthorized(
            "this upload URL is not valid, or the server was restarted; ask for a new one",
        ));
    }
    let said = request
        .headers()
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if said.is_some_and(|said| said > MAX_UPLOAD_BYTES) {
        return Err(too_long());
    }
    let path = app.sandboxes.begin_upload(&owner, &template, &hash).await?;
    let received = receive(request.into_body(), &path).await;
    if !matches!(received, Ok(true)) {
        drop(tokio::fs::remove_file(&path).await);
    }
    match received {
        Ok(true) => {
            app.sandboxes.finish_upload(&owner, &hash, &path).await?;
            Ok(StatusCode::CREATED)
        }
        Ok(false) => Err(too_long()),
        Err(error) => Err(ServiceError::internal("the upload was not received whole")(error).into()),
    }
}

/// Makes a template of a root file system: the body is a tar archive, plain, gzip or zstd. (Ringwall's own; E2B has no such call.)
#[utoipa::path(put, path = "/ringwall/templates/{name}", params(("name" = String, Path)), responses((status = 201, body = TemplateBody), (status = 400, description = "The archive is refused; the message says why"), (status = 413)))]
pub(crate) async fn import_template(
    State(app): State<App>,
    Caller(owner): Caller,
    Path(name): Path<String>,
    request: Request,
) -> Result<(StatusCode, Json<TemplateBody>), ApiError> {
    let path = app.sandboxes.begin_import();
    let received = receive(request.into_body(), &path).await;
    let imported = match received {
        Ok(true) => {
            let wanted = NewTemplate {
                name,
                ..NewTemplate::default()
            };
            app.sandboxes
                .import_template(&owner, wanted, &path)
                .await
                .map_err(ApiError::from)
        }
        Ok(false) => Err(too_long()),
        Err(error) => Err(ServiceError::internal("the archive was not received whole")(error).into()),
    };
    drop(tokio::fs::remove_file(&path).await);
    Ok((
        StatusCode::CREATED,
        Json(TemplateBody::new(imported?, &app.config.envd_version)),
    ))
}

fn too_long() -> ApiError {
    let message = format!("the archive is longer than {MAX_UPLOAD_BYTES} bytes");
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message)
}

/// Writes a body to a file; `false` when it is too long.
async fn receive(body: RawBody, path: &std::path::Path) -> std::io::Result<bool> {
    let mut file = tokio::fs::File::create_new(path).await?;
    let mut stream = body.into_data_stream();
    let mut bytes = 0_u64;
    while let Some(piece) = stream.next().await {
        let piece = piece.map_err(std::io::Error::other)?;
        bytes += piece.len() as u64;
        if bytes > MAX_UPLOAD_BYTES {
            return Ok(false);
        }
        file.write_all(&piece).await?;
    }
    file.flush().await?;
    Ok(true)
}

/// Starts a build.
#[utoipa::path(post, path = "/v2/templates/{id}/builds/{build}", params(("id" = String, Path), ("build" = String, Path)), request_body = BuildBody, responses((status = 202), (status = 400), (status = 404), (status = 409)))]
pub(crate) async fn start_build(
    State(app): State<App>,
    Caller(owner): Caller,
    Path((id, build)): Path<(String, String)>,
    Body(body): Body<BuildBody>,
) -> Result<StatusCode, ApiError> {
    app.sandboxes.build(&owner, &id, &build, body.into_request()?).await?;
    Ok(StatusCode::ACCEPTED)
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct StatusQuery {
    logs_offset: Option<usize>,
    limit: Option<usize>,
}

/// How a build goes, and its log from an offset on.
#[utoipa::path(get, path = "/templates/{id}/builds/{build}/status", params(("id" = String, Path), ("build" = String, Path), ("logsOffset" = Option<usize>, Query), ("limit" = Option<usize>, Query)), responses((status = 200, body = BuildStatusBody), (status = 404)))]
pub(crate) async fn build_status(
    State(app): State<App>,
    Caller(owner): Caller,
    Path((id, build)): Path<(String, String)>,
    Query(query): Query<StatusQuery>,
) -> Result<Json<BuildStatusBody>, ApiError> {
    let offset = query.logs_offset.unwrap_or(0);
    let limit = query.limit.unwrap_or(100).min(MAX_LOG_LINES);
    let status = app.sandboxes.build_status(&owner, &id, &build, offset, limit).await?;
    Ok(Json(BuildStatusBody::new(id, build, status)))
}

impl App {
    /// The right to put one archive in one place, until the server is restarted.
    fn upload_token(&self, owner: &Owner, template: &str, hash: &str) -> String {
        URL_SAFE_NO_PAD.encode(self.uploads.sign(&[&owner.0, template, hash]))
    }
}
