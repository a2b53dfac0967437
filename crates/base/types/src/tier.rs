//! Isolation tiers, ordered by strength.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// An isolation tier that a sandbox can be run in. Ordered: a later variant is the stronger one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// Landlock, a seccomp allow-list and rlimits; no namespaces.
    Landlock,
    /// All namespaces, a root of its own, Landlock, a seccomp allow-list and no capabilities.
    Namespace,
}

/// The tier a caller asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// The strongest tier that this machine and this request allow.
    #[default]
    Auto,
    /// Exactly [`Tier::Namespace`].
    Namespace,
    /// Exactly [`Tier::Landlock`].
    Landlock,
}

/// A word that names no tier.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("unknown isolation tier {word:?} (expected {expected})")]
pub struct ParseTierError {
    /// What was given.
    pub word: String,
    /// What would have been accepted.
    pub expected: &'static str,
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Tier::Landlock => "landlock",
            Tier::Namespace => "namespace",
        })
    }
}

impl FromStr for Tier {
    type Err = ParseTierError;

    fn from_str(word: &str) -> Result<Self, ParseTierError> {
        match word {
            "landlock" => Ok(Tier::Landlock),
            "namespace" => Ok(Tier::Namespace),
            _ => Err(ParseTierError {
                word: word.to_owned(),
                expected: "landlock or namespace",
            }),
        }
    }
}

impl FromStr for Isolation {
    type Err = ParseTierError;

    fn from_str(word: &str) -> Result<Self, ParseTierError> {
        match word {
            "auto" => Ok(Isolation::Auto),
            "namespace" => Ok(Isolation::Namespace),
            "landlock" => Ok(Isolation::Landlock),
            _ => Err(ParseTierError {
                word: word.to_owned(),
                expected: "auto, namespace or landlock",
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiers_are_ordered_by_strength() {
        assert!(Tier::Namespace > Tier::Landlock);
    }

    #[test]
    fn words_round_trip() {
        for tier in [Tier::Landlock, Tier::Namespace] {
            assert_eq!(tier.to_string().parse(), Ok(tier));
        }
        assert!("microvm".parse::<Tier>().is_err());
        assert_eq!("auto".parse(), Ok(Isolation::Auto));
    }
}
