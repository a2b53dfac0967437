//! The effective policy printed as TOML that loads back to the same policy.

use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::policy::Policy;

/// A policy that can't be printed.
#[derive(Debug, Error)]
pub enum ShowPolicyError {
    /// A path that TOML can't hold: it is no UTF-8, or a mount's path with a colon.
    #[error("the path {path:?} can't be written in a policy file")]
    Path {
        /// The path.
        path: PathBuf,
    },
    /// The TOML writer failed.
    #[error("the policy can't be written as TOML")]
    Write(#[source] toml::ser::Error),
}

impl Policy {
    /// Prints the policy as TOML that [`crate::load_policy`] reads back to an equal policy.
    ///
    /// # Errors
    /// [`ShowPolicyError::Path`]: a path from a flag can't be put in a text file.
    pub fn to_toml(&self) -> Result<String, ShowPolicyError> {
        let files = &self.files;
        let plain = files
            .read
            .iter()
            .chain(&files.write)
            .chain(&files.deny)
            .chain(&files.rootfs)
            .chain(&files.workdir);
        let unprintable = plain.map(PathBuf::as_path).find(|path| path.to_str().is_none());
        let mount = || {
            files
                .mounts
                .iter()
                .find(|mount| mount.to_text().is_none())
                .map(|mount| unprintable_end(&mount.host, &mount.guest))
        };
        if let Some(path) = unprintable.or_else(mount) {
            return Err(ShowPolicyError::Path {
                path: path.to_path_buf(),
            });
        }
        toml::to_string_pretty(self).map_err(ShowPolicyError::Write)
    }
}

fn unprintable_end<'p>(host: &'p Path, guest: &'p Path) -> &'p Path {
    let printable = host.to_str().is_some_and(|text| !text.contains(':'));
    if printable { guest } else { host }
}

#[cfg(test)]
#[path = "show_tests.rs"]
mod tests;
