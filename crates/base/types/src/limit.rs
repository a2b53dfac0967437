//! Limits: how much of each resource a sandbox may use, as people write them (`512M`, `1.5`, `1m30s`).

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A resource that can be limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LimitKind {
    /// Bytes of memory of all processes together.
    Memory,
    /// CPU time per wall time.
    Cpus,
    /// Processes and threads alive at once.
    Pids,
    /// Open files of one process.
    Files,
    /// Bytes the sandbox may add to disk and to its private `/tmp`.
    Disk,
    /// Wall time of the run.
    Timeout,
}

/// A number of bytes, written `4096`, `64K`, `512M`, `2G` or `1T` (powers of 1024).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ByteSize(pub u64);

/// CPUs in thousandths: `1.5` is 1500.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct CpuShare {
    /// Thousandths of a CPU; never zero.
    pub millis: u32,
}

/// A wall-clock span, written `250ms`, `30s`, `5m`, `1h30m` or a bare number of seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WallTime(pub Duration);

/// A limit that can't be read.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("bad {what} {text:?}: {expected}")]
pub struct ParseLimitError {
    /// Which kind of value was wanted.
    pub what: &'static str,
    /// What was given.
    pub text: String,
    /// What would have been accepted.
    pub expected: &'static str,
}

const SIZE_HELP: &str = "use a whole number of bytes of at least 1, or one with K, M, G or T behind it, such as 512M";
const CPUS_HELP: &str = "use a number of CPUs from 0.001 to 4096, such as 1.5";
const TIME_HELP: &str = "use a time of at least 1ms, such as 250ms, 30s, 5m or 1h30m";

/// Longest accepted time in milliseconds: 365 days, so that no deadline arithmetic can overflow.
const MAX_TIME_MS: u64 = 365 * 24 * 3600 * 1000;

impl FromStr for ByteSize {
    type Err = ParseLimitError;

    fn from_str(text: &str) -> Result<Self, ParseLimitError> {
        let bad = || ParseLimitError {
            what: "size",
            text: text.to_owned(),
            expected: SIZE_HELP,
        };
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let shift = match unit.to_ascii_lowercase().as_str() {
            "" | "b" => 0,
            "k" | "kb" | "kib" => 10,
            "m" | "mb" | "mib" => 20,
            "g" | "gb" | "gib" => 30,
            "t" | "tb" | "tib" => 40,
            _ => return Err(bad()),
        };
        let bytes = number
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(1 << shift))
            .ok_or_else(bad)?;
        // i64::MAX bounds every kernel interface the value goes to (rlimits, off_t, cgroup files).
        if bytes == 0 || i64::try_from(bytes).is_err() {
            Err(bad())
        } else {
            Ok(ByteSize(bytes))
        }
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shift, unit) in [(40, "T"), (30, "G"), (20, "M"), (10, "K")] {
            if self.0 >= 1 << shift && self.0.trailing_zeros() >= shift {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        write!(f, "{}", self.0)
    }
}

impl FromStr for CpuShare {
    type Err = ParseLimitError;

    fn from_str(text: &str) -> Result<Self, ParseLimitError> {
        let bad = || ParseLimitError {
            what: "number of CPUs",
            text: text.to_owned(),
            expected: CPUS_HELP,
        };
        text.parse::<f64>()
            .map_err(|_| bad())
            .and_then(|cpus| CpuShare::try_from(cpus).map_err(|_| bad()))
    }
}

impl TryFrom<f64> for CpuShare {
    type Error = ParseLimitError;

    fn try_from(cpus: f64) -> Result<Self, ParseLimitError> {
        let millis = (cpus * 1000.0).round();
        if !(1.0..=4_096_000.0).contains(&millis) {
            return Err(ParseLimitError {
                what: "number of CPUs",
                text: cpus.to_string(),
                expected: CPUS_HELP,
            });
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the range was checked just above"
        )]
        Ok(CpuShare { millis: millis as u32 })
    }
}

impl From<CpuShare> for f64 {
    fn from(share: CpuShare) -> Self {
        f64::from(share.millis) / 1000.0
    }
}

impl fmt::Display for CpuShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", f64::from(*self))
    }
}

