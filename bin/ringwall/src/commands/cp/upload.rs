//! Into a sandbox. The agent writes contents; modes and links are set there by one small command at the end.

use std::fs::{self, File, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use ringwall_agent_proto::filesystem::FileType;

use super::join;
use crate::failure::Failure;
use crate::remote::{CallError, Sandbox, chunks, process, reading};
use crate::ui;

/// Mode that the agent gives a new file, and a new directory.
const FILE_MODE: u32 = 0o644;
const DIRECTORY_MODE: u32 = 0o755;
/// Bytes of arguments for one command; a machine allows 2 MiB and more (execve(2)).
const MAX_ARGUMENT_BYTES: usize = 100_000;
/// Sets modes: pairs of a mode and a path.
const SET_MODES: &str = r#"while [ $# -gt 1 ]; do chmod -- "$1" "$2" || e=1; shift 2; done; exit $e"#;
/// Makes links: pairs of a target and a path. A directory in the way stays, and is an error.
const MAKE_LINKS: &str = r#"while [ $# -gt 1 ]; do ln -sfT -- "$1" "$2" || e=1; shift 2; done; exit $e"#;

/// What is left to do when all contents are there.
#[derive(Debug, Default)]
struct Rest {
    modes: Vec<(String, String)>,
    links: Vec<(String, String)>,
}

/// Writes standard input to a file.
pub(super) async fn from_input(sandbox: &Sandbox, path: &str) -> Result<(), Failure> {
    let body = reqwest::Body::wrap_stream(chunks(tokio::io::stdin()));
    Ok(sandbox.upload(path, body).await?)
}

/// Copies a file or directory.
pub(super) async fn from_path(sandbox: &Sandbox, from: &Path, to: &str) -> Result<(), Failure> {
    let unreadable = |error| Failure::usage(format!("can't read {}: {error}", from.display()));
    let found = fs::metadata(from).map_err(unreadable)?;
    // Relative paths count from the home directory for the agent, but not for a command: made absolute once.
    let to = &if to.starts_with('/') {
        to.to_owned()
    } else {
        let home = sandbox.stat("~").await?.map_or_else(String::new, |entry| entry.path);
        join(&home, to.strip_prefix("~/").unwrap_or(to))
    };
    let there = sandbox.stat(to).await?;
    let is_directory = there.as_ref().is_some_and(|entry| entry.kind == FileType::Directory);
    let mut rest = Rest::default();
    if found.is_dir() {
        if there.is_some() && !is_directory {
            return Err(Failure::usage(format!("{to} in the sandbox is no directory")));
        }
        // `SRC/.` is what SRC holds; Path would drop the dot.
        let wants_contents = from.as_os_str().as_encoded_bytes().ends_with(b"/.") || from == Path::new(".");
        let to = if is_directory && !wants_contents {
            join(to, &name_of(from)?)
        } else {
            to.to_owned()
        };
        tree(sandbox, from, &found, &to, &mut rest).await?;
    } else if found.is_file() {
        let to = if is_directory || to.ends_with('/') {
            join(to, &name_of(from)?)
        } else {
            to.to_owned()
        };
        file(sandbox, from, &to, &mut rest).await?;
    } else {
        return Err(Failure::usage(format!("{} is no file or directory", from.display())));
    }
    finish(sandbox, rest).await
}

fn name_of(path: &Path) -> Result<String, Failure> {
    let name = match path.file_name() {
        Some(name) => Some(name.to_owned()),
        // Such as `..`: by what it is.
        None => fs::canonicalize(path)
            .ok()
            .and_then(|path| Some(path.file_name()?.to_owned())),
    };
    let name = name.ok_or_else(|| Failure::usage(format!("{} has no name; say what to call it", path.display())))?;
    text(Path::new(&name)).map(str::to_owned)
}

/// The protocol is JSON: what is no UTF-8 can't be named there.
fn text(path: &Path) -> Result<&str, Failure> {
    path.to_str()
        .ok_or_else(|| Failure::own(format!("{} is not UTF-8: it can't be copied", path.display())))
}

async fn tree(sandbox: &Sandbox, from: &Path, found: &Metadata, to: &str, rest: &mut Rest) -> Result<(), Failure> {
    let mut pending: Vec<(PathBuf, String, u32)> = vec![(from.to_owned(), to.to_owned(), found.mode())];
    while let Some((directory, to, mode)) = pending.pop() {
        sandbox.make_dir(&to).await?;
        rest.note_mode(mode, DIRECTORY_MODE, &to);
        let failed = |error| Failure::own(format!("can't read {}: {error}", directory.display()));
        let mut entries = fs::read_dir(&directory)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(failed)?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let path = entry.path();
            let to = join(&to, text(Path::new(&entry.file_name()))?);
            let found = entry.metadata().map_err(failed)?;
            if found.is_dir() {
                pending.push((path, to, found.mode()));
            } else if found.is_file() {
                file(sandbox, &path, &to, rest).await?;
            } else if found.is_symlink() {
                let target = fs::read_link(&path).map_err(failed)?;
                rest.links.push((text(&target)?.to_owned(), to));
            } else {
                ui::note(&format!("{} is left out: no file, directory or link", path.display()));
            }
        }
    }
    Ok(())
}

