//! `cargo xtask docs`: man pages and shell completions, made by the binary itself from its own argument parser, so that
//! they can't differ from what it does. `--check` writes nothing and fails when the files in docs/ are not what it would write.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::checkout::{CheckoutError, Workspace, cargo};
use crate::command::{self, CommandError};

/// The shells that completions are made for.
const SHELLS: [&str; 3] = ["bash", "zsh", "fish"];

/// Arguments of `cargo xtask docs`.
#[derive(Debug, clap::Args)]
pub(crate) struct DocsArgs {
    /// Compare instead of writing.
    #[arg(long)]
    pub(crate) check: bool,
}

/// Why the generated documents couldn't be made or are not up to date.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DocsError {
    /// The workspace couldn't be looked at.
    #[error("can't find the workspace")]
    Checkout(#[from] CheckoutError),
    /// ringwall couldn't be built or asked.
    #[error("can't make the documents")]
    Command(#[from] CommandError),
    /// A file couldn't be read or written.
    #[error("can't use {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The checkout's files are not what the binary says now.
    #[error("not what `cargo xtask docs` would write: {}", .0.join(", "))]
    Drift(Vec<String>),
}

/// Makes the documents, or compares them.
///
/// # Errors
/// [`DocsError`].
pub(crate) fn run(args: &DocsArgs) -> Result<(), DocsError> {
    let workspace = Workspace::load()?;
    command::run(cargo().args(["build", "--quiet", "--release", "-p", "ringwall"]))?;
    let made = generate(&workspace.release_binary("ringwall")?)?;
    let docs = workspace.workspace_root.join("docs");
    if args.check {
        let wrong = drift(&made, &read_generated(&docs)?);
        return if wrong.is_empty() {
            Ok(())
        } else {
            Err(DocsError::Drift(wrong))
        };
    }
    for (name, content) in &made {
        let path = docs.join(name);
        let write = || {
            path.parent()
                .map_or(Ok(()), fs::create_dir_all)
                .and_then(|()| fs::write(&path, content))
        };
        write().map_err(|source| DocsError::File {
            path: path.clone(),
            source,
        })?;
    }
    println!("docs: {} files written to docs/man and docs/completions", made.len());
    Ok(())
}

/// Whether the checkout holds generated documents at all.
pub(crate) fn is_kept(workspace: &Workspace) -> bool {
    workspace.workspace_root.join("docs/man").is_dir()
}

/// The documents by their path below docs/.
type Documents = BTreeMap<String, Vec<u8>>;

fn generate(ringwall: &Path) -> Result<Documents, DocsError> {
    let folder = tempfile::tempdir().map_err(|source| DocsError::File {
        path: std::env::temp_dir(),
        source,
    })?;
    command::run(Command::new(ringwall).arg("man").arg(folder.path()))?;
    let mut made = Documents::new();
    read_folder(folder.path(), "man", &mut made)?;
    for shell in SHELLS {
        let text = command::output(Command::new(ringwall).args(["completions", shell]))?;
        made.insert(format!("completions/ringwall.{shell}"), text);
    }
    Ok(made)
}

fn read_generated(docs: &Path) -> Result<Documents, DocsError> {
    let mut found = Documents::new();
    read_folder(&docs.join("man"), "man", &mut found)?;
    read_folder(&docs.join("completions"), "completions", &mut found)?;
    Ok(found)
}

fn read_folder(folder: &Path, name: &str, into: &mut Documents) -> Result<(), DocsError> {
    let failed = |path: &Path, source| DocsError::File {
        path: path.to_owned(),
        source,
    };
    for entry in fs::read_dir(folder).map_err(|source| failed(folder, source))? {
        let path = entry.map_err(|source| failed(folder, source))?.path();
        let content = fs::read(&path).map_err(|source| failed(&path, source))?;
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        into.insert(format!("{name}/{file}"), content);
    }
    Ok(())
}

/// The names of files that are missing, too many, or different.
fn drift(wanted: &Documents, found: &Documents) -> Vec<String> {
    let names = wanted
        .keys()
        .chain(found.keys().filter(|name| !wanted.contains_key(*name)));
    names
        .filter(|name| wanted.get(*name) != found.get(*name))
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drift_names_missing_extra_and_different_files() {
        let documents = |pairs: &[(&str, &str)]| -> Documents {
            pairs
                .iter()
                .map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec()))
                .collect()
        };
        let wanted = documents(&[("man/a.1", "x"), ("man/b.1", "y"), ("man/same.1", "z")]);
        let found = documents(&[("man/a.1", "old"), ("man/c.1", "w"), ("man/same.1", "z")]);
        assert_eq!(drift(&wanted, &found), ["man/a.1", "man/b.1", "man/c.1"]);
    }
}
