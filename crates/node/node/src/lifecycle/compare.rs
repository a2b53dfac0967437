//! Comparing the files of two sandboxes or snapshots.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use ringwall_layer::{DifferenceKind, compare_stacks};
use ringwall_sandbox::service::{FileChange, Owner, ServiceError};

use super::snapshot;
use super::start::lowers;
use crate::images::with_causes;
use crate::node::Inner;

/// Compares two of an owner's.
pub(crate) async fn compare(
    inner: &Arc<Inner>,
    owner: &Owner,
    from: &str,
    to: &str,
) -> Result<Vec<FileChange>, ServiceError> {
    let (from, to) = (stack(inner, owner, from)?, stack(inner, owner, to)?);
    let what = "can't compare them";
    let found = tokio::task::spawn_blocking(move || compare_stacks(&from, &to).map_err(|error| with_causes(&error)))
        .await
        .map_err(ServiceError::internal(what))?
        .map_err(|cause| ServiceError::Conflict(format!("{what}: {cause}")))?;
    Ok(found
        .into_iter()
        .map(|difference| FileChange {
            kind: match difference.kind {
                DifferenceKind::Added => 'A',
                DifferenceKind::Removed => 'D',
                DifferenceKind::Content => 'M',
                DifferenceKind::Attributes => 'm',
            },
            path: difference.path.to_string_lossy().into_owned(),
        })
        .collect())
}

/// Directories of a sandbox or snapshot, the topmost first. A running sandbox's writable layer is looked at as it is.
fn stack(inner: &Inner, owner: &Owner, id: &str) -> Result<Vec<PathBuf>, ServiceError> {
    let _held = inner.layer_use.lock().unwrap_or_else(PoisonError::into_inner);
    if let Ok(live) = inner.owned(owner, id) {
        let mut paths = live.look(|record| lowers(inner, &record.stack.layers));
        let upper = inner.places.sandbox(id).join("upper");
        if upper.exists() {
            paths.insert(0, upper);
        }
        return Ok(paths);
    }
    match snapshot::find(inner, owner, id) {
        Some(record) => Ok(lowers(inner, &record.stack.layers)),
        None => Err(ServiceError::NotFound {
            what: "sandbox or snapshot",
            id: id.to_owned(),
        }),
    }
}
