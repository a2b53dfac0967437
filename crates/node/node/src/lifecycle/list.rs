//! Lists, filtered and in pages.

use std::sync::PoisonError;

use ringwall_sandbox::service::{Filter, Owner, Page, SandboxInfo, ServiceError, SnapshotFilter, SnapshotInfo};

use super::snapshot;
use crate::node::Inner;
use crate::record::Phase;

/// Where a page ends: time and id of the last item, so that what comes and goes meanwhile moves nothing.
fn cursor(at_ms: u64, id: &str) -> String {
    format!("{at_ms}-{id}")
}

fn parse_cursor(text: &str) -> Option<(u64, String)> {
    let (at, id) = text.split_once('-')?;
    Some((at.parse().ok()?, id.to_owned()))
}

/// Returns an owner's sandboxes.
pub(crate) fn sandboxes(inner: &Inner, owner: &Owner, filter: &Filter) -> Result<Page<SandboxInfo>, ServiceError> {
    let after = match &filter.next {
        Some(text) => {
            Some(parse_cursor(text).ok_or_else(|| ServiceError::Invalid("nextToken: not a token of ours".to_owned()))?)
        }
        None => None,
    };
    let mut found: Vec<SandboxInfo> = inner
        .all()
        .iter()
        .filter(|live| live.look(|record| record.owner == owner.0 && record.phase != Phase::Stopping))
        .map(|live| live.info(&inner.facts))
        .filter(|info| {
            let has_labels = filter
                .metadata
                .iter()
                .all(|(key, value)| info.metadata.get(key).is_some_and(|had| had == value));
            let is_template = filter
                .template
                .as_ref()
                .is_none_or(|wanted| *wanted == info.template_id || info.template_name.as_ref() == Some(wanted));
            has_labels
                && is_template
                && (filter.states.is_empty() || filter.states.contains(&info.state))
                && filter.started_after_ms.is_none_or(|after| info.started_ms > after)
        })
        .collect();
    found.sort_by(|one, two| (one.started_ms, &one.id).cmp(&(two.started_ms, &two.id)));
    if !filter.ascending {
        found.reverse();
    }
    if let Some(after) = after {
        found.retain(|info| {
            let here = (info.started_ms, info.id.clone());
            if filter.ascending { here > after } else { here < after }
        });
    }
    let limit = filter.limit.max(1);
    let next = (found.len() > limit)
        .then(|| found.get(limit - 1).map(|last| cursor(last.started_ms, &last.id)))
        .flatten();
    found.truncate(limit);
    Ok(Page { items: found, next })
}

/// Returns an owner's snapshots, the newest first.
pub(crate) fn snapshots(inner: &Inner, owner: &Owner, filter: &SnapshotFilter) -> Page<SnapshotInfo> {
    let held = inner.snapshots.read().unwrap_or_else(PoisonError::into_inner);
    let mut found: Vec<SnapshotInfo> = held
        .values()
        .filter(|record| {
            record.owner == owner.0
                && filter.sandbox.as_ref().is_none_or(|wanted| *wanted == record.sandbox)
                && filter
                    .name
                    .as_ref()
                    .is_none_or(|wanted| record.name.as_ref() == Some(wanted))
        })
        .map(snapshot::info)
        .collect();
    found.sort_by(|one, two| (two.created_ms, &two.id).cmp(&(one.created_ms, &one.id)));
    if let Some(after) = filter.next.as_deref().and_then(parse_cursor) {
        found.retain(|info| (info.created_ms, info.id.clone()) < after);
    }
    let limit = filter.limit.max(1);
    let next = (found.len() > limit)
        .then(|| found.get(limit - 1).map(|last| cursor(last.created_ms, &last.id)))
        .flatten();
    found.truncate(limit);
    Page { items: found, next }
}
