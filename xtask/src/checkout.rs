//! Where things are: the checkout's root, cargo's target folder, the host's triple.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use crate::command::{self, CommandError};

/// Why the checkout couldn't be looked at.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CheckoutError {
    /// cargo or rustc couldn't be asked.
    #[error("can't ask cargo about the workspace")]
    Command(#[from] CommandError),
    /// Their answer had another shape.
    #[error("can't read what cargo says about the workspace")]
    Metadata(#[from] serde_json::Error),
    /// rustc named no host.
    #[error("`rustc -vV` names no host")]
    NoHost,
}

/// One package of the workspace, as `cargo metadata` tells it.
#[derive(Debug, Deserialize)]
pub(crate) struct Package {
    /// Its name.
    pub(crate) name: String,
    /// Its Cargo.toml.
    pub(crate) manifest_path: PathBuf,
    /// What it depends on, of whatever kind.
    pub(crate) dependencies: Vec<Dependency>,
}

/// One dependency of a package.
#[derive(Debug, Deserialize)]
pub(crate) struct Dependency {
    /// The package's name.
    pub(crate) name: String,
    /// Its folder, if it is a local one.
    pub(crate) path: Option<PathBuf>,
}

/// The workspace, as `cargo metadata --no-deps` tells it.
#[derive(Debug, Deserialize)]
pub(crate) struct Workspace {
    /// The checkout's root.
    pub(crate) workspace_root: PathBuf,
    /// Where cargo puts what it builds.
    pub(crate) target_directory: PathBuf,
    /// The packages.
    pub(crate) packages: Vec<Package>,
}

/// cargo, the same one that runs this task.
pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    cargo
}

impl Workspace {
    /// Asks cargo.
    ///
    /// # Errors
    /// [`CheckoutError`].
    pub(crate) fn load() -> Result<Self, CheckoutError> {
        let json = command::output(cargo().args(["metadata", "--no-deps", "--format-version", "1"]))?;
        Ok(serde_json::from_slice(&json)?)
    }

    /// A file that `cargo build --release` makes for this host. `.cargo/config.toml` names the host's triple as the target, so
    /// the triple is in the path.
    ///
    /// # Errors
    /// [`CheckoutError`]: rustc couldn't be asked for the triple.
    pub(crate) fn release_binary(&self, name: &str) -> Result<PathBuf, CheckoutError> {
        Ok(self.target_directory.join(host_triple()?).join("release").join(name))
    }

    /// A folder for what tasks write: logs, images.
    pub(crate) fn scratch(&self) -> PathBuf {
        self.target_directory.join("xtask")
    }
}

/// The host's target triple, from `rustc -vV`.
///
/// # Errors
/// [`CheckoutError`].
pub(crate) fn host_triple() -> Result<String, CheckoutError> {
    let version = command::text(Command::new("rustc").arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).ok_or(CheckoutError::NoHost)
}
