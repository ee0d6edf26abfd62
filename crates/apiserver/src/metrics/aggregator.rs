//! APIServices (`kube-aggregator/pkg/controllers/status/metrics/metrics.go`).

use super::Family;
use crate::api_server::ApiServer;
use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{IntCounterVec, IntGaugeVec, Opts};

/// See the file's head.
pub(crate) struct AggregatorMetrics {
    lost: IntCounterVec,
}

impl AggregatorMetrics {
    pub(super) fn new(family: &Family<'_>) -> Self {
        let help =
            "[ALPHA] Counter of APIServices which are marked as unavailable broken down by APIService name and reason.";
        AggregatorMetrics { lost: family.counter("aggregator_unavailable_apiservice_total", help, &["name", "reason"]) }
    }

    /// An APIService became unavailable.
    pub(crate) fn lost(&self, name: &str, reason: &str) {
        self.lost.with_label_values(&[name, reason]).inc();
    }
}

/// Which are unavailable now; made anew each time, so that none stays that is gone.
pub(super) fn unavailable(server: &ApiServer) -> Vec<MetricFamily> {
    let help = "[ALPHA] Gauge of APIServices which are marked as unavailable broken down by APIService name.";
    let opts = Opts::new("aggregator_unavailable_apiservice", help);
    let gauge = IntGaugeVec::new(opts, &["name"]).expect(super::WELL_FORMED);
    for (name, available) in server.inner.aggregation.availability() {
        gauge.with_label_values(&[&name]).set(i64::from(!available));
    }
    gauge.collect()
}
