//! From flags and a policy file to one checked policy; and `ringwall policy show`.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::ExitCode;

use ringwall_policy::{MAX_POLICY_BYTES, Origin, Policy, load_policy};

use crate::args::PolicyFlags;
use crate::failure::Failure;
use crate::ui;

/// Makes the effective policy of a command line.
pub(crate) fn effective(mut flags: PolicyFlags, current_dir: &Path) -> Result<Policy, Failure> {
    let base = match flags.policy.take() {
        Some(file) => read(&file)?,
        None => Policy::default(),
    };
    let mut overrides = flags.into_overrides();
    let has_rootfs = overrides.rootfs.is_some() || base.files.rootfs.is_some();
    overrides.resolve_paths(current_dir, has_rootfs);
    let policy = base.merge(overrides);
    policy.check().map_err(Failure::usage)?;
    Ok(policy)
}

fn read(file: &Path) -> Result<Policy, Failure> {
    let failed = |error: std::io::Error| Failure::usage(format!("can't read the policy {}: {error}", file.display()));
    let mut bytes = Vec::new();
    // One byte more than may be used, so that a longer file is seen as such.
    File::open(file)
        .and_then(|opened| opened.take(MAX_POLICY_BYTES as u64 + 1).read_to_end(&mut bytes))
        .map_err(failed)?;
    let folder = file.canonicalize().map_err(failed)?;
    let folder = folder.parent().unwrap_or(Path::new("/"));
    load_policy(&bytes, Origin { file, folder }).map_err(Failure::usage)
}

/// Prints the effective policy as TOML.
pub(crate) fn show(flags: PolicyFlags) -> Result<ExitCode, Failure> {
    let current_dir = std::env::current_dir().map_err(Failure::own)?;
    let policy = effective(flags, &current_dir)?;
    ui::out(&policy.to_toml().map_err(Failure::usage)?);
    Ok(ExitCode::SUCCESS)
}
