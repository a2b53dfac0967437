//! Who asks: the extractor that every control-plane route has, so that none can forget it.

use axum::extract::FromRequestParts;
use http::header::AUTHORIZATION;
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use ringwall_sandbox::service::Owner;

use crate::app::App;
use crate::error::ApiError;

/// An authenticated caller, within its rate.
#[derive(Debug, Clone)]
pub(crate) struct Caller(pub(crate) Owner);

const NO_KEY: &str = "an API key is needed: send it as X-API-Key (clients take it from E2B_API_KEY)";
const UNKNOWN_KEY: &str = "this is no API key of this server; `ringwall key create` makes one";

/// Longest key looked at.
const MAX_KEY_BYTES: usize = 256;

impl FromRequestParts<App> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, ApiError> {
        // Settled by [`authenticate`] before the body was read.
        let owner = parts.extensions.get::<Owner>().cloned();
        owner.map(Caller).ok_or_else(|| ApiError::unauthorized(NO_KEY))
    }
}

/// Finds out who asks, and counts the request.
pub(crate) fn authenticate(app: &App, headers: &HeaderMap) -> Result<Owner, ApiError> {
    let key = key(headers).ok_or_else(|| ApiError::unauthorized(NO_KEY))?;
    if key.len() > MAX_KEY_BYTES {
        return Err(ApiError::unauthorized(UNKNOWN_KEY));
    }
    let owner = app.sandboxes.authenticate(key);
    // An unknown key is counted too, under one name for all: guessing is slowed down.
    let counted = owner.as_ref().map_or("", |owner| owner.0.as_str());
    if let Err(wait_s) = app.limits.take(counted) {
        return Err(ApiError {
            status: StatusCode::TOO_MANY_REQUESTS,
            message: format!("too many requests with this key; try again in {wait_s} s"),
            retry_after_s: Some(wait_s),
        });
    }
    owner.ok_or_else(|| ApiError::unauthorized(UNKNOWN_KEY))
}

/// Finds the key: `X-API-Key`, or a bearer token as older clients send it.
fn key(headers: &HeaderMap) -> Option<&str> {
    if let Some(key) = headers.get("x-api-key") {
        return key.to_str().ok();
    }
    headers.get(AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")
}
