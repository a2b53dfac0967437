//! The name of a sandbox and of its captured changes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Most bytes in a name: it becomes a directory and a cgroup name, with room for a suffix.
pub const MAX_NAME_BYTES: usize = 64;

/// A name: 1 to 64 of `a-z 0-9 . _ -`, beginning with a letter or digit, so that it is safe as a file name and never an option.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SandboxName(String);

/// A name that can't be used.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("bad name {name:?}: use 1 to {MAX_NAME_BYTES} of a-z, 0-9, '.', '_' and '-', beginning with a letter or digit")]
pub struct ParseNameError {
    /// What was given.
    pub name: String,
}

impl SandboxName {
    /// Returns the name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Makes a name from random bits, e.g. `rw-7kq2m9xa`. Names made from different bits differ.
    #[must_use]
    pub fn from_random(bits: u64) -> Self {
        const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
        let mut name = String::from("rw-");
        for index in 0..8_u32 {
            let digit = (bits >> (index * 5)) & 31;
            name.push(char::from(ALPHABET[usize::try_from(digit).unwrap_or(0)]));
        }
        SandboxName(name)
    }
}

impl FromStr for SandboxName {
    type Err = ParseNameError;

    fn from_str(name: &str) -> Result<Self, ParseNameError> {
        let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let valid = name.len() <= MAX_NAME_BYTES
            && name.bytes().next().is_some_and(alphanumeric)
            && name
                .bytes()
                .all(|byte| alphanumeric(byte) || matches!(byte, b'.' | b'_' | b'-'));
        if valid {
            Ok(SandboxName(name.to_owned()))
        } else {
            Err(ParseNameError { name: name.to_owned() })
        }
    }
}

impl TryFrom<String> for SandboxName {
    type Error = ParseNameError;

    fn try_from(name: String) -> Result<Self, ParseNameError> {
        name.parse()
    }
}

impl From<SandboxName> for String {
    fn from(name: SandboxName) -> Self {
        name.0
    }
}

impl fmt::Display for SandboxName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_file_names() {
        for bad in ["", ".", "..", "-x", "a/b", "A", "a b", "é", &"a".repeat(65)] {
            assert!(bad.parse::<SandboxName>().is_err(), "{bad:?} must be refused");
        }
        for good in ["a", "step-1", "0.9_x", &"a".repeat(64)] {
            assert!(good.parse::<SandboxName>().is_ok(), "{good:?} must be accepted");
        }
    }

    #[test]
    fn random_names_are_valid_and_differ() {
        let first = SandboxName::from_random(0);
        let second = SandboxName::from_random(u64::MAX);
        assert!(first.as_str().parse::<SandboxName>().is_ok());
        assert_ne!(first, second);
    }
}
