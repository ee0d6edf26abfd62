//! `/metrics`: what upstream's API server counts, under its names, with its labels, buckets and help texts. One file per family.
//!
//! Only what this server knows is shown. Looking a counter up allocates nothing, and who counts per item keeps the counter.

mod access;
mod admission;
mod aggregator;
mod facts;
mod flow;
mod health;
mod pod_security;
mod requests;
mod storage;

pub(crate) use access::{Access, Authenticated};
pub use admission::AdmissionMetrics;
pub(crate) use admission::{Phase, PolicyCheck, Rejection, WebhookCall};
pub(crate) use aggregator::AggregatorMetrics;
pub(crate) use flow::{Executing, FlowMetrics, FlowNumbers};
pub(crate) use health::Health;
pub(crate) use pod_security::PodSecurityMetrics;
pub(crate) use requests::{Labels, Requests, WatchMetrics, labels};
pub(crate) use storage::{Commits, Lists};

use crate::api_server::ApiServer;
use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{
    Encoder, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

/// All metrics of one server.
pub(crate) struct Metrics {
    registry: Registry,
    pub(crate) requests: Requests,
    pub(crate) access: Access,
    pub(crate) admission: AdmissionMetrics,
    pub(crate) flow: FlowMetrics,
    pub(crate) lists: Lists,
    pub(crate) commits: Commits,
    pub(crate) aggregator: AggregatorMetrics,
    pub(crate) health: Health,
    /// TLS handshakes that failed.
    pub(crate) tls_errors: IntCounter,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let registry = Registry::new();
        let family = Family(&registry);
        let help = "[ALPHA] Number of requests dropped with 'TLS handshake error from' error";
        let tls_errors = family.counter("apiserver_tls_handshake_errors_total", help, &[]);
        let process = prometheus::process_collector::ProcessCollector::for_self();
        family.register(process);
        Metrics {
            requests: Requests::new(&family),
            access: Access::new(&family),
            admission: AdmissionMetrics::new(&family),
            flow: FlowMetrics::new(&family),
            lists: Lists::new(&family),
            commits: Commits::new(&family),
            aggregator: AggregatorMetrics::new(&family),
            health: Health::new(),
            tls_errors: tls_errors.with_label_values::<&str>(&[]),
            registry,
        }
    }

    /// The numbers whose lines contain `part`.
    #[cfg(test)]
    pub(crate) fn lines(&self, part: &str) -> Vec<String> {
        let text = String::from_utf8(encode(self.registry.gather())).expect("text");
        let is_wanted = |line: &&str| !line.starts_with('#') && line.contains(part);
        text.lines().filter(is_wanted).map(str::to_owned).collect()
    }

    /// Shows more, of other parts of this process.
    pub(crate) fn register(&self, collector: Box<dyn Collector>) {
        if let Err(error) = self.registry.register(collector) {
            tracing::error!(%error, "a metric is not shown");
        }
    }
}

/// The exposition text. What is cheap to read when it is asked for is read now.
pub(crate) async fn text(server: &ApiServer) -> Vec<u8> {
    let metrics = &server.inner.metrics;
    metrics.flow.read(&server.inner.flow);
    let mut families: Vec<MetricFamily> = metrics.registry.gather();
    families.extend(storage::objects(server).await);
    families.extend(storage::size(server).await);
    families.extend(facts::services(server));
    families.extend(facts::build());
    families.extend(aggregator::unavailable(server));
    encode(families)
}

fn encode(mut families: Vec<MetricFamily>) -> Vec<u8> {
    // The encoder takes no family without numbers.
    families.retain(|family| !family.get_metric().is_empty());
    families.sort_by(|a, b| a.name().cmp(b.name()));
    let mut out = Vec::new();
    if let Err(error) = TextEncoder::new().encode(&families, &mut out) {
        tracing::error!(%error, "failed to encode the metrics");
    }
    out
}

/// Counts down when dropped.
pub(crate) struct Held(IntGauge);

impl Held {
    fn new(gauge: IntGauge) -> Self {
        gauge.inc();
        Held(gauge)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Makes metrics and registers them.
struct Family<'a>(&'a Registry);

const WELL_FORMED: &str = "metrics have well-formed names, each once";

impl Family<'_> {
    fn register(&self, collector: impl Collector + 'static) {
        self.0.register(Box::new(collector)).expect(WELL_FORMED);
    }

    fn counter(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        let counter = IntCounterVec::new(Opts::new(name, help), labels).expect(WELL_FORMED);
        self.register(counter.clone());
        counter
    }

    fn gauge(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        let gauge = IntGaugeVec::new(Opts::new(name, help), labels).expect(WELL_FORMED);
        self.register(gauge.clone());
        gauge
    }

    fn histogram(&self, name: &str, help: &str, labels: &[&str], buckets: &[f64]) -> HistogramVec {
        let opts = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        let histogram = HistogramVec::new(opts, labels).expect(WELL_FORMED);
        self.register(histogram.clone());
        histogram
    }
}

/// `count` buckets, each `width` above the one before.
fn linear(start: f64, width: f64, count: i32) -> Vec<f64> {
    (0..count).map(|i| start + width * f64::from(i)).collect()
}

/// `count` buckets, each `factor` times the one before.
fn exponential(start: f64, factor: f64, count: i32) -> Vec<f64> {
    (0..count).map(|i| start * factor.powi(i)).collect()
}
