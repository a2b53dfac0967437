//! Digests of content, `sha256:` and 64 hex digits (OCI image-spec, descriptor.md, "Digests").

use std::fmt;
use std::io::{self, Read};

use sha2::{Digest as _, Sha256};
use thiserror::Error;

const PREFIX: &str = "sha256:";
const HEX_DIGITS: usize = 64;

/// A SHA-256 digest in its usual form.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(String);

/// A text is no digest that can be checked.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[error("{text:?} is no SHA-256 digest")]
pub struct ParseDigestError {
    /// The text, cut when it is long.
    text: String,
}

impl Digest {
    /// Checks a digest's form.
    ///
    /// # Errors
    /// [`ParseDigestError`]: another algorithm, or not 64 lower-case hex digits.
    pub fn parse(text: &str) -> Result<Self, ParseDigestError> {
        let is_hex =
            |hex: &str| hex.len() == HEX_DIGITS && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if text.strip_prefix(PREFIX).is_some_and(is_hex) {
            Ok(Digest(text.to_owned()))
        } else {
            Err(ParseDigestError {
                text: text.chars().take(PREFIX.len() + HEX_DIGITS).collect(),
            })
        }
    }

    /// Computes the digest of `data`.
    #[must_use]
    pub fn of(data: &[u8]) -> Self {
        let mut hasher = Hasher::default();
        hasher.update(data);
        hasher.finish()
    }

    /// Returns the whole text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the hex digits alone, fit for a file name.
    #[must_use]
    pub fn hex(&self) -> &str {
        self.0.strip_prefix(PREFIX).unwrap_or_default()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Computes a digest piece by piece.
#[derive(Debug, Default, Clone)]
pub(crate) struct Hasher(Sha256);

impl Hasher {
    pub(crate) fn update(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    pub(crate) fn finish(self) -> Digest {
        use fmt::Write as _;
        let mut text = String::from(PREFIX);
        for byte in self.0.finalize() {
            // Writing into a string can't fail.
            let _ = write!(text, "{byte:02x}");
        }
        Digest(text)
    }
}

/// Hashes what passes through.
#[derive(Debug)]
pub(crate) struct HashingReader<R> {
    reader: R,
    hasher: Hasher,
}

impl<R: Read> HashingReader<R> {
    pub(crate) fn new(reader: R) -> Self {
        HashingReader {
            reader,
            hasher: Hasher::default(),
        }
    }

    pub(crate) fn finish(self) -> Digest {
        self.hasher.finish()
    }
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.reader.read(buffer)?;
        self.hasher.update(buffer.get(..got).unwrap_or_default());
        Ok(got)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_parsed_strictly() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::of(b"").as_str(), empty);
        assert_eq!(Digest::parse(empty).expect("valid").hex().len(), 64);
        for text in [
            "",
            "sha256:",
            "sha512:00",
            &empty.to_uppercase(),
            "sha256:../../../etc/passwd",
            &empty[1..],
        ] {
            assert!(Digest::parse(text).is_err(), "{text}");
        }
    }
}
