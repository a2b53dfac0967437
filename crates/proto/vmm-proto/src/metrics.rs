//! `/metrics`: where counters are written.

use serde::Deserialize;

use crate::error::ValueError;
use crate::path::HostPath;

/// The body of PUT.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(crate) struct WireMetrics {
    metrics_path: String,
}

/// Where counters are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metrics {
    /// File or named pipe.
    pub metrics_path: HostPath,
}

impl TryFrom<WireMetrics> for Metrics {
    type Error = ValueError;

    fn try_from(wire: WireMetrics) -> Result<Self, ValueError> {
        Ok(Self {
            metrics_path: HostPath::new("metrics_path", wire.metrics_path)?,
        })
    }
}
