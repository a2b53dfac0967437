//! The layer of a run: made or found before it, and settled after it: kept, committed or thrown away.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::SystemTime;

use ringwall_layer::{Capture, CommitOptions, LockHeld, OpenCaptureError, Pending};
use ringwall_policy::Changes;
use ringwall_sandbox::ChangeSummary;

use crate::error::{RunError, keeper};
use crate::keeper::Keeper;
use crate::plan::{HostPath, Plan};
use crate::protections;
use crate::state::StoredSandbox;

/// A run's layer.
#[derive(Debug)]
pub(crate) struct Layer {
    /// The capture; a guest has none: its layer has no one target that it could be committed to.
    pub(crate) capture: Option<Capture>,
    /// Its directory, found and identified.
    pub(crate) host: HostPath,
}

/// Makes a new name's layer, or continues an existing one.
pub(crate) fn prepare(stored: &StoredSandbox, is_new: bool, plan: &Plan) -> Result<Option<Layer>, RunError> {
    let refuse = |why: String| RunError::Continue {
        name: stored.name().clone(),
        why,
    };
    if !is_new
        && stored
            .record()
            .is_some_and(|record| record.ended.is_none() && record.is_init_alive())
    {
        return Err(refuse(
            "processes of its last run are still there; run `ringwall gc` first".to_owned(),
        ));
    }
    if let Some(private) = &plan.private {
        // A keeper killed between making it and writing its record leaves it behind under this very name.
        protections::remove_private(private);
    }
    protections::make_private(plan)?;
    let Some(target) = &plan.captured else { return Ok(None) };
    if plan.guest.is_some() {
        for directory in ["upper", "work"] {
            match rustix::fs::mkdir(stored.path().join(directory), rustix::fs::Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(error) => return Err(keeper("make the writable layer")(error.into())),
            }
        }
        renew_work(stored)?;
        return found(stored, None).map(Some);
    }
    let capture = match if is_new {
        Err(None)
    } else {
        Capture::open(stored.path()).map_err(Some)
    } {
        Ok(capture) => {
            if capture.target() != target.path {
                return Err(refuse(format!(
                    "it holds changes of {}, not of {}",
                    capture.target().display(),
                    target.path.display()
                )));
            }
            if capture.pending().map_err(|error| refuse(error.to_string()))? != Pending::Nothing {
                return Err(refuse(format!(
                    "a commit of it was interrupted; finish it with `ringwall commit {}`",
                    stored.name()
                )));
            }
            renew_work(stored)?;
            capture
        }
        Err(None | Some(OpenCaptureError::NotFound { .. })) => {
            if !is_new {
                // What an interrupted commit or discard left would be taken for changes of this run.
                ringwall_layer::sweep(stored.path(), LockHeld::assert(stored.lock()))
                    .map_err(|error| refuse(crate::launch::chain(error)))?;
            }
            let now = SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap_or_default();
            Capture::create(
                stored.path(),
                &target.path,
                u64::try_from(now.as_nanos()).unwrap_or(u64::MAX),
                None,
            )?
        }
        Err(Some(error)) => return Err(refuse(crate::launch::chain(error))),
    };
    found(stored, Some(capture)).map(Some)
}

/// Identifies the directory of a layer.
fn found(stored: &StoredSandbox, capture: Option<Capture>) -> Result<Layer, RunError> {
    let metadata = std::fs::symlink_metadata(stored.path()).map_err(keeper("look at the layer"))?;
    // Canonical, as every path that is opened without following links must be.
    let path = std::fs::canonicalize(stored.path()).map_err(keeper("look at the layer"))?;
    let host = HostPath {
        path,
        id: (metadata.dev(), metadata.ino()),
        is_dir: true,
    };
    Ok(Layer { capture, host })
}

/// Makes the overlay's work directory anew: it still says that the last mount was volatile, which refuses the next one.
fn renew_work(stored: &StoredSandbox) -> Result<(), RunError> {
    let inner = stored.path().join("work/work");
    if !inner.exists() {
        return Ok(());
    }
    reach(&inner);
    std::fs::remove_dir_all(&inner).map_err(keeper("clear the work directory"))
}

