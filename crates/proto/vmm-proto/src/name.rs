//! Ids of resources: what a drive or an interface is called in paths and bodies.

use std::fmt;

use serde::Serialize;

use crate::error::{RequestError, ValueError};

/// Longest id in bytes. Ours: Firecracker has no bound; ids end up in file names and log lines.
pub const MAX_ID_BYTES: usize = 64;

/// A checked id: ASCII letters, digits and underscores, so it can be a part of no path but a plain name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct ResourceId(String);

impl ResourceId {
    /// Checks an id from a request's path.
    ///
    /// # Errors
    /// [`RequestError::EmptyId`], [`RequestError::InvalidId`].
    pub fn from_path(id: &str) -> Result<Self, RequestError> {
        if id.is_empty() {
            return Err(RequestError::EmptyId);
        }
        Self::checked(id, |_| false).ok_or(RequestError::InvalidId)
    }

    /// Checks an id from a body.
    ///
    /// # Errors
    /// [`ValueError::Id`].
    pub fn from_body(field: &'static str, id: &str) -> Result<Self, ValueError> {
        Self::checked(id, |_| false).ok_or(ValueError::Id { field })
    }

    /// Checks an id from a configuration file, where hyphens and dots are allowed too: there the id never was part of a path, and existing files
    /// have such ids. PATCH requests can't name these resources.
    ///
    /// # Errors
    /// [`ValueError::Id`].
    pub fn from_file(field: &'static str, id: &str) -> Result<Self, ValueError> {
        if id.starts_with('.') {
            return Err(ValueError::Id { field });
        }
        Self::checked(id, |byte| matches!(byte, b'-' | b'.')).ok_or(ValueError::Id { field })
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn checked(id: &str, also: impl Fn(u8) -> bool) -> Option<Self> {
        let fits = !id.is_empty() && id.len() <= MAX_ID_BYTES;
        let good = id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || also(byte));
        (fits && good).then(|| Self(id.to_owned()))
    }
}

impl fmt::Display for ResourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_paths_are_plain_names() {
        for good in ["rootfs", "1", "a_b", "_", &"x".repeat(64)] {
            assert_eq!(ResourceId::from_path(good).unwrap().as_str(), good);
        }
        for bad in [
            "..",
            "a/b",
            "a-b",
            "a.b",
            "a b",
            "é",
            "٣",
            "%2e%2e",
            "a\0",
            &"x".repeat(65),
        ] {
            assert!(
                matches!(ResourceId::from_path(bad), Err(RequestError::InvalidId)),
                "{bad:?}"
            );
        }
        assert!(matches!(ResourceId::from_path(""), Err(RequestError::EmptyId)));
    }

    #[test]
    fn ids_of_files_may_have_hyphens_and_dots_inside() {
        assert!(ResourceId::from_file("drive_id", "root-fs.1").is_ok());
        for bad in ["", ".", "..", ".a", "a/b", "a b"] {
            assert!(ResourceId::from_file("drive_id", bad).is_err(), "{bad:?}");
        }
    }
}
