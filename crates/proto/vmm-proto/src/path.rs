//! Paths on the host, as clients send them. Checked for what no path can be; whether something is there is found out by opening it.
//!
//! `fd:N` in place of a path is descriptor N, which the VMM's starter left open for it. A file of that name is `./fd:N`.

use std::path::Path;

use serde::Serialize;

use crate::error::ValueError;

/// Longest path in bytes, without the NUL (`PATH_MAX`, include/uapi/linux/limits.h).
pub const MAX_PATH_BYTES: usize = 4095;

/// Longest path of a Unix socket in bytes, without the NUL (`sun_path`, unix(7)).
pub const MAX_SOCKET_PATH_BYTES: usize = 107;

/// What a descriptor's number comes after.
const DESCRIPTOR_PREFIX: &str = "fd:";

/// First descriptor that can be given; those before it are the standard streams.
pub const MIN_DESCRIPTOR: u16 = 3;

/// Last descriptor that can be given. Ours: one less than the usual soft limit of open files, and so few that all can be looked at.
pub const MAX_DESCRIPTOR: u16 = 1023;

/// Where something on the host is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place<'a> {
    /// At a path.
    Path(&'a Path),
    /// Open already, with this number.
    Descriptor(u16),
}

/// The descriptor that a text names: `fd:` and a number without sign or leading zeros. `None` if it is no such text, an inner `None` if the
/// number can't be.
fn descriptor(text: &str) -> Option<Option<u16>> {
    let digits = text.strip_prefix(DESCRIPTOR_PREFIX)?;
    let is_plain = digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.starts_with('0');
    let number = is_plain.then(|| digits.parse().ok()).flatten();
    Some(number.filter(|number| (MIN_DESCRIPTOR..=MAX_DESCRIPTOR).contains(number)))
}

/// Whether a text names a descriptor, if it is one that can be.
pub(crate) fn is_descriptor(text: &str) -> bool {
    matches!(descriptor(text), Some(Some(_)))
}

/// What a checked text names.
pub(crate) fn place(text: &str) -> Place<'_> {
    match descriptor(text) {
        Some(Some(number)) => Place::Descriptor(number),
        _ => Place::Path(Path::new(text)),
    }
}

/// A path that could be a file's, or a descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct HostPath(String);

impl HostPath {
    /// Checks the path in `field`.
    ///
    /// # Errors
    /// It is empty, too long, has a NUL byte, or names a descriptor that can't be.
    pub fn new(field: &'static str, path: String) -> Result<Self, ValueError> {
        check(field, &path, MAX_PATH_BYTES)?;
        Ok(Self(path))
    }

    /// Where it is.
    pub fn place(&self) -> Place<'_> {
        place(&self.0)
    }

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A path that could be a Unix socket's, or a descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct SocketPath(String);

impl SocketPath {
    /// Checks the path in `field`, leaving `room` bytes for what will be appended to it.
    ///
    /// # Errors
    /// It is empty, too long, has a NUL byte, or names a descriptor that can't be.
    pub fn new(field: &'static str, path: String, room: usize) -> Result<Self, ValueError> {
        check(field, &path, MAX_SOCKET_PATH_BYTES.saturating_sub(room))?;
        Ok(Self(path))
    }

    /// Where it is.
    pub fn place(&self) -> Place<'_> {
        place(&self.0)
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
    if descriptor(path) == Some(None) {
        return Err(ValueError::Descriptor { field });
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

    #[test]
    fn descriptors_are_told_from_paths() {
        let place = |text: &str| match HostPath::new("p", text.to_owned())
            .map(|path| path.place() == Place::Path(Path::new(text)))
        {
            Ok(true) => "path",
            Ok(false) => "descriptor",
            Err(ValueError::Descriptor { field: "p" }) => "refused",
            Err(error) => panic!("{error}"),
        };
        for text in ["fd:3", "fd:10", "fd:1023"] {
            assert_eq!(place(text), "descriptor", "{text}");
        }
        for text in [
            "fd:",
            "fd:2",
            "fd:0",
            "fd:1024",
            "fd:-3",
            "fd:+3",
            "fd:03",
            "fd: 3",
            "fd:3 ",
            "fd:3/x",
            "fd:99999999999",
            "fd:\u{663}",
        ] {
            assert_eq!(place(text), "refused", "{text}");
        }
        for text in ["./fd:3", "/fd:3", "FD:3", "fd", "fd3", "/dev/fd/3"] {
            assert_eq!(place(text), "path", "{text}");
        }
        assert_eq!(
            SocketPath::new("p", "fd:7".to_owned(), 0).unwrap().place(),
            Place::Descriptor(7)
        );
    }
}
