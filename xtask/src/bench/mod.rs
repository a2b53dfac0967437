//! `cargo xtask bench`: filled in with the benchmarks.

use std::error::Error;

/// Arguments of `cargo xtask bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct BenchArgs {
    /// What to measure, and its options.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) arguments: Vec<String>,
}

/// Runs the benchmarks.
///
/// # Errors
/// Always, until the benchmarks exist.
pub(crate) fn run(args: BenchArgs) -> Result<(), Box<dyn Error>> {
    Err(format!("the benchmarks are not written yet (asked for: {:?})", args.arguments).into())
}
