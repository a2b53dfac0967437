//! Measurements of a sandbox, taken when they are asked for: sampling hundreds of sandboxes that nobody watches costs more than it tells.

use std::path::Path;
use std::sync::PoisonError;

use http::Method;
use ringwall_sandbox::service::{Metrics, ServiceError};

use crate::agent;
use crate::live::{Facts, Live};

/// Most measurements remembered.
const MAX_REMEMBERED: usize = 720;

/// Measures now, at most once a second, and returns what lies between two moments.
pub(crate) async fn between(
    live: &Live,
    directory: &Path,
    facts: &Facts,
    start: Option<i64>,
    end: Option<i64>,
) -> Result<Vec<Metrics>, ServiceError> {
    let token = live.look(|record| record.token.clone());
    let now = i64::try_from(crate::clock::now_ms() / 1000).unwrap_or(i64::MAX);
    let is_fresh = {
        let held = live.metrics.lock().unwrap_or_else(PoisonError::into_inner);
        held.back().is_some_and(|newest| newest.at_s >= now)
    };
    if !is_fresh {
        let (status, body) = agent::request(directory, Method::GET, "/metrics", Some(&token), Vec::new())
            .await
            .map_err(ServiceError::internal("can't reach the sandbox's agent"))?;
        if status.is_success() {
            let found: ringwall_agent_proto::rest::Metrics = serde_json::from_slice(&body)
                .map_err(ServiceError::internal("can't understand the sandbox's agent"))?;
            let measured = Metrics {
                at_s: found.ts,
                cpu_count: found.cpu_count.min(facts.cpu_count),
                cpu_used_pct: f64::from(found.cpu_used_pct),
                mem_used: found.mem_used,
                mem_total: found.mem_total,
                mem_cache: found.mem_cache,
                disk_used: found.disk_used,
                disk_total: found.disk_total,
            };
            let mut held = live.metrics.lock().unwrap_or_else(PoisonError::into_inner);
            held.push_back(measured);
            while held.len() > MAX_REMEMBERED {
                held.pop_front();
            }
        }
    }
    let held = live.metrics.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(held
        .iter()
        .filter(|metrics| start.is_none_or(|start| metrics.at_s >= start) && end.is_none_or(|end| metrics.at_s <= end))
        .copied()
        .collect())
}
