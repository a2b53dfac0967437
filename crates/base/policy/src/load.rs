//! A policy file's bytes become a [`Policy`], or an error with file, line and column. The one door for policy text:
//! bounded, read once, every key known, every value checked on its own line.
//!
//! Relative paths in a policy file are resolved against the file's folder, so that a policy means the same wherever it is used from.

use std::ops::Range;
use std::path::{Path, PathBuf};

use ringwall_types::{LimitKind, ParseLimitError, ParseNameError, ParseTierError};
use thiserror::Error;
use toml::de::DeTable;

use crate::check::{
    CheckPolicyError, check_denied_path, check_env_name, check_env_value, check_limits, check_mount, check_path,
    check_rootfs, check_shown_path,
};
use crate::closest::closest;
use crate::mount::{Mount, ParseMountError};
use crate::path::resolve_path;
use crate::policy::{EnvPolicy, FilePolicy, Limits, NetworkPolicy, Policy};
use crate::reader::{Entry, Located, entries};
use crate::word::ParseWordError;

/// Most bytes a policy file may have.
pub const MAX_POLICY_BYTES: usize = 1024 * 1024;

const TOP: &[&str] = &[
    "isolation",
    "min_isolation",
    "changes",
    "name",
    "tty",
    "files",
    "network",
    "env",
    "limits",
];
const FILES: &[&str] = &["read", "write", "deny", "mounts", "rootfs", "workdir", "home_tools"];
const NETWORK: &[&str] = &["mode"];
const ENV: &[&str] = &["set", "pass"];
const LIMITS: &[&str] = &["memory", "cpus", "pids", "files", "disk", "timeout", "allow_degraded"];

/// The tables below the top, to tell where a misplaced key belongs.
const TABLES: [(&str, &[&str]); 4] = [("files", FILES), ("network", NETWORK), ("env", ENV), ("limits", LIMITS)];

/// Where a policy's text comes from.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    /// The file's name as the user wrote it; only for messages.
    pub file: &'a Path,
    /// The folder that relative paths are resolved against: absolute and free of symlinks.
    pub folder: &'a Path,
}

/// A policy that can't be loaded.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum LoadPolicyError {
    /// The file is too long to be a policy.
    #[error("{}: the file is longer than the {MAX_POLICY_BYTES} bytes that a policy may have", file.display())]
    TooLong {
        /// The file.
        file: PathBuf,
    },
    /// Something at one place of the file is wrong.
    #[error("{}:{line}:{column}: {problem}", file.display())]
    Wrong {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The column in characters, from 1.
        column: usize,
        /// What is wrong there.
        problem: PolicyProblem,
    },
}

