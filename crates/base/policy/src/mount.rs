//! One `HOST:GUEST[:ro]`: a host path shown at another path. Parsed from a flag or a policy file, printed back as written.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize, Serializer};
use thiserror::Error;

/// One `HOST:GUEST[:ro]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Mount {
    /// The path on the host.
    pub host: PathBuf,
    /// The path inside.
    pub guest: PathBuf,
    /// Whether writes are refused; else they go straight to the host.
    pub read_only: bool,
}

/// A text that is no mount.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("bad mount {text:?}: use HOST:GUEST or HOST:GUEST:ro, where GUEST is an absolute path and neither holds a ':'")]
pub struct ParseMountError {
    /// What was given, as far as it is text.
    pub text: String,
}

impl Mount {
    /// Reads `HOST:GUEST` or `HOST:GUEST:ro`. HOST may still be relative ([`crate::resolve_path`]); GUEST may not.
    ///
    /// # Errors
    /// [`ParseMountError`]: not of that form, or a colon too many, which would leave open where a path ends.
    pub fn parse(text: &OsStr) -> Result<Self, ParseMountError> {
        let bad = || ParseMountError {
            text: text.to_string_lossy().into_owned(),
        };
        let parts: Vec<&[u8]> = text.as_bytes().split(|byte| *byte == b':').collect();
        let (host, guest, read_only) = match parts.as_slice() {
            [host, guest] => (*host, *guest, false),
            [host, guest, b"ro"] => (*host, *guest, true),
            _ => return Err(bad()),
        };
        if host.is_empty() || !guest.starts_with(b"/") {
            return Err(bad());
        }
        let path = |bytes: &[u8]| PathBuf::from(OsStr::from_bytes(bytes));
        Ok(Mount {
            host: path(host),
            guest: path(guest),
            read_only,
        })
    }

    /// Returns the mount as written, or `None` where that wouldn't read back: a path that is no UTF-8 or holds a colon.
    pub(crate) fn to_text(&self) -> Option<String> {
        let (host, guest) = (self.host.to_str()?, self.guest.to_str()?);
        let suffix = if self.read_only { ":ro" } else { "" };
        (!host.contains(':') && !guest.contains(':')).then(|| format!("{host}:{guest}{suffix}"))
    }
}

impl TryFrom<String> for Mount {
    type Error = ParseMountError;

    fn try_from(text: String) -> Result<Self, ParseMountError> {
        Mount::parse(OsStr::new(&text))
    }
}

impl Serialize for Mount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.to_text() {
            Some(text) => serializer.serialize_str(&text),
            None => Err(serde::ser::Error::custom(
                "a mount's path is not UTF-8 or holds a colon",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read_strictly() {
        let mount = Mount::parse(OsStr::new("/a:/b:ro")).unwrap();
        assert_eq!(
            (mount.host, mount.guest, mount.read_only),
            ("/a".into(), "/b".into(), true)
        );
        assert!(!Mount::parse(OsStr::new("a:/b")).unwrap().read_only);
        for bad in [
            "",
            ":",
            "/a",
            "/a:",
            ":/b",
            "/a:b",
            "/a:/b:rw",
            "/a:/b:ro:ro",
            "/a:/b:/c",
            "/a:ro",
            "/a::ro",
        ] {
            assert!(Mount::parse(OsStr::new(bad)).is_err(), "{bad:?} must be refused");
        }
    }

    #[test]
    fn a_mount_that_would_not_read_back_is_not_printed() {
        let odd = Mount {
            host: PathBuf::from(OsStr::from_bytes(b"/\xff")),
            guest: "/b".into(),
            read_only: false,
        };
        assert_eq!(odd.to_text(), None);
        let colon = Mount {
            host: "/a:b".into(),
            guest: "/b".into(),
            read_only: false,
        };
        assert_eq!(colon.to_text(), None);
    }
}
