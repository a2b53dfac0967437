//! Why a file request failed, and what the client is told.

use std::io;
use std::path::{Path, PathBuf};

use http::StatusCode;
use ringwall_agent_proto::signature::SignatureError;
use rustix::io::Errno;

use crate::body::{self, Reply};
use crate::paths::PathError;
use crate::rights::RightsError;
use crate::users::UserError;

/// Every way that `/files` can fail.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    #[error("invalid access token")]
    WrongToken,
    #[error(transparent)]
    Signature(#[from] SignatureError),
    #[error(transparent)]
    User(#[from] UserError),
    #[error(transparent)]
    Path(#[from] PathError),
    #[error("the query parameter 'path' is missing")]
    NoPath,
    #[error("path '{}': {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("the file system cannot store metadata with '{}': {source}", path.display())]
    Metadata { path: PathBuf, source: io::Error },
    #[error("{0}")]
    Request(&'static str),
    #[error("the request's body can't be read: {0}")]
    Body(String),
    #[error(transparent)]
    Rights(#[from] RightsError),
}

impl FileError {
    /// Tells which path an error is about.
    pub(super) fn at(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| FileError::Io {
            path: path.to_owned(),
            source,
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            FileError::WrongToken | FileError::Signature(_) | FileError::User(_) => StatusCode::UNAUTHORIZED,
            FileError::Path(_)
            | FileError::NoPath
            | FileError::Request(_)
            | FileError::Body(_)
            | FileError::Metadata { .. } => StatusCode::BAD_REQUEST,
            FileError::Rights(_) => StatusCode::INTERNAL_SERVER_ERROR,
            FileError::Io { source, .. } => io_status(source),
        }
    }

    /// The response.
    pub(super) fn into_reply(self) -> Reply {
        body::error(self.status(), self.to_string())
    }
}

fn io_status(error: &io::Error) -> StatusCode {
    match Errno::from_io_error(error) {
        Some(Errno::NOENT) => StatusCode::NOT_FOUND,
        Some(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => StatusCode::INSUFFICIENT_STORAGE,
        Some(Errno::ACCESS | Errno::PERM | Errno::ROFS) => StatusCode::FORBIDDEN,
        Some(
            Errno::ISDIR | Errno::NOTDIR | Errno::EXIST | Errno::LOOP | Errno::NAMETOOLONG | Errno::NXIO | Errno::INVAL,
        ) => StatusCode::BAD_REQUEST,
        _ if matches!(error.kind(), io::ErrorKind::IsADirectory | io::ErrorKind::InvalidInput) => {
            StatusCode::BAD_REQUEST
        }
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
