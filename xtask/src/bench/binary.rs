//! The binary under test: the one given, or a fresh release build.

use std::error::Error;
use std::path::{Path, PathBuf};

use crate::checkout::{self, Workspace};
use crate::command;

/// Returns the absolute path of the binary to measure, building it unless one is given.
///
/// The build is for musl: a static musl program starts 0.3 ms faster than a static glibc one on machines whose CPUID traps,
/// because glibc's start executes dozens of CPUID instructions. Without that target the usual build is measured, and that is said.
///
/// # Errors
/// The given path doesn't exist, or the build failed.
pub(super) fn under_test(given: Option<&Path>) -> Result<PathBuf, Box<dyn Error>> {
    if let Some(path) = given {
        return path
            .canonicalize()
            .map_err(|error| format!("can't find {}: {error}", path.display()).into());
    }
    let workspace = Workspace::load()?;
    let musl = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
    let folder =
        command::text(std::process::Command::new("rustc").args(["--print", "target-libdir", "--target", &musl]))?;
    let triple = if Path::new(folder.trim()).is_dir() {
        musl
    } else {
        println!("note: measuring the glibc build, which starts slower: `rustup target add {musl}` gives the other");
        checkout::host_triple()?
    };
    command::run(checkout::cargo().args(["build", "--release", "--package", "ringwall", "--target", &triple]))?;
    Ok(workspace.target_directory.join(triple).join("release").join("ringwall"))
}
