//! Finds and removes what crashes left: processes, control groups, private directories, empty or unwanted layers.
//!
//! A name whose lock is held is never touched. With the lock in hand nothing of the name can start meanwhile, so what its record names
//! is safe to remove. Changes that somebody may want are never removed here.

use std::path::PathBuf;

use ringwall_cgroup::Group;
use ringwall_layer::{Capture, LockHeld, OpenCaptureError, Pending};
use ringwall_sys::process::kill;
use ringwall_types::{SandboxName, Tier};
use serde::Serialize;

use crate::kill_tree::kill_session;
use crate::protections;
use crate::state::{OpenStateError, Record, StateDir, StoredSandbox};

/// One thing left over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Leftover {
    /// Whose it is.
    pub name: SandboxName,
    /// What it is.
    pub what: String,
    /// Why it is safe to remove, or why it is kept.
    pub why: String,
    /// Whether it was, or would be, removed.
    pub removable: bool,
    /// What went wrong while removing it.
    pub error: Option<String>,
}

/// Looks at every name, and removes what is left over unless `dry_run`.
///
/// # Errors
/// When the state directory can't be read.
pub fn collect(state: &StateDir, dry_run: bool) -> Result<Vec<Leftover>, OpenStateError> {
    let mut found = Vec::new();
    for name in state.names()? {
        match state.open(&name) {
            Ok(stored) => examine(state, stored, dry_run, &mut found),
            // In use, or gone meanwhile.
            Err(OpenStateError::Busy { .. } | OpenStateError::Unknown { .. }) => {}
            Err(error) => found.push(Leftover {
                name,
                what: "state".to_owned(),
                why: "it can't be looked at".to_owned(),
                removable: false,
                error: Some(error.to_string()),
            }),
        }
    }
    Ok(found)
}

const LOCK_FREE: &str = "its keeper is gone: the lock it would hold is free";

fn examine(state: &StateDir, stored: StoredSandbox, dry_run: bool, found: &mut Vec<Leftover>) {
    let name = stored.name().clone();
    let record = stored.record();
    let mut note = |what: String, why: &str, result: Option<Result<(), String>>| {
        let removable = result.is_some();
        let error = result.and_then(Result::err);
        found.push(Leftover {
            name: name.clone(),
            what,
            why: why.to_owned(),
            removable,
            error,
        });
    };
    if let Some(record) = &record {
        if record.ended.is_none() && (record.is_init_alive() || has_session(record)) {
            let result = if dry_run { Ok(()) } else { end_processes(record) };
            note(
                format!("process {} and its descendants", record.init),
                LOCK_FREE,
                Some(result),
            );
        }
        let groups: Vec<PathBuf> = record.cgroups.iter().filter(|path| path.exists()).cloned().collect();
        if !groups.is_empty() {
            let what = groups
                .iter()
                .map(|path| path.display().to_string())
                .collect::<Vec<_>>()
                .join(", ");
            let result = if dry_run { Ok(()) } else { remove_groups(&groups) };
            note(format!("control group {what}"), LOCK_FREE, Some(result));
        }
    }
    // By its computed path: a keeper may have been killed before it wrote a record.
    let private = protections::private_dir(state, &name);
    if private.exists() {
        if !dry_run {
            protections::remove_private(&private);
        }
        note(
            format!("private directory {}", private.display()),
            LOCK_FREE,
            Some(Ok(())),
        );
    }
    let is_interrupted = record.as_ref().is_none_or(|record| record.ended.is_none());
    match Capture::open(stored.path()) {
        Ok(capture) => {
            let unwanted = record.as_ref().is_some_and(|record| record.changes == "discard");
            match capture.pending() {
                Ok(Pending::Nothing | Pending::StaleStage) => {}
                Ok(_) => {
                    let why = format!("finish it with `ringwall commit {name}`");
                    note("interrupted commit".to_owned(), &why, None);
                    return;
                }
                Err(error) => {
                    note("changes".to_owned(), &format!("they can't be looked at: {error}"), None);
                    return;
                }
            }
            if unwanted || (is_interrupted && capture.is_empty().unwrap_or(false)) {
                let why = if unwanted {
                    "the run was to throw its changes away"
                } else {
                    "it holds no change"
                };
                let result = if dry_run {
                    Ok(())
                } else {
                    capture
                        .discard(LockHeld::assert(stored.lock()))
                        .map_err(crate::launch::chain)
                        .and_then(|_| stored.remove().map_err(crate::launch::chain))
                };
                note("layer".to_owned(), why, Some(result));
            } else if is_interrupted {
                note(
                    "changes of an interrupted run".to_owned(),
                    "kept: see `ringwall diff`, then commit or discard them",
                    None,
                );
            }
        }
        Err(OpenCaptureError::NotFound { .. }) => {
            // Without a description a layer is what a commit or discard left that was killed while tidying up.
            let has_remains = ["upper", "gone.json", "journal.done"]
                .iter()
                .any(|file| stored.path().join(file).exists());
            // A run that was to capture has a description until its changes are committed or discarded.
            let was_settled = record.as_ref().is_some_and(|record| record.changes != "none");
            if is_interrupted || has_remains || was_settled {
                let result = if dry_run { Ok(()) } else { sweep(stored) };
                note("state of an ended run".to_owned(), LOCK_FREE, Some(result));
            }
        }
        Err(error) => note(
            "changes".to_owned(),
            &format!("kept: they can't be read: {}", crate::launch::chain(error)),
            None,
        ),
    }
}

fn sweep(stored: StoredSandbox) -> Result<(), String> {
    ringwall_layer::sweep(stored.path(), LockHeld::assert(stored.lock())).map_err(crate::launch::chain)?;
    stored.remove().map_err(crate::launch::chain)
}

/// Whether processes of a landlock-tier session outlived its first process, whose pid then can't have been given again: it is still
/// the id of a session (pid allocation skips ids in use, kernel/pid.c).
fn has_session(record: &Record) -> bool {
    record.tier == Tier::Landlock && record.init > 0 && crate::kill_tree::has_session(record.init)
}

fn end_processes(record: &Record) -> Result<(), String> {
    if record.is_init_alive() {
        kill(record.init, 9).map_err(|error| error.to_string())?;
    }
    if record.tier == Tier::Landlock {
        kill_session(record.init, 0);
    }
    Ok(())
}

/// Removes the control groups of a sandbox whose keeper was killed; one that runs, or of which nothing is known, has none to be removed.
///
/// # Errors
/// When processes or groups are left.
pub fn remove_left_groups(state: &StateDir, name: &SandboxName) -> Result<(), String> {
    // With the lock in hand no keeper can make new ones meanwhile.
    let Ok(stored) = state.open(name) else {
        return Ok(());
    };
    let Some(record) = stored.record() else {
        return Ok(());
    };
    if record.cgroups.iter().any(|path| path.exists()) {
        remove_groups(&record.cgroups)?;
    }
    Ok(())
}

fn remove_groups(paths: &[PathBuf]) -> Result<(), String> {
    let group = Group::reopen(paths).map_err(crate::launch::chain)?;
    group.kill_all().map_err(crate::launch::chain)?;
    group.remove().map_err(crate::launch::chain)
}
