//! Why a call could not be served.

use thiserror::Error;

/// A call that was refused or failed. What the caller may read; the cause of a failure goes to the log only.
#[derive(Debug, Error)]
pub enum ServiceError {
    /// There is no such thing, or it is somebody else's.
    #[error("{what} {id:?} was not found")]
    NotFound {
        /// What kind of thing.
        what: &'static str,
        /// What was asked for.
        id: String,
    },
    /// The request makes no sense as it is.
    #[error("{0}")]
    Invalid(String),
    /// What is asked for can't be enforced or done here.
    #[error("{0}")]
    Unsupported(String),
    /// The state of the thing forbids it.
    #[error("{0}")]
    Conflict(String),
    /// It exists and belongs to somebody else.
    #[error("{0}")]
    Forbidden(String),
    /// Too much at once.
    #[error("{why}; try again in {retry_after_s} s")]
    Busy {
        /// What there is too much of.
        why: String,
        /// Seconds after which trying again makes sense.
        retry_after_s: u32,
    },
    /// Nobody listens on the port.
    #[error("the port is not open")]
    PortClosed,
    /// Ringwall's own failure.
    #[error("{what}")]
    Internal {
        /// What could not be done; no path or id of the host in it.
        what: &'static str,
        /// Why.
        cause: String,
    },
}

impl ServiceError {
    /// Wraps a failure with what was being done.
    pub fn internal<E: std::fmt::Display>(what: &'static str) -> impl FnOnce(E) -> ServiceError {
        move |cause| ServiceError::Internal {
            what,
            cause: cause.to_string(),
        }
    }

    /// Says that a sandbox is not there.
    #[must_use]
    pub fn no_sandbox(id: &str) -> Self {
        ServiceError::NotFound {
            what: "sandbox",
            id: id.to_owned(),
        }
    }
}
