//! What clients get: text for refusals, JSON for contexts, lines for executions.

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;

use crate::client::EventBody;
use crate::contexts::CreateContextError;
use crate::environment::EnvironmentError;
use crate::kernel::StartKernelError;

/// A response's body: whole, or line by line.
pub(crate) type Body = Either<Full<Bytes>, EventBody>;

/// Why a request isn't served; E2B's clients show the text.
#[derive(Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    text: String,
}

impl Refusal {
    /// Makes a refusal. Never use 502 (the clients call it a timeout) nor 404 for anything but a missing context.
    pub(crate) fn new(status: StatusCode, text: String) -> Self {
        Self { status, text }
    }

    /// There is no such context.
    pub(crate) fn no_context(id: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("Context {id} not found"))
    }

    /// Its status.
    #[cfg(test)]
    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    /// The response.
    pub(crate) fn into_response(self) -> Response<Body> {
        whole(self.status, "text/plain; charset=utf-8", self.text.into())
    }
}

impl From<StartKernelError> for Refusal {
    fn from(error: StartKernelError) -> Self {
        let status = if error.is_missing_kernel() {
            StatusCode::BAD_REQUEST
        } else {
            StatusCode::INTERNAL_SERVER_ERROR
        };
        Self::new(status, error.to_string())
    }
}

impl From<CreateContextError> for Refusal {
    fn from(error: CreateContextError) -> Self {
        match error {
            CreateContextError::Kernel(error) => error.into(),
            error @ CreateContextError::Directory(_) => Self::new(StatusCode::BAD_REQUEST, error.to_string()),
        }
    }
}

impl From<EnvironmentError> for Refusal {
    fn from(error: EnvironmentError) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error.to_string())
    }
}

/// A response with JSON.
pub(crate) fn json(value: &impl Serialize) -> Response<Body> {
    match serde_json::to_vec(value) {
        Ok(bytes) => whole(StatusCode::OK, "application/json", bytes.into()),
        Err(error) => Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// A response with text.
pub(crate) fn text(text: &'static str) -> Response<Body> {
    whole(
        StatusCode::OK,
        "text/plain; charset=utf-8",
        Bytes::from_static(text.as_bytes()),
    )
}

/// A response with lines.
pub(crate) fn lines(body: EventBody) -> Response<Body> {
    response(StatusCode::OK, "application/x-ndjson", Either::Right(body))
}

fn whole(status: StatusCode, kind: &'static str, bytes: Bytes) -> Response<Body> {
    response(status, kind, Either::Left(Full::new(bytes)))
}

fn response(status: StatusCode, kind: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
