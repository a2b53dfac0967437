//! Logs and measurements.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{RawQuery, State};
use percent_encoding::percent_decode_str;
use serde::Deserialize;

use super::body::{Path, Query};
use crate::app::App;
use crate::caller::Caller;
use crate::dto::{LogLine, Logs, ManyMetrics, Metric, OldLogLine, OldLogs};
use crate::error::ApiError;

/// Most lines of one answer, and most sandboxes of one question.
const MAX_LINES: usize = 1000;
const MAX_SANDBOXES: usize = 100;

#[derive(Debug, Deserialize)]
pub(crate) struct Between {
    start: Option<i64>,
    end: Option<i64>,
}

/// Measurements of a sandbox between two moments (seconds since 1970).
#[utoipa::path(get, path = "/sandboxes/{id}/metrics", params(("id" = String, Path), ("start" = Option<i64>, Query), ("end" = Option<i64>, Query)), responses((status = 200, body = Vec<Metric>), (status = 404)))]
pub(crate) async fn metrics(
    State(app): State<App>,
    Caller(owner): Caller,
    Path(id): Path<String>,
    Query(between): Query<Between>,
) -> Result<Json<Vec<Metric>>, ApiError> {
    let found = app.sandboxes.metrics(&owner, &id, between.start, between.end).await?;
    Ok(Json(found.into_iter().map(Metric::from).collect()))
}

/// The newest measurement of several sandboxes.
#[utoipa::path(get, path = "/sandboxes/metrics", params(("sandbox_ids" = String, Query, description = "Ids, separated by commas or repeated")), responses((status = 200, body = ManyMetrics)))]
pub(crate) async fn many_metrics(
    State(app): State<App>,
    Caller(owner): Caller,
    RawQuery(query): RawQuery,
) -> Result<Json<ManyMetrics>, ApiError> {
    let query = query.unwrap_or_default();
    let ids: Vec<String> = query
        .split('&')
        .filter_map(|part| part.strip_prefix("sandbox_ids="))
        .flat_map(|list| {
            let list = percent_decode_str(list).decode_utf8_lossy().into_owned();
            list.split(',').map(str::to_owned).collect::<Vec<_>>()
        })
        .filter(|id| !id.is_empty())
        .take(MAX_SANDBOXES + 1)
        .collect();
    if ids.is_empty() || ids.len() > MAX_SANDBOXES {
        return Err(ApiError::bad_request(format!(
            "sandbox_ids: name 1 to {MAX_SANDBOXES} sandboxes"
        )));
    }
    let mut sandboxes = BTreeMap::new();
    for id in ids {
        // One that is gone meanwhile is just not in the answer.
        if let Ok(found) = app.sandboxes.metrics(&owner, &id, None, None).await
            && let Some(newest) = found.into_iter().next_back()
        {
            sandboxes.insert(id, Metric::from(newest));
        }
    }
    Ok(Json(ManyMetrics { sandboxes }))
}

#[derive(Debug, Deserialize)]
pub(crate) struct OldLogQuery {
    /// Milliseconds since 1970.
    start: Option<u64>,
    limit: Option<usize>,
}

/// Log lines of a sandbox, oldest first.
#[utoipa::path(get, path = "/sandboxes/{id}/logs", params(("id" = String, Path), ("start" = Option<u64>, Query), ("limit" = Option<usize>, Query)), responses((status = 200, body = OldLogs), (status = 404)))]
pub(crate) async fn logs_v1(
    State(app): State<App>,
    Caller(owner): Caller,
    Path(id): Path<String>,
    Query(query): Query<OldLogQuery>,
) -> Result<Json<OldLogs>, ApiError> {
    let mut entries = app.sandboxes.logs(&owner, &id).await?;
    entries.retain(|entry| query.start.is_none_or(|start| entry.at_ms >= start));
    entries.truncate(query.limit.unwrap_or(MAX_LINES).min(MAX_LINES));
    let lines: Vec<LogLine> = entries.into_iter().map(LogLine::from).collect();
    let logs = lines
        .iter()
        .map(|line| OldLogLine {
            timestamp: line.timestamp.clone(),
            line: line.message.clone(),
        })
        .collect();
    Ok(Json(OldLogs {
        logs,
        log_entries: lines,
    }))
}

#[derive(Debug, Deserialize)]
pub(crate) struct LogQuery {
    /// Milliseconds since 1970: lines from there on, in the direction.
    cursor: Option<u64>,
    limit: Option<usize>,
    direction: Option<String>,
    level: Option<String>,
    search: Option<String>,
}

/// Log lines of a sandbox, filtered.
#[utoipa::path(get, path = "/v2/sandboxes/{id}/logs", params(("id" = String, Path), ("cursor" = Option<u64>, Query), ("limit" = Option<usize>, Query), ("direction" = Option<String>, Query, description = "forward or backward"), ("level" = Option<String>, Query), ("search" = Option<String>, Query)), responses((status = 200, body = Logs), (status = 404)))]
pub(crate) async fn logs_v2(
    State(app): State<App>,
    Caller(owner): Caller,
    Path(id): Path<String>,
    Query(query): Query<LogQuery>,
) -> Result<Json<Logs>, ApiError> {
    let is_backward = match query.direction.as_deref() {
        None | Some("forward") => false,
        Some("backward") => true,
        Some(other) => {
            return Err(ApiError::bad_request(format!(
                "direction: {other:?} is neither forward nor backward"
            )));
        }
    };
    let rank = |level: &str| {
        ["debug", "info", "warn", "error"]
            .iter()
            .position(|known| *known == level)
    };
    let least = match &query.level {
        None => 0,
        Some(level) => rank(level)
            .ok_or_else(|| ApiError::bad_request(format!("level: {level:?} is none of debug, info, warn, error")))?,
    };
    let mut entries = app.sandboxes.logs(&owner, &id).await?;
    if is_backward {
        entries.reverse();
    }
    entries.retain(|entry| {
        let is_past_cursor = query.cursor.is_none_or(|cursor| {
            if is_backward {
                entry.at_ms <= cursor
            } else {
                entry.at_ms >= cursor
            }
        });
        is_past_cursor
            && rank(&entry.level).unwrap_or(1) >= least
            && query
                .search
                .as_ref()
                .is_none_or(|text| entry.message.contains(text.as_str()))
    });
    entries.truncate(query.limit.unwrap_or(MAX_LINES).min(MAX_LINES));
    Ok(Json(Logs {
        logs: entries.into_iter().map(LogLine::from).collect(),
    }))
}