impl FromStr for WallTime {
    type Err = ParseLimitError;

    fn from_str(text: &str) -> Result<Self, ParseLimitError> {
        let bad = || ParseLimitError {
            what: "time",
            text: text.to_owned(),
            expected: TIME_HELP,
        };
        let mut rest = text;
        let mut total_ms = 0_u64;
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let (number, tail) = rest.split_at(digits);
            let letters = tail.bytes().take_while(u8::is_ascii_alphabetic).count();
            let (unit, tail) = tail.split_at(letters);
            let unit_ms = match unit {
                "ms" => 1,
                "s" => 1000,
                // A bare number is seconds, but only alone: "1m30" is more likely a slip than 30 seconds.
                "" if rest.len() == text.len() => 1000,
                "m" => 60_000,
                "h" => 3_600_000,
                "d" => 86_400_000,
                _ => return Err(bad()),
            };
            let part = number
                .parse::<u64>()
                .ok()
                .and_then(|number| number.checked_mul(unit_ms))
                .ok_or_else(bad)?;
            total_ms = total_ms.checked_add(part).ok_or_else(bad)?;
            rest = tail;
        }
        if (1..=MAX_TIME_MS).contains(&total_ms) {
            Ok(WallTime(Duration::from_millis(total_ms)))
        } else {
            Err(bad())
        }
    }
}

impl fmt::Display for WallTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis();
        if ms.is_multiple_of(1000) {
            write!(f, "{}s", ms / 1000)
        } else {
            write!(f, "{ms}ms")
        }
    }
}

macro_rules! text_serde {
    ($type:ty) => {
        impl TryFrom<String> for $type {
            type Error = ParseLimitError;

            fn try_from(text: String) -> Result<Self, ParseLimitError> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(value: $type) -> Self {
                value.to_string()
            }
        }
    };
}
text_serde!(ByteSize);
text_serde!(WallTime);

impl fmt::Display for LimitKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LimitKind::Memory => "memory",
            LimitKind::Cpus => "cpus",
            LimitKind::Pids => "pids",
            LimitKind::Files => "files",
            LimitKind::Disk => "disk",
            LimitKind::Timeout => "timeout",
        })
    }
}

impl FromStr for LimitKind {
    type Err = ParseLimitError;

    fn from_str(text: &str) -> Result<Self, ParseLimitError> {
        [
            LimitKind::Memory,
            LimitKind::Cpus,
            LimitKind::Pids,
            LimitKind::Files,
            LimitKind::Disk,
            LimitKind::Timeout,
        ]
        .into_iter()
        .find(|kind| kind.to_string() == text)
        .ok_or_else(|| ParseLimitError {
            what: "limit name",
            text: text.to_owned(),
            expected: "use memory, cpus, pids, files, disk or timeout",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_round_trip_and_never_wrap() {
        for (text, bytes) in [
            ("4096", 4096),
            ("64K", 65536),
            ("512M", 536_870_912),
            ("2g", 2 << 30),
            ("1TiB", 1 << 40),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
            assert_eq!(ByteSize(bytes).to_string().parse(), Ok(ByteSize(bytes)));
        }
        for bad in ["", "0", "-1", "1.5M", "M", "9999999999T", "16777215T", "1X", " 1"] {
            assert!(bad.parse::<ByteSize>().is_err(), "{bad:?} must be refused");
        }
    }

    #[test]
    fn cpus_are_bounded() {
        assert_eq!("1.5".parse(), Ok(CpuShare { millis: 1500 }));
        for bad in ["0", "-1", "nan", "inf", "0.0001", "4097", "x"] {
            assert!(bad.parse::<CpuShare>().is_err(), "{bad:?} must be refused");
        }
    }

    #[test]
    fn times_are_bounded() {
        for (text, ms) in [("2", 2000), ("250ms", 250), ("1m30s", 90_000), ("1h", 3_600_000)] {
            assert_eq!(text.parse(), Ok(WallTime(Duration::from_millis(ms))), "{text}");
        }
        for bad in ["", "0", "1m30", "-1s", "1y", "99999999999999999999s", "366d", "s"] {
            assert!(bad.parse::<WallTime>().is_err(), "{bad:?} must be refused");
        }
    }
}
