//! What the controllers' queues count, under upstream's names (`component-base/metrics/prometheus/workqueue/metrics.go`).

use prometheus::core::Collector;
use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts};
use std::time::Duration;

const WELL_FORMED: &str = "the name is well-formed";

/// Of all queues.
#[derive(Clone, Debug)]
pub struct QueueMetrics {
    depth: IntGaugeVec,
    adds: IntCounterVec,
    waits: HistogramVec,
    work: HistogramVec,
    retries: IntCounterVec,
}

impl Default for QueueMetrics {
    fn default() -> Self {
        let name = |rest: &str| format!("workqueue_{rest}");
        let buckets: Vec<f64> = (0..10).map(|i| 10e-9 * 10f64.powi(i)).collect();
        let counter =
            |rest: &str, help: &str| IntCounterVec::new(Opts::new(name(rest), help), &["name"]).expect(WELL_FORMED);
        let histogram = |rest: &str, help: &str| {
            let opts = HistogramOpts::new(name(rest), help).buckets(buckets.clone());
            HistogramVec::new(opts, &["name"]).expect(WELL_FORMED)
        };
        let depth = Opts::new(name("depth"), "[BETA] Current depth of workqueue");
        QueueMetrics {
            depth: IntGaugeVec::new(depth, &["name"]).expect(WELL_FORMED),
            adds: counter("adds_total", "[BETA] Total number of adds handled by workqueue"),
            waits: histogram(
                "queue_duration_seconds",
                "[BETA] How long in seconds an item stays in workqueue before being requested.",
            ),
            work: histogram(
                "work_duration_seconds",
                "[BETA] How long in seconds processing an item from workqueue takes.",
            ),
            retries: counter("retries_total", "[BETA] Total number of retries handled by workqueue"),
        }
    }
}

impl QueueMetrics {
    /// For whoever shows them.
    pub fn collectors(&self) -> Vec<Box<dyn Collector>> {
        vec![
            Box::new(self.depth.clone()),
            Box::new(self.adds.clone()),
            Box::new(self.waits.clone()),
            Box::new(self.work.clone()),
            Box::new(self.retries.clone()),
        ]
    }

    /// Of one controller's queue.
    pub(crate) fn of(&self, name: &str) -> Counted {
        let name = [name];
        Counted {
            depth: self.depth.with_label_values(&name),
            adds: self.adds.with_label_values(&name),
            waits: self.waits.with_label_values(&name),
            work: self.work.with_label_values(&name),
            retries: self.retries.with_label_values(&name),
        }
    }
}

/// What one queue counts.
pub(crate) struct Counted {
    depth: IntGauge,
    adds: IntCounter,
    waits: Histogram,
    work: Histogram,
    retries: IntCounter,
}

impl Counted {
    /// A key came; so many wait now.
    pub(crate) fn added(&self, waiting: usize) {
        self.adds.inc();
        self.depth.set(i64::try_from(waiting).unwrap_or(i64::MAX));
    }

    /// A key that waited so long was taken.
    pub(crate) fn taken(&self, waited: Duration, waiting: usize) {
        self.waits.observe(waited.as_secs_f64());
        self.depth.set(i64::try_from(waiting).unwrap_or(i64::MAX));
    }

    /// A key was planned.
    pub(crate) fn worked(&self, took: Duration) {
        self.work.observe(took.as_secs_f64());
    }

    /// A key failed and is tried again.
    pub(crate) fn retried(&self) {
        self.retries.inc();
    }
}
