//! One thing that a tier needs or profits from, and how this machine does at it.

use serde::Serialize;

/// What was found out about one requirement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Requirement {
    /// Its name: stable, short.
    pub name: &'static str,
    /// Whether the tier works without it.
    pub need: Need,
    /// Whether it is there.
    pub status: Status,
    /// What was found, for people.
    pub value: String,
    /// What its absence costs; only where it is not [`Status::Found`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<String>,
    /// What would change that; only where it is not [`Status::Found`] and something would.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

/// Whether a tier works without a requirement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Need {
    /// The tier does not work without it.
    Required,
    /// The tier works, but a protection or a feature is missing.
    Useful,
}

/// Whether a requirement is met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It is.
    Found,
    /// In part: what is missing is said.
    Partial,
    /// It is not.
    Missing,
}

impl Requirement {
    /// A requirement that is met.
    pub(crate) fn found(name: &'static str, need: Need, value: impl Into<String>) -> Self {
        Requirement {
            name,
            need,
            status: Status::Found,
            value: value.into(),
            cost: None,
            fix: None,
        }
    }

    /// One that is not.
    pub(crate) fn missing(name: &'static str, need: Need, value: impl Into<String>, cost: impl Into<String>) -> Self {
        let (value, cost) = (value.into(), Some(cost.into()));
        Requirement {
            name,
            need,
            status: Status::Missing,
            value,
            cost,
            fix: None,
        }
    }

    /// One that is met in part.
    pub(crate) fn partial(name: &'static str, need: Need, value: impl Into<String>, cost: impl Into<String>) -> Self {
        Requirement {
            status: Status::Partial,
            ..Requirement::missing(name, need, value, cost)
        }
    }

    /// Adds what would help.
    pub(crate) fn with_fix(self, fix: impl Into<String>) -> Self {
        Requirement {
            fix: Some(fix.into()),
            ..self
        }
    }
}