async fn file(sandbox: &Sandbox, from: &Path, to: &str, rest: &mut Rest) -> Result<(), Failure> {
    let failed = |error| Failure::own(format!("can't read {}: {error}", from.display()));
    let opened = File::open(from).map_err(failed)?;
    let mode = opened.metadata().map_err(failed)?.mode();
    sandbox.upload(to, reading(opened)).await.map_err(|error| match error {
        // The body is our file: when reading it fails, so does the request.
        CallError::Unreachable { source, .. } => Failure::own(format!("can't send {}: {source}", from.display())),
        error => error.into(),
    })?;
    rest.note_mode(mode, FILE_MODE, to);
    Ok(())
}

impl Rest {
    fn note_mode(&mut self, mode: u32, usual: u32, path: &str) {
        let mode = mode & 0o777;
        if mode != usual {
            self.modes.push((format!("{mode:o}"), path.to_owned()));
        }
    }
}

/// Sets what the agent can't. A sandbox without the programs for it has the contents all the same.
async fn finish(sandbox: &Sandbox, rest: Rest) -> Result<(), Failure> {
    // Links first: a directory may lose its write bit.
    let mut modes = rest.modes;
    // Inner ones first, for the same reason.
    modes.reverse();
    for (what, script, pairs) in [
        ("symbolic links", MAKE_LINKS, rest.links),
        ("permission bits", SET_MODES, modes),
    ] {
        for batch in batches(&pairs) {
            let mut command: Vec<String> = ["/bin/sh", "-c", script, "sh"].map(str::to_owned).to_vec();
            for (value, path) in batch {
                command.extend([value.clone(), path.clone()]);
            }
            let why = match process::run_quietly(sandbox, &command).await {
                Ok((0, _)) => continue,
                Ok((code, said)) if said.is_empty() => format!("exit code {code}"),
                Ok((_, said)) => said.lines().next().unwrap_or_default().to_owned(),
                Err(failure) => failure.error.to_string(),
            };
            return Err(Failure::own(format!("the files are copied, but not all {what}: {why}")));
        }
    }
    Ok(())
}

/// Cuts pairs into runs that fit into a command line.
fn batches(pairs: &[(String, String)]) -> Vec<&[(String, String)]> {
    let mut batches = Vec::new();
    let (mut begin, mut bytes) = (0, 0);
    for (index, (value, path)) in pairs.iter().enumerate() {
        let size = value.len() + path.len() + 16;
        if bytes + size > MAX_ARGUMENT_BYTES && index > begin {
            batches.push(&pairs[begin..index]);
            (begin, bytes) = (index, 0);
        }
        bytes += size;
    }
    if begin < pairs.len() {
        batches.push(&pairs[begin..]);
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_fit_and_lose_nothing() {
        let pairs: Vec<_> = (0..5000)
            .map(|n| ("644".to_owned(), format!("/some/path/{n}")))
            .collect();
        let cut = batches(&pairs);
        assert!(cut.len() > 1);
        assert_eq!(cut.concat(), pairs);
        assert!(batches(&[]).is_empty());
        let long = vec![("a".to_owned(), "x".repeat(200_000))];
        assert_eq!(batches(&long).len(), 1);
    }
}
