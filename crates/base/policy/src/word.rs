//! The words of the policy's own choices (`keep`, `host`, …), read and printed.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::policy::{Changes, NetworkMode};

/// A word that is none of the choices.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("unknown {what} {word:?} (expected {expected})")]
pub struct ParseWordError {
    /// What was being chosen.
    pub what: &'static str,
    /// What was given.
    pub word: String,
    /// What would have been accepted.
    pub expected: &'static str,
}

impl FromStr for Changes {
    type Err = ParseWordError;

    fn from_str(word: &str) -> Result<Self, ParseWordError> {
        match word {
            "keep" => Ok(Changes::Keep),
            "commit" => Ok(Changes::Commit),
            "discard" => Ok(Changes::Discard),
            "none" => Ok(Changes::None),
            _ => Err(ParseWordError {
                what: "choice for changes",
                word: word.to_owned(),
                expected: "keep, commit, discard or none",
            }),
        }
    }
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Changes::Keep => "keep",
            Changes::Commit => "commit",
            Changes::Discard => "discard",
            Changes::None => "none",
        })
    }
}

impl FromStr for NetworkMode {
    type Err = ParseWordError;

    fn from_str(word: &str) -> Result<Self, ParseWordError> {
        match word {
            "none" => Ok(NetworkMode::None),
            "host" => Ok(NetworkMode::Host),
            _ => Err(ParseWordError {
                what: "network mode",
                word: word.to_owned(),
                expected: "none or host",
            }),
        }
    }
}

impl fmt::Display for NetworkMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NetworkMode::None => "none",
            NetworkMode::Host => "host",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_round_trip() {
        for changes in [Changes::Keep, Changes::Commit, Changes::Discard, Changes::None] {
            assert_eq!(changes.to_string().parse(), Ok(changes));
        }
        for mode in [NetworkMode::None, NetworkMode::Host] {
            assert_eq!(mode.to_string().parse(), Ok(mode));
        }
        assert!("Keep".parse::<Changes>().is_err());
        assert!("".parse::<NetworkMode>().is_err());
    }
}
