//! `/metrics/slis`: how health checks went (`component-base/metrics/prometheus/slis/metrics.go`).

use super::{Family, encode};
use prometheus::{IntCounterVec, IntGaugeVec, Registry};

/// Of health checks. They are shown by themselves.
pub(crate) struct Health {
    registry: Registry,
    last: IntGaugeVec,
    total: IntCounterVec,
}

impl Health {
    pub(super) fn new() -> Self {
        let registry = Registry::new();
        let family = Family(&registry);
        let last = family.gauge(
            "kubernetes_healthcheck",
            "[STABLE] This metric records the result of a single healthcheck.",
            &["name", "type"],
        );
        let total = family.counter(
            "kubernetes_healthchecks_total",
            "[STABLE] This metric records the results of all healthcheck.",
            &["name", "type", "status"],
        );
        Health { registry, last, total }
    }

    /// A check of `/livez`, `/readyz` or `/healthz`.
    pub(crate) fn observe(&self, name: &str, group: &str, well: bool) {
        self.last.with_label_values(&[name, group]).set(well.into());
        self.total.with_label_values(&[name, group, if well { "success" } else { "error" }]).inc();
    }

    /// The exposition text.
    pub(crate) fn text(&self) -> Vec<u8> {
        encode(self.registry.gather())
    }
}
