//! Connect error codes, and the one error shape that every RPC answers with.

use serde::{Deserialize, Serialize};

/// A Connect status code (<https://connectrpc.com/docs/protocol#error-codes>).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The caller went away.
    Canceled,
    /// A failure nobody foresaw.
    Unknown,
    /// The request makes no sense whatever the state.
    InvalidArgument,
    /// `Connect-Timeout-Ms` has passed.
    DeadlineExceeded,
    /// The named thing does not exist.
    NotFound,
    /// The named thing exists already.
    AlreadyExists,
    /// The operating system refuses.
    PermissionDenied,
    /// A limit is reached.
    ResourceExhausted,
    /// The state does not allow it now.
    FailedPrecondition,
    /// Lost a race.
    Aborted,
    /// Past the end.
    OutOfRange,
    /// No such method.
    Unimplemented,
    /// A failure of the agent itself.
    Internal,
    /// Try again later.
    Unavailable,
    /// Data is gone for good.
    DataLoss,
    /// Who is asking is not known.
    Unauthenticated,
}

impl Code {
    /// The HTTP status of a unary response with this code, from the table in the Connect specification.
    #[must_use]
    pub fn http_status(self) -> u16 {
        match self {
            Code::Canceled => 499,
            Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => 400,
            Code::Unauthenticated => 401,
            Code::PermissionDenied => 403,
            Code::NotFound => 404,
            Code::AlreadyExists | Code::Aborted => 409,
            Code::ResourceExhausted => 429,
            Code::Unimplemented => 501,
            Code::Unavailable => 503,
            Code::DeadlineExceeded => 504,
            Code::Unknown | Code::Internal | Code::DataLoss => 500,
        }
    }
}

/// What a failed RPC answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct RpcError {
    /// What kind of failure.
    pub code: Code,
    /// What happened, for the caller to read.
    #[serde(default)]
    pub message: String,
}

impl RpcError {
    /// An error with this code and text.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        RpcError {
            code,
            message: message.into(),
        }
    }
}

/// The message that ends every stream (flag [`crate::envelope::END_STREAM`]).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct EndOfStream {
    /// Why the stream failed, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<RpcError>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_written_in_snake_case() {
        let error = RpcError::new(Code::DeadlineExceeded, "late");
        let end = EndOfStream { error: Some(error) };
        assert_eq!(
            serde_json::to_string(&end).unwrap(),
            r#"{"error":{"code":"deadline_exceeded","message":"late"}}"#
        );
        assert_eq!(serde_json::to_string(&EndOfStream::default()).unwrap(), "{}");
    }
}
