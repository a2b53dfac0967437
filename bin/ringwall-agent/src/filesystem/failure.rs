//! From what the kernel says of a path to what a client reads.

use std::io;
use std::path::Path;

use ringwall_agent_proto::{Code, RpcError};
use rustix::io::Errno;

/// The error of an operation on a path.
pub(super) fn failure(path: &Path, error: &io::Error) -> RpcError {
    let code = match (error.kind(), Errno::from_io_error(error)) {
        (io::ErrorKind::NotFound, _) => {
            return RpcError::new(Code::NotFound, format!("path '{}' not found", path.display()));
        }
        (_, Some(Errno::ACCESS | Errno::PERM | Errno::ROFS)) => Code::PermissionDenied,
        (_, Some(Errno::NOSPC | Errno::DQUOT | Errno::MFILE | Errno::NFILE | Errno::NOMEM)) => Code::ResourceExhausted,
        (_, Some(Errno::EXIST)) => Code::AlreadyExists,
        (_, Some(Errno::NOTDIR | Errno::ISDIR | Errno::LOOP | Errno::NAMETOOLONG | Errno::INVAL)) => {
            Code::InvalidArgument
        }
        (_, Some(Errno::XDEV | Errno::BUSY | Errno::NOTEMPTY)) => Code::FailedPrecondition,
        _ => Code::Internal,
    };
    RpcError::new(code, format!("path '{}': {error}", path.display()))
}
