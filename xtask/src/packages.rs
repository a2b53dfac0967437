//! What a task needs of the host: Debian packages (.ci/packages.txt is the one list) and rustup's components and targets.
//! Missing ones are installed where that can be done without asking (packages as root, rustup always); otherwise the exact
//! command is named. Nothing is fetched when nothing is missing.

use std::path::Path;
use std::process::Command;

use crate::command::{self, CommandError, is_on_path};

/// The one list of packages.
const LIST: &str = include_str!("../../.ci/packages.txt");

/// What wants a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Building anything at all.
    Build,
    /// The tests that drive the real binary.
    E2e,
    /// Virtual machines.
    Testbed,
}

/// Why a task's needs couldn't be met.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequireError {
    /// Packages are missing, and only root can install them.
    #[error("missing packages; install them with: sudo apt-get install --no-install-recommends {}", .0.join(" "))]
    MissingPackages(Vec<String>),
    /// This isn't a Debian-like system, so packages can only be named.
    #[error("missing programs, and there is no apt-get to install them with; wanted (Debian's names): {}", .0.join(" "))]
    NoApt(Vec<String>),
    /// Installing failed.
    #[error("can't install what is missing")]
    Install(#[from] CommandError),
    /// rustup isn't there to add what is missing.
    #[error("missing: {0}; there is no rustup to add it with")]
    NoRustup(String),
}

/// One line of the list.
struct Entry<'a> {
    package: &'a str,
    found_by: &'a str,
    wanted_by: &'a str,
}

fn entries(list: &str) -> impl Iterator<Item = Entry<'_>> {
    let lines = list.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| {
        let mut words = line.split_whitespace();
        Some(Entry {
            package: words.next()?,
            found_by: words.next()?,
            wanted_by: words.next()?,
        })
    })
}

fn is_found(found_by: &str) -> bool {
    if found_by.starts_with('/') {
        Path::new(found_by).exists()
    } else {
        is_on_path(found_by)
    }
}

/// Makes sure that what `wanted` needs is there, installing it as root or naming the command.
///
/// # Errors
/// [`RequireError`]: what is missing and how to get it.
pub(crate) fn require(wanted: Wanted) -> Result<(), RequireError> {
    let key = match wanted {
        Wanted::Build => "build",
        Wanted::E2e => "e2e",
        Wanted::Testbed => "testbed",
    };
    let missing = entries(LIST).filter(|entry| entry.wanted_by == key && !is_found(entry.found_by));
    let missing: Vec<String> = missing.map(|entry| entry.package.to_owned()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !is_on_path("apt-get") {
        return Err(RequireError::NoApt(missing));
    }
    if !rustix::process::geteuid().is_root() {
        return Err(RequireError::MissingPackages(missing));
    }
    println!("installing: {}", missing.join(" "));
    command::run(&mut apt_get(&["update"]))?;
    let mut install = apt_get(&["install", "-y", "--no-install-recommends"]);
    command::run(install.args(&missing))?;
    Ok(())
}

fn apt_get(words: &[&str]) -> Command {
    let mut apt = Command::new("apt-get");
    // Another apt may be running, on a fresh cloud machine above all.
    apt.env("DEBIAN_FRONTEND", "noninteractive")
        .args(["-qq", "-o", "DPkg::Lock::Timeout=300"])
        .args(words);
    apt
}

/// Makes sure that rustup's component (rustfmt, clippy) is there.
///
/// # Errors
/// [`RequireError`].
pub(crate) fn require_component(name: &str) -> Result<(), RequireError> {
    let program = if name == "clippy" { "cargo-clippy" } else { name };
    if command::output(Command::new(program).arg("--version")).is_ok() {
        return Ok(());
    }
    rustup("component", name)
}

/// Makes sure that the standard library for a target is there.
///
/// # Errors
/// [`RequireError`].
pub(crate) fn require_target(triple: &str) -> Result<(), RequireError> {
    let folder = command::text(Command::new("rustc").args(["--print", "target-libdir", "--target", triple]))?;
    if Path::new(folder.trim()).is_dir() {
        return Ok(());
    }
    rustup("target", triple)
}

fn rustup(what: &str, name: &str) -> Result<(), RequireError> {
    if !is_on_path("rustup") {
        return Err(RequireError::NoRustup(format!("{what} {name}")));
    }
    Ok(command::run(Command::new("rustup").args([what, "add", name]))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_list_is_whole_and_known() {
        let written = LIST
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .count();
        assert_eq!(entries(LIST).count(), written);
        for entry in entries(LIST) {
            let is_known = matches!(entry.wanted_by, "build" | "e2e" | "testbed" | "bench");
            assert!(is_known, "{} is wanted by {}", entry.package, entry.wanted_by);
        }
    }

    #[test]
    fn a_probe_finds_programs_and_files() {
        assert!(is_found("sh") && is_found("/bin/sh"));
        assert!(!is_found("/no/such/file") && !is_found("no-such-program"));
    }
}
