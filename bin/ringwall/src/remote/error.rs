//! What can go wrong with a call, and what the user is told.

use std::error::Error;
use std::path::PathBuf;

use http::StatusCode;
use ringwall_agent_proto::{Code, EnvelopeError, RpcError};
use thiserror::Error;

use super::http::CA_FILE;
use super::tls::TlsProblem;
use crate::failure::Failure;

/// A failed call.
#[derive(Debug, Error)]
pub(crate) enum CallError {
    /// Nothing answers, or the connection broke.
    #[error("can't reach {url}")]
    Unreachable {
        url: String,
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// TLS fails: most often for the certificate.
    #[error("can't reach {url} safely")]
    Tls {
        url: String,
        #[source]
        source: TlsProblem,
    },
    /// The authorities to trust can't be read.
    #[error("{CA_FILE}: can't use {}", path.display())]
    CaFile {
        path: PathBuf,
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The service says no.
    #[error("{message}")]
    Refused { status: StatusCode, message: String },
    /// The sandbox's agent says no.
    #[error("{0}")]
    Rpc(RpcError),
    /// The answer is not what it should be.
    #[error("the answer to {what} can't be understood: {why}")]
    Malformed { what: &'static str, why: String },
    /// The stream broke off.
    #[error("the connection to the sandbox was lost before the command had ended")]
    Lost {
        #[source]
        source: Option<Box<dyn Error + Send + Sync>>,
    },
}

impl CallError {
    /// Wraps what reqwest says. Its own text repeats the URL and says little; the causes below it are what matters.
    pub(crate) fn unreachable(url: &str, error: reqwest::Error) -> Self {
        let mut cause: Box<dyn Error + Send + Sync> = error.without_url().into();
        if let Some(source) = TlsProblem::find(cause.as_ref()) {
            return CallError::Tls {
                url: url.to_owned(),
                source,
            };
        }
        // The innermost cause: "Connection refused", and not five layers of "error sending request".
        let mut inner: Option<String> = None;
        let mut source = cause.source();
        while let Some(next) = source {
            inner = Some(next.to_string());
            source = next.source();
        }
        if let Some(inner) = inner {
            cause = inner.into();
        }
        CallError::Unreachable {
            url: url.to_owned(),
            source: cause,
        }
    }

    /// Whether the thing asked about is not there.
    pub(crate) fn is_not_found(&self) -> bool {
        match self {
            CallError::Refused { status, .. } => *status == StatusCode::NOT_FOUND,
            CallError::Rpc(error) => error.code == Code::NotFound,
            _ => false,
        }
    }
}

impl From<RpcError> for CallError {
    fn from(error: RpcError) -> Self {
        CallError::Rpc(error)
    }
}

impl From<EnvelopeError> for CallError {
    fn from(error: EnvelopeError) -> Self {
        CallError::Malformed {
            what: "a stream",
            why: error.to_string(),
        }
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        match &error {
            CallError::Tls { source, .. } => {
                let hint = source.hint();
                Failure::own(error).hint(hint)
            }
            CallError::CaFile { .. } => {
                Failure::usage(error).hint("it must name a PEM file with the certificates of authorities; unset, the system's are trusted")
            }
            CallError::Unreachable { .. } => {
                Failure::own(error).hint("is the server running? RINGWALL_URL or E2B_API_URL names it, if set")
            }
            CallError::Refused { status, message } => match *status {
                StatusCode::UNAUTHORIZED => Failure::own(error).hint(
                    "RINGWALL_API_KEY must hold a key of that very server: `ringwall key create NAME` makes one there",
                ),
                StatusCode::NOT_FOUND if message.starts_with("sandbox ") => {
                    Failure::usage(error).hint("`ringwall ps -a` lists the sandboxes there are")
                }
                StatusCode::BAD_REQUEST if message.contains("speaks TLS") => {
                    Failure::usage(error).hint("write https:// in RINGWALL_URL or E2B_API_URL")
                }
                StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST => Failure::usage(error),
                StatusCode::BAD_GATEWAY if message.contains("was not found") => {
                    Failure::own("the sandbox does not run").hint("`ringwall ps -a` says what became of it")
                }
                _ => Failure::own(error),
            },
            CallError::Rpc(rpc) => match rpc.code {
                Code::NotFound | Code::InvalidArgument | Code::AlreadyExists | Code::Unauthenticated => {
                    Failure::usage(error)
                }
                _ => Failure::own(error),
            },
            CallError::Lost { .. } => Failure::own(error)
                .hint("was the sandbox killed, or the server stopped? If not, the command goes on: look with `ringwall exec ID -- ps`"),
            CallError::Malformed { .. } => Failure::own(error),
        }
    }
}
