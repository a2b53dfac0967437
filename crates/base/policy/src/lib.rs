//! The policy of a sandbox: what a program may see, change and use. Pure: parsed, checked, merged and printed here, enforced elsewhere.
//!
//! A policy file's bytes go through [`load_policy`], a command line's flags become [`Overrides`], [`Policy::merge`] joins the
//! two and [`Policy::check`] says whether the result makes sense. Nothing here reads a file, an environment or a clock.
#![forbid(unsafe_code)]

mod check;
mod closest;
mod load;
mod merge;
mod mount;
mod path;
mod policy;
mod reader;
mod show;
mod word;

pub use check::{CheckPolicyError, check_env_name, check_env_value};
pub use load::{LoadPolicyError, MAX_POLICY_BYTES, Origin, PolicyProblem, load_policy};
pub use merge::{EnvOverride, Overrides};
pub use mount::{Mount, ParseMountError};
pub use path::resolve_path;
pub use policy::{Changes, EnvPolicy, FilePolicy, Limits, NetworkMode, NetworkPolicy, Policy};
pub use show::ShowPolicyError;
pub use word::ParseWordError;
