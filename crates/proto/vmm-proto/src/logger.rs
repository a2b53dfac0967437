//! `/logger`: where the VMM's own log goes.

use serde::{Deserialize, Deserializer};

use crate::error::ValueError;
use crate::path::HostPath;

/// Longest filter in bytes. Ours.
pub const MAX_MODULE_BYTES: usize = 256;

/// The least severe line that is written. Names are read in any case, as Firecracker does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Level {
    /// None at all.
    Off,
    /// Errors.
    Error,
    /// Warnings too.
    Warn,
    /// What happens.
    #[default]
    Info,
    /// How it happens.
    Debug,
    /// Everything.
    Trace,
}

impl Level {
    /// Reads a level by its name, in any case.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name.to_ascii_lowercase().as_str() {
            "off" => Self::Off,
            "error" => Self::Error,
            "warn" | "warning" => Self::Warn,
            "info" => Self::Info,
            "debug" => Self::Debug,
            "trace" => Self::Trace,
            _ => return None,
        })
    }
}

impl<'de> Deserialize<'de> for Level {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Self::parse(&name).ok_or_else(|| serde::de::Error::custom("level is Off, Error, Warning, Info, Debug or Trace"))
    }
}

/// The body of PUT.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(crate) struct WireLogger {
    #[serde(default)]
    log_path: Option<String>,
    #[serde(default)]
    level: Option<Level>,
    #[serde(default)]
    show_level: Option<bool>,
    #[serde(default)]
    show_log_origin: Option<bool>,
    #[serde(default)]
    module: Option<String>,
}

/// Changes to the log; what is `None` stays as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logger {
    /// File or named pipe.
    pub log_path: Option<HostPath>,
    /// The least severe line that is written.
    pub level: Option<Level>,
    /// Whether lines have their level.
    pub show_level: Option<bool>,
    /// Whether lines have the place that wrote them.
    pub show_log_origin: Option<bool>,
    /// Only lines of this module.
    pub module: Option<String>,
}

impl TryFrom<WireLogger> for Logger {
    type Error = ValueError;

    fn try_from(wire: WireLogger) -> Result<Self, ValueError> {
        if wire
            .module
            .as_ref()
            .is_some_and(|module| module.len() > MAX_MODULE_BYTES)
        {
            return Err(ValueError::LogModule);
        }
        Ok(Self {
            log_path: wire.log_path.map(|path| HostPath::new("log_path", path)).transpose()?,
            level: wire.level,
            show_level: wire.show_level,
            show_log_origin: wire.show_log_origin,
            module: wire.module,
        })
    }
}
