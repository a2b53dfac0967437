//! A path below the target or the upper: raw bytes from an untrusted program, and its printable, reversible form.
//!
//! Names come from `readdir` (so they hold no `/` and no NUL) or from a journal (checked in [`RelPath::decode`]). They must
//! never be printed other than through `Display`, which escapes whatever could move a terminal's cursor or deceive a reader.

use std::ffi::OsStr;
use std::fmt::{self, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Longest path handled, in bytes. `PATH_MAX` is 4096 with the NUL (linux/limits.h); the rest is room for a prefix in the stage.
pub(crate) const MAX_PATH_BYTES: usize = 3900;

/// A path relative to the target, of one or more plain names; empty for the target itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RelPath(Vec<u8>);

/// Text that is no escaped relative path.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{text:?} is not an escaped relative path")]
pub struct ParsePathError {
    /// What was given.
    pub text: String,
}

impl RelPath {
    /// Returns the path of the target itself.
    #[must_use]
    pub fn root() -> Self {
        RelPath(Vec::new())
    }

    /// Whether this is the target itself.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the raw bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the path for system calls; `.` for the target itself.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(if self.0.is_empty() { b"." } else { &self.0 }))
    }

    /// Returns the path of the entry `name` in this directory. `name` must come from `readdir`.
    #[must_use]
    pub fn join(&self, name: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(self.0.len() + 1 + name.len());
        bytes.extend_from_slice(&self.0);
        if !bytes.is_empty() {
            bytes.push(b'/');
        }
        bytes.extend_from_slice(name);
        RelPath(bytes)
    }

    /// Splits into the directory and the last name; `None` for the target itself.
    #[must_use]
    pub fn split(&self) -> Option<(RelPath, &OsStr)> {
        if self.0.is_empty() {
            return None;
        }
        Some(match self.0.iter().rposition(|&byte| byte == b'/') {
            Some(slash) => {
                let (parent, name) = self.0.split_at(slash);
                (
                    RelPath(parent.to_vec()),
                    OsStr::from_bytes(name.get(1..).unwrap_or_default()),
                )
            }
            None => (RelPath::root(), OsStr::from_bytes(&self.0)),
        })
    }

    /// Parses the form that `Display` writes (without its quotes for the root: an empty text).
    ///
    /// # Errors
    /// [`ParsePathError`]: a bad escape, or a component that is empty, `.`, `..` or holds a NUL.
    pub fn decode(text: &str) -> Result<Self, ParsePathError> {
        let bad = || ParsePathError { text: text.to_owned() };
        let bytes = unescape(text).ok_or_else(bad)?;
        let plain = |name: &[u8]| !name.is_empty() && name != b"." && name != b".." && !name.contains(&0);
        if bytes.is_empty() || bytes.split(|&byte| byte == b'/').all(plain) {
            Ok(RelPath(bytes))
        } else {
            Err(bad())
        }
    }
}

impl fmt::Display for RelPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&if self.is_root() {
            ".".to_owned()
        } else {
            escape(&self.0)
        })
    }
}

impl TryFrom<String> for RelPath {
    type Error = ParsePathError;

    fn try_from(text: String) -> Result<Self, ParsePathError> {
        RelPath::decode(&text)
    }
}

impl From<RelPath> for String {
    fn from(path: RelPath) -> String {
        escape(&path.0)
    }
}

/// Bytes of any content as JSON text: attribute names and values, the target's path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct ByteText(pub(crate) Vec<u8>);

impl TryFrom<String> for ByteText {
    type Error = ParsePathError;

    fn try_from(text: String) -> Result<Self, ParsePathError> {
        unescape(&text).map(ByteText).ok_or(ParsePathError { text })
    }
}

impl From<ByteText> for String {
    fn from(text: ByteText) -> String {
        escape(&text.0)
    }
}

/// Whether a character could deceive a reader: controls, and the invisible or direction-changing format characters
/// (Unicode Technical Report 36, section 3).
fn is_deceptive(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}

/// Writes bytes as text: UTF-8 as it is, everything else and everything deceptive as `\xNN`, a backslash doubled.
pub(crate) fn escape(bytes: &[u8]) -> String {
    escape_with(bytes, true)
}

/// The same, but a backslash stays as it is: for reading only.
pub(crate) fn escape_only_deceptive(bytes: &[u8]) -> String {
    escape_with(bytes, false)
}

fn escape_with(bytes: &[u8], doubles_backslash: bool) -> String {
    let mut text = String::with_capacity(bytes.len());
    let hex = |text: &mut String, raw: &[u8]| {
        for byte in raw {
            let _infallible = write!(text, "\\x{byte:02x}");
        }
    };
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character == '\\' && doubles_backslash {
                text.push_str("\\\\");
            } else if is_deceptive(character) {
                hex(&mut text, character.encode_utf8(&mut [0; 4]).as_bytes());
            } else {
                text.push(character);
            }
        }
        hex(&mut text, chunk.invalid());
    }
    text
}

/// Reads back what [`escape`] wrote; `None` if it couldn't have.
fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        match *rest {
            [b'\\', ref tail @ ..] => {
                bytes.push(b'\\');
                rest = tail;
            }
            [b'x', high, low, ref tail @ ..] => {
                let digit = |hex: u8| char::from(hex).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
                bytes.push(digit(high)? << 4 | digit(low)?);
                rest = tail;
            }
            _ => return None,
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaping_is_reversible_and_safe_to_print() {
        let raw: Vec<u8> = (1..=255).filter(|&byte| byte != b'/').collect();
        let path = RelPath::root()
            .join(&raw)
            .join("naïve\u{202e}\u{1b}[2J\n\\x41".as_bytes());
        let text = String::from(path.clone());
        assert!(!text.chars().any(is_deceptive), "{text}");
        assert_eq!(RelPath::decode(&text), Ok(path));
    }

    #[test]
    fn a_path_that_could_leave_the_target_is_refused() {
        for text in ["/etc", "a/../b", "..", "a//b", "a/", "./a", "a\\x00b", "\\q", "\\x4"] {
            assert!(RelPath::decode(text).is_err(), "{text}");
        }
    }

    #[test]
    fn splitting_names_the_directory() {
        let path = RelPath::root().join(b"a").join(b"b");
        let (parent, name) = path.split().expect("not the root");
        assert_eq!((parent.as_bytes(), name.as_bytes()), (b"a".as_slice(), b"b".as_slice()));
        assert!(RelPath::root().split().is_none());
    }
}