/// Gives an ordinary user the directories that overlayfs leaves in its work directory without any permission. No symbolic link can be
/// there: only overlayfs writes to it.
fn reach(inner: &Path) {
    let incompat = inner.join("incompat");
    for directory in [inner, &incompat, &incompat.join("volatile")] {
        drop(std::fs::set_permissions(
            directory,
            std::fs::Permissions::from_mode(0o700),
        ));
    }
}

/// Removes the state of a run that changed nothing, in as few calls as that takes: most runs end here. Anything unexpected is left to
/// [`discard`].
pub(crate) fn remove_unchanged(stored: StoredSandbox, layer: Option<Layer>) -> Result<(), String> {
    let path = stored.path();
    if layer.is_some() {
        let inner = path.join("work/work");
        // Seen to hold no change: nothing is lost by stopping after any step.
        let upper = path.join("upper");
        // Directories copied up on the way to something that is gone again are no change; nothing else is there.
        let removed = (rustix::fs::rmdir(&upper).is_ok() || std::fs::remove_dir_all(&upper).is_ok()) && {
            let reach =
                |path: &std::path::Path| drop(std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)));
            let incompat = inner.join("incompat");
            let volatile = incompat.join("volatile");
            reach(&inner);
            reach(&incompat);
            reach(&volatile);
            let _ = rustix::fs::unlink(volatile.join("dirty"));
            [&volatile, &incompat, &inner, &path.join("work")]
                .into_iter()
                .all(|directory| rustix::fs::rmdir(directory).is_ok())
        };
        if !removed {
            return discard(stored, layer);
        }
    }
    stored.remove().map_err(crate::launch::chain)
}

/// Settles what the run changed, as its policy says.
pub(crate) fn settle(
    keeper: &Keeper<'_>,
    stored: &StoredSandbox,
    layer: Option<&mut Layer>,
    exit_code: i32,
    notes: &mut Vec<String>,
) -> Result<Option<ChangeSummary>, RunError> {
    let Some(capture) = layer.and_then(|layer| layer.capture.as_mut()) else {
        return Ok(None);
    };
    let summarize = |capture: &Capture, state: &str, notes: &mut Vec<String>| match capture.scan() {
        Ok(scan) => {
            let summary = scan.summary();
            ChangeSummary {
                state: state.to_owned(),
                target: capture.target().to_owned(),
                added: summary.added,
                modified: summary.modified + summary.metadata_only,
                deleted: summary.deleted,
            }
        }
        Err(error) => {
            notes.push(format!("the changes can't be counted: {}", crate::launch::chain(error)));
            ChangeSummary {
                state: state.to_owned(),
                target: capture.target().to_owned(),
                added: 0,
                modified: 0,
                deleted: 0,
            }
        }
    };
    match keeper.plan().changes {
        Changes::Discard | Changes::None => Ok(None),
        // What can't be read is kept: losing it is the one thing that can't be mended.
        _ if capture.is_empty().unwrap_or(false) => Ok(None),
        Changes::Commit if exit_code == 0 => {
            let mut summary = summarize(capture, "committed", notes);
            match capture.commit(LockHeld::assert(stored.lock()), CommitOptions::default()) {
                Ok(report) => {
                    for stripped in report.stripped {
                        notes.push(format!(
                            "not applied, for safety: {} of {}",
                            stripped.what, stripped.path
                        ));
                    }
                }
                Err(error) => {
                    notes.push(format!(
                        "the changes were not committed: {}",
                        crate::launch::chain(error)
                    ));
                    summary.state = "kept".to_owned();
                }
            }
            Ok(Some(summary))
        }
        Changes::Keep | Changes::Commit => Ok(Some(summarize(capture, "kept", notes))),
    }
}

/// Throws a name and its layer away.
pub(crate) fn discard(stored: StoredSandbox, layer: Option<Layer>) -> Result<(), String> {
    if let Some(capture) = layer.and_then(|layer| layer.capture) {
        capture
            .discard(LockHeld::assert(stored.lock()))
            .map_err(crate::launch::chain)?;
    }
    stored.remove().map_err(crate::launch::chain)
}
