//! `/serial`: where the console's output goes.

use serde::{Deserialize, Serialize};

use crate::error::ValueError;
use crate::path::HostPath;
use crate::rate_limiter::{TokenBucket, WireBucket};

/// The body of PUT.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(crate) struct WireSerial {
    #[serde(default)]
    serial_out_path: Option<String>,
    #[serde(default)]
    rate_limiter: Option<WireBucket>,
}

/// The console.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Serial {
    /// File or named pipe for the output; standard output without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial_out_path: Option<HostPath>,
    /// A limit in bytes; output beyond it is dropped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limiter: Option<TokenBucket>,
}

impl TryFrom<WireSerial> for Serial {
    type Error = ValueError;

    fn try_from(wire: WireSerial) -> Result<Self, ValueError> {
        Ok(Self {
            serial_out_path: wire
                .serial_out_path
                .map(|path| HostPath::new("serial_out_path", path))
                .transpose()?,
            rate_limiter: wire.rate_limiter.map(TokenBucket::try_from).transpose()?,
        })
    }
}
