//! `GET /` and `GET /version`: who answers.

use std::fmt;

use serde::Serialize;

use crate::error::ValueError;
use crate::state::VmState;

/// Longest instance id in bytes (Firecracker's bound).
pub const MAX_INSTANCE_ID_BYTES: usize = 64;

/// The id of an instance if nobody says otherwise (Firecracker).
const DEFAULT_INSTANCE_ID: &str = "anonymous-instance";

/// What the starter calls this instance: letters, digits and hyphens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct InstanceId(String);

impl InstanceId {
    /// Checks an id.
    ///
    /// # Errors
    /// [`ValueError::InstanceId`].
    pub fn new(id: &str) -> Result<Self, ValueError> {
        let fits = !id.is_empty() && id.len() <= MAX_INSTANCE_ID_BYTES;
        let good = id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if fits && good {
            Ok(Self(id.to_owned()))
        } else {
            Err(ValueError::InstanceId)
        }
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for InstanceId {
    fn default() -> Self {
        Self(DEFAULT_INSTANCE_ID.to_owned())
    }
}

impl std::str::FromStr for InstanceId {
    type Err = ValueError;

    fn from_str(id: &str) -> Result<Self, ValueError> {
        Self::new(id)
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The answer to `GET /`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InstanceInfo {
    /// What the starter calls this instance.
    pub id: InstanceId,
    /// What the machine does.
    pub state: VmState,
    /// This program's version.
    pub vmm_version: &'static str,
    /// This program's name.
    pub app_name: &'static str,
}
