//! The policy of a sandbox: what a program may see, change and use. Pure: parsed, checked, merged and printed here, enforced elsewhere.
#![forbid(unsafe_code)]

mod policy;

pub use policy::{Changes, EnvPolicy, FilePolicy, Limits, Mount, NetworkMode, NetworkPolicy, Policy};
