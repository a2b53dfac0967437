//! What `/metrics` shows: requests by plane and status, how long they took, connections, and the node's counts.

use std::fmt::Write as _;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// What a request is counted under.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    plane: &'static str,
    status: u16,
}

/// The measures.
#[derive(Debug)]
pub(crate) struct Measures {
    registry: Registry,
    requests: Family<Labels, Counter>,
    control_seconds: Histogram,
    pub(crate) connections: Gauge<i64, AtomicI64>,
    pub(crate) failed_handshakes: Counter,
}

impl Measures {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("ringwall");
        let requests = Family::default();
        // Half a millisecond to half a minute.
        let control_seconds = Histogram::new(exponential_buckets(0.0005, 2.0, 17));
        let connections = Gauge::default();
        let failed_handshakes = Counter::default();
        registry.register("requests", "Requests answered", Family::clone(&requests));
        registry.register(
            "control_request_seconds",
            "How long control-plane requests took",
            control_seconds.clone(),
        );
        registry.register("connections", "Connections open", connections.clone());
        registry.register(
            "tls_handshakes_failed",
            "TLS handshakes that failed or took too long",
            failed_handshakes.clone(),
        );
        Measures {
            registry,
            requests,
            control_seconds,
            connections,
            failed_handshakes,
        }
    }

    pub(crate) fn count(&self, plane: &'static str, status: u16, took: Duration) {
        self.requests.get_or_create(&Labels { plane, status }).inc();
        if plane == "control" {
            self.control_seconds.observe(took.as_secs_f64());
        }
    }

    /// Returns the page, in the text form of OpenMetrics 1.0.
    pub(crate) fn page(&self, counters: &[(&'static str, u64)]) -> String {
        let mut text = String::new();
        if encode(&mut text, &self.registry).is_err() {
            text.clear();
        }
        // The node's own counts go before the mark of the end.
        let end = text.rfind("# EOF").unwrap_or(text.len());
        text.truncate(end);
        for (name, value) in counters {
            let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
            let family = name.strip_suffix("_total").unwrap_or(name);
            // Writing to a String can't fail.
            let _ = writeln!(text, "# TYPE ringwall_{family} {kind}\nringwall_{name} {value}");
        }
        text.push_str("# EOF\n");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_ends_once_and_holds_both() {
        let measures = Measures::new();
        measures.count("control", 201, Duration::from_millis(3));
        let page = measures.page(&[("sandboxes_running", 4), ("sandboxes_created_total", 9)]);
        assert!(
            page.contains("ringwall_requests_total{plane=\"control\",status=\"201\"} 1"),
            "{page}"
        );
        assert!(page.contains("# TYPE ringwall_sandboxes_created counter\nringwall_sandboxes_created_total 9"));
        assert_eq!(page.matches("# EOF").count(), 1);
        assert!(page.ends_with("# EOF\n"));
    }
}