/// What is wrong at one place of a policy file.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum PolicyProblem {
    /// The file is no UTF-8.
    #[error("not UTF-8 text")]
    NotText,
    /// The file is no TOML.
    #[error("not TOML: {message}")]
    Syntax {
        /// What the TOML parser says.
        message: String,
    },
    /// A key that no policy has.
    #[error("unknown key {key:?} {place} ({advice})")]
    UnknownKey {
        /// The key.
        key: String,
        /// The table it stands in.
        place: String,
        /// What may have been meant, or what is known.
        advice: String,
    },
    /// A value of another type than the key has.
    #[error("{key} must be {wanted}, not {}", article(got))]
    WrongType {
        /// The key.
        key: String,
        /// What it must be.
        wanted: &'static str,
        /// What TOML type it is.
        got: &'static str,
    },
    /// A number outside of what counts can be.
    #[error("{key} must be from 1 to {}, not {given}", u32::MAX)]
    BadCount {
        /// The key.
        key: String,
        /// What was given.
        given: String,
    },
    /// A limit that can't be read.
    #[error("bad {key} {given:?}: {expected}")]
    BadLimit {
        /// The key.
        key: String,
        /// What was given.
        given: String,
        /// What would have been accepted.
        expected: &'static str,
    },
    /// A limit's name in a list that is none.
    #[error(transparent)]
    LimitName(#[from] ParseLimitError),
    /// A tier's name that is none.
    #[error(transparent)]
    Tier(#[from] ParseTierError),
    /// A sandbox's name that can't be used.
    #[error(transparent)]
    Name(#[from] ParseNameError),
    /// A word that is none of the choices.
    #[error(transparent)]
    Word(#[from] ParseWordError),
    /// A mount that can't be read.
    #[error(transparent)]
    Mount(#[from] ParseMountError),
    /// A value that can't be right.
    #[error(transparent)]
    Check(#[from] CheckPolicyError),
}

/// Loads a policy from a file's bytes. Read at most [`MAX_POLICY_BYTES`] + 1 of them: one too many is how "too long" is known.
///
/// Values are checked one by one, with their place. Contradictions between values may be settled by flags, so [`Policy::check`]
/// finds those after [`Policy::merge`].
///
/// # Errors
/// [`LoadPolicyError`]: too long, or the first mistake with its line and column.
pub fn load_policy(bytes: &[u8], origin: Origin<'_>) -> Result<Policy, LoadPolicyError> {
    let file = || origin.file.to_path_buf();
    if bytes.len() > MAX_POLICY_BYTES {
        return Err(LoadPolicyError::TooLong { file: file() });
    }
    read_bytes(bytes, origin.folder).map_err(|Located { span, problem }| {
        let (line, column) = line_and_column(bytes, span.start);
        LoadPolicyError::Wrong {
            file: file(),
            line,
            column,
            problem,
        }
    })
}

fn read_bytes(bytes: &[u8], folder: &Path) -> Result<Policy, Located> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let at = error.valid_up_to();
        Located {
            span: at..at,
            problem: PolicyProblem::NotText,
        }
    })?;
    let document = DeTable::parse(text).map_err(|error| Located {
        span: error.span().unwrap_or(0..0),
        problem: PolicyProblem::Syntax {
            message: error.message().to_owned(),
        },
    })?;
    read_policy(document.get_ref(), folder)
}

fn read_policy(table: &DeTable<'_>, folder: &Path) -> Result<Policy, Located> {
    let mut policy = Policy::default();
    for entry in entries(table, "") {
        match entry.key {
            "isolation" => policy.isolation = entry.parsed()?,
            "min_isolation" => policy.min_isolation = Some(entry.parsed()?),
            "changes" => policy.changes = Some(entry.parsed()?),
            "name" => policy.name = Some(entry.parsed()?),
            "tty" => policy.tty = entry.boolean()?,
            "files" => policy.files = read_files(entry.table()?, folder)?,
            "network" => policy.network = read_network(entry.table()?)?,
            "env" => policy.env = read_env(entry.table()?)?,
            "limits" => policy.limits = read_limits(entry.table()?)?,
            _ => return Err(unknown_key(&entry, "", TOP)),
        }
    }
    Ok(policy)
}

fn read_files(table: &DeTable<'_>, folder: &Path) -> Result<FilePolicy, Located> {
    let mut files = FilePolicy::default();
    let entries = entries(table, "files");
    for entry in &entries {
        match entry.key {
            "read" => files.read = read_paths(entry, folder, check_shown_path)?,
            "write" => files.write = read_paths(entry, folder, check_shown_path)?,
            "deny" => files.deny = read_paths(entry, folder, check_denied_path)?,
            "mounts" => files.mounts = read_mounts(entry, folder)?,
            "rootfs" => {
                let rootfs = resolve_path(folder, &entry.path()?);
                check_rootfs(&rootfs).map_err(|error| entry.problem(error))?;
                files.rootfs = Some(rootfs);
            }
            "workdir" => {
                // A directory inside. With a root file system of its own the file's folder means nothing there.
                let has_rootfs = entries.iter().any(|other| other.key == "rootfs");
                let written = entry.path()?;
                let workdir = if has_rootfs {
                    written
                } else {
                    resolve_path(folder, &written)
                };
                check_path(&workdir).map_err(|error| entry.problem(error))?;
                files.workdir = Some(workdir);
            }
            "home_tools" => files.home_tools = entry.boolean()?,
            _ => return Err(unknown_key(entry, "files", FILES)),
        }
    }
    Ok(files)
}

fn read_paths(
    entry: &Entry<'_, '_>,
    folder: &Path,
    check: impl Fn(&Path) -> Result<(), CheckPolicyError>,
) -> Result<Vec<PathBuf>, Located> {
    entry
        .list()?
        .into_iter()
        .map(|(span, text)| {
            let path = resolve_path(folder, Path::new(text));
            check(&path).map_err(|error| located(span, error))?;
            Ok(path)
        })
        .collect()
}

fn read_mounts(entry: &Entry<'_, '_>, folder: &Path) -> Result<Vec<Mount>, Located> {
    entry
        .list()?
        .into_iter()
        .map(|(span, text)| {
            let mut mount = Mount::parse(text.as_ref()).map_err(|error| located(span.clone(), error))?;
            mount.host = resolve_path(folder, &mount.host);
            check_mount(&mount).map_err(|error| located(span, error))?;
            Ok(mount)
        })
        .collect()
}

fn read_network(table: &DeTable<'_>) -> Result<NetworkPolicy, Located> {
    let mut network = NetworkPolicy::default();
    for entry in entries(table, "network") {
        match entry.key {
            "mode" => network.mode = entry.parsed()?,
            _ => return Err(unknown_key(&entry, "network", NETWORK)),
        }
    }
    Ok(network)
}

fn read_env(table: &DeTable<'_>) -> Result<EnvPolicy, Located> {
    let mut env = EnvPolicy::default();
    for entry in entries(table, "env") {
        match entry.key {
            "set" => {
                for variable in entries(entry.table()?, "env.set") {
                    let value = variable.text()?;
                    check_env_name(variable.key).map_err(|error| located(variable.key_span.clone(), error))?;
                    check_env_value(variable.key, value).map_err(|error| variable.problem(error))?;
                    env.set.insert(variable.key.to_owned(), value.to_owned());
                }
            }
            "pass" => {
                for (span, name) in entry.list()? {
                    check_env_name(name).map_err(|error| located(span, error))?;
                    env.pass.insert(name.to_owned());
                }
            }
            _ => return Err(unknown_key(&entry, "env", ENV)),
        }
    }
    Ok(env)
}

fn read_limits(table: &DeTable<'_>) -> Result<Limits, Located> {
    let mut limits = Limits::default();
    for entry in entries(table, "limits") {
        match entry.key {
            "memory" => limits.memory = Some(entry.size()?),
            "cpus" => limits.cpus = Some(entry.cpus()?),
            "pids" => limits.pids = Some(entry.count()?),
            "files" => limits.files = Some(entry.count()?),
            "disk" => limits.disk = Some(entry.size()?),
            "timeout" => limits.timeout = Some(entry.time()?),
            "allow_degraded" => {
                for (span, name) in entry.list()? {
                    limits
                        .allow_degraded
                        .insert(name.parse::<LimitKind>().map_err(|error| located(span, error))?);
                }
            }
            _ => return Err(unknown_key(&entry, "limits", LIMITS)),
        }
        // After each key, so that the place is right.
        check_limits(&limits).map_err(|error| entry.problem(error))?;
    }
    Ok(limits)
}

fn located(span: Range<usize>, problem: impl Into<PolicyProblem>) -> Located {
    Located {
        span,
        problem: problem.into(),
    }
}

fn unknown_key(entry: &Entry<'_, '_>, table: &str, known: &'static [&'static str]) -> Located {
    let elsewhere = || {
        TABLES
            .iter()
            .find(|(name, keys)| *name != table && keys.contains(&entry.key))
    };
    let advice = match (closest(entry.key, known), elsewhere()) {
        (_, Some((other, _))) => format!("it belongs in [{other}]"),
        (Some(meant), None) => format!("did you mean {meant:?}?"),
        (None, None) => format!("known: {}", known.join(", ")),
    };
    let place = if table.is_empty() {
        "at the top level".to_owned()
    } else {
        format!("in [{table}]")
    };
    located(
        entry.key_span.clone(),
        PolicyProblem::UnknownKey {
            key: entry.key.to_owned(),
            place,
            advice,
        },
    )
}

fn article(type_name: &str) -> String {
    let article = if type_name.starts_with(['a', 'i']) { "an" } else { "a" };
    format!("{article} {type_name}")
}

/// Returns the line and column, both from 1, of a byte offset. Counts characters, as editors do.
fn line_and_column(bytes: &[u8], offset: usize) -> (usize, usize) {
    let before = bytes.get(..offset).unwrap_or(bytes);
    let line_start = before
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |newline| newline + 1);
    let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
    // Every byte that begins a character: all but the continuation bytes 10xxxxxx.
    let column = before
        .get(line_start..)
        .unwrap_or_default()
        .iter()
        .filter(|byte| **byte & 0xc0 != 0x80)
        .count()
        + 1;
    (line, column)
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
