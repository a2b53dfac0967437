//! Paths on the host, as clients send them. Checked for what no path can be; whether something is there is found out by opening it.

use std::path::Path;

use serde::Serialize;

use crate::error::ValueError;

/// Longest path in bytes, without the NUL (`PATH_MAX`, include/uapi/linux/limits.h).
pub const MAX_PATH_BYTES: usize = 4095;

/// Longest path of a Unix socket in bytes, without the NUL (`sun_path`, unix(7)).
pub const MAX_SOCKET_PATH_BYTES: usize = 107;

/// A path that could be a file's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct HostPath(String);

impl HostPath {
    /// Checks the path in `field`.
    ///
    /// # Errors
    /// It is empty, too long, or has a NUL byte.
    pub fn new(field: &'static str, path: String) -> Result<Self, ValueError> {
        check(field, &path, MAX_PATH_BYTES)?;
        Ok(Self(path))
    }

    /// The path.
    pub fn as_path(&self) -> &Path {
        Path::new(&self.0)
    }

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A path that could be a Unix socket's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct SocketPath(String);

impl SocketPath {
    /// Checks the path in `field`, leaving `room` bytes for what will be appended to it.
    ///
    /// # Errors
    /// It is empty, too long, or has a NUL byte.
    pub fn new(field: &'static str, path: String, room: usize) -> Result<Self, ValueError> {
        check(field, &path, MAX_SOCKET_PATH_BYTES.saturating_sub(room))?;
        Ok(Self(path))
    }

    /// The path.
    pub fn as_path(&self) -> &Path {
        Path::new(&self.0)
    }

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn check(field: &'static str, path: &str, max: usize) -> Result<(), ValueError> {
    if path.is_empty() {
        return Err(ValueError::EmptyPath { field });
    }
    if path.contains('\0') {
        return Err(ValueError::NulInPath { field });
    }
    if path.len() > max {
        return Err(ValueError::LongPath {
            field,
            got: path.len(),
            max,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_path_can_be_is_refused() {
        assert_eq!(
            HostPath::new("p", String::new()),
            Err(ValueError::EmptyPath { field: "p" })
        );
        assert_eq!(
            HostPath::new("p", "a\0b".into()),
            Err(ValueError::NulInPath { field: "p" })
        );
        assert!(HostPath::new("p", "x".repeat(4095)).is_ok());
        assert_eq!(
            HostPath::new("p", "x".repeat(4096)),
            Err(ValueError::LongPath {
                field: "p",
                got: 4096,
                max: 4095
            })
        );
        assert!(SocketPath::new("p", "x".repeat(107), 0).is_ok());
        assert!(SocketPath::new("p", "x".repeat(102), 6).is_err());
    }
}
