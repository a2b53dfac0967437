//! `PUT /metrics` and `FlushMetrics`: counters as a line of JSON, with the names of Firecracker's that this server has.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use ringwall_vmm_proto::Metrics;
use serde_json::{Map, Value, json};

use super::output::{OpenOutputError, Output};

/// What the server counts. Counts only grow; each line has how much since the line before.
#[derive(Debug, Default)]
pub struct Counters {
    get: Count,
    put: Count,
    patch: Count,
    refused: Count,
    failed: Count,
}

/// One number, and how much of it was written.
#[derive(Debug, Default)]
struct Count {
    total: AtomicU64,
    written: AtomicU64,
}

impl Count {
    fn add(&self) {
        self.total.fetch_add(1, Ordering::Relaxed);
    }

    /// How much it has grown since the last call.
    fn grown(&self) -> u64 {
        let total = self.total.load(Ordering::Relaxed);
        total.saturating_sub(self.written.swap(total, Ordering::Relaxed))
    }
}

impl Counters {
    /// Counts a request and its outcome.
    pub(crate) fn note(&self, method: Option<ringwall_vmm_proto::Method>, status: u16) {
        use ringwall_vmm_proto::Method::{Get, Patch, Put};
        match method {
            Some(Get) => self.get.add(),
            Some(Put) => self.put.add(),
            Some(Patch) => self.patch.add(),
            None => {}
        }
        match status {
            400..=499 => self.refused.add(),
            500.. => self.failed.add(),
            _ => {}
        }
    }
}

/// The counters' file.
#[derive(Debug)]
pub struct MetricsFile {
    output: Output,
    counters: Arc<Counters>,
}

impl MetricsFile {
    /// Opens what `metrics` names.
    ///
    /// # Errors
    /// [`OpenOutputError`].
    pub fn open(metrics: &Metrics, counters: Arc<Counters>) -> Result<Self, OpenOutputError> {
        Ok(Self {
            output: Output::open(metrics.metrics_path.as_path())?,
            counters,
        })
    }

    /// Writes a line: the server's counters and `others`, the VMM's own.
    pub fn flush(&self, others: Map<String, Value>) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let counters = &self.counters;
        let mut line = json!({
            "utc_timestamp_ms": u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
            "get_api_requests": { "count": counters.get.grown() },
            "put_api_requests": { "count": counters.put.grown() },
            "patch_api_requests": { "count": counters.patch.grown() },
            "api_server": { "refused": counters.refused.grown(), "failed": counters.failed.grown() },
            "logger": { "missed_metrics_count": self.output.lost() },
        });
        if let Value::Object(line) = &mut line {
            line.extend(others);
        }
        self.output.write_line(format!("{line}\n").as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringwall_vmm_proto::{Action, Method, parse};

    #[test]
    fn a_line_has_what_is_new_since_the_line_before() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("metrics");
        let body = json!({ "metrics_path": path }).to_string();
        let Action::SetMetrics(metrics) = parse(Method::Put, "/metrics", body.as_bytes()).unwrap().action else {
            panic!()
        };
        let counters = Arc::new(Counters::default());
        let file = MetricsFile::open(&metrics, Arc::clone(&counters)).unwrap();
        counters.note(Some(Method::Get), 200);
        counters.note(Some(Method::Put), 400);
        let others = || json!({ "vcpu": { "exits": 3 } }).as_object().cloned().unwrap();
        file.flush(others());
        counters.note(Some(Method::Put), 204);
        counters.note(None, 500);
        file.flush(others());
        let text = std::fs::read_to_string(path).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let [first, second] = lines.as_slice() else {
            panic!("{text}")
        };
        assert_eq!(first["get_api_requests"]["count"], 1);
        assert_eq!(first["put_api_requests"]["count"], 1);
        assert_eq!(first["api_server"], json!({ "refused": 1, "failed": 0 }));
        assert_eq!(second["get_api_requests"]["count"], 0);
        assert_eq!(second["put_api_requests"]["count"], 1);
        assert_eq!(second["api_server"], json!({ "refused": 0, "failed": 1 }));
        assert_eq!(second["vcpu"]["exits"], 3);
        assert!(first["utc_timestamp_ms"].as_u64().unwrap() > 1_600_000_000_000);
    }
}
