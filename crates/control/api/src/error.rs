//! Errors as callers see them: E2B's shape, a status that its clients understand, and no path or cause of the host.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::header::RETRY_AFTER;
use http::{HeaderName, HeaderValue, StatusCode};
use ringwall_sandbox::service::ServiceError;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Most bytes of a control-plane body.
pub(crate) const MAX_BODY_BYTES: usize = 1 << 20;

/// Tells E2B's clients whether asking again makes sense.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("should-retry");

/// An error, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct ErrorBody {
    /// The HTTP status.
    pub(crate) code: u16,
    /// What went wrong.
    pub(crate) message: String,
}

/// An answer that is an error.
#[derive(Debug)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    pub(crate) message: String,
    pub(crate) retry_after_s: Option<u32>,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        ApiError {
            status,
            message: message.into(),
            retry_after_s: None,
        }
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    pub(crate) fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, message)
    }
}

impl From<ServiceError> for ApiError {
    fn from(error: ServiceError) -> Self {
        let message = error.to_string();
        match error {
            ServiceError::NotFound { .. } => Self::new(StatusCode::NOT_FOUND, message),
            ServiceError::Invalid(_) | ServiceError::Unsupported(_) => Self::bad_request(message),
            ServiceError::Conflict(_) => Self::new(StatusCode::CONFLICT, message),
            ServiceError::Forbidden(_) => Self::new(StatusCode::FORBIDDEN, message),
            ServiceError::Busy { retry_after_s, .. } => ApiError {
                status: StatusCode::SERVICE_UNAVAILABLE,
                message,
                retry_after_s: Some(retry_after_s),
            },
            ServiceError::PortClosed => Self::new(StatusCode::BAD_GATEWAY, message),
            ServiceError::Internal { what, cause } => {
                tracing::error!(what, cause, "a request failed");
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
            }
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = ErrorBody {
            code: self.status.as_u16(),
            message: self.message,
        };
        let mut response = (self.status, Json(body)).into_response();
        if let Some(seconds) = self.retry_after_s {
            let headers = response.headers_mut();
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
            headers.insert(SHOULD_RETRY, HeaderValue::from_static("true"));
        }
        response
    }
}
