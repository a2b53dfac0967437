//! What this server does not do: said plainly, never with an invented success.

use http::{Method, StatusCode, Uri};

use crate::caller::Caller;
use crate::error::ApiError;

fn not_here(what: &str) -> ApiError {
    let message = format!("{what} are not supported by this server: it runs sandboxes on one machine");
    ApiError::new(StatusCode::NOT_IMPLEMENTED, message)
}

pub(super) async fn volumes(_: Caller) -> ApiError {
    not_here("volumes")
}

pub(super) async fn secrets(_: Caller) -> ApiError {
    not_here("secrets")
}

pub(super) async fn teams(_: Caller) -> ApiError {
    not_here("teams and billing")
}

pub(super) async fn unknown(method: Method, uri: Uri) -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, format!("there is no {method} {}", uri.path()))
}

pub(super) async fn wrong_method(method: Method, uri: Uri) -> ApiError {
    let message = format!("{} does not take {method}", uri.path());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, message)
}
