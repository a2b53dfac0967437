//! Ids, sizes, durations and tiers shared by every layer. No I/O: everything here is a value.
#![forbid(unsafe_code)]

mod limit;
mod name;
mod tier;

pub use limit::{ByteSize, CpuShare, LimitKind, ParseLimitError, WallTime};
pub use name::{MAX_NAME_BYTES, ParseNameError, SandboxName};
pub use tier::{Isolation, ParseTierError, Tier};
