//! What the scheduler counts, under upstream's names (`pkg/scheduler/metrics/metrics.go`). There is one profile.

use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Opts, exponential_buckets,
};
use std::time::Duration;

const WELL_FORMED: &str = "the name is well-formed";
/// Attempts from here on are not told apart (`getAttemptsLabel`).
const MANY: u32 = 15;

/// How an attempt ended.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Outcome {
    Scheduled,
    Unschedulable,
    Error,
}

impl Outcome {
    fn as_str(self) -> &'static str {
        match self {
            Outcome::Scheduled => "scheduled",
            Outcome::Unschedulable => "unschedulable",
            Outcome::Error => "error",
        }
    }
}

/// How many pods wait, by why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pending {
    pub(crate) active: usize,
    pub(crate) backoff: usize,
    pub(crate) unschedulable: usize,
}

/// See the file's head. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct SchedulerMetrics {
    attempts: IntCounterVec,
    attempt_seconds: HistogramVec,
    decision_seconds: Histogram,
    pod_seconds: HistogramVec,
    pod_attempts: Histogram,
    pending: IntGaugeVec,
    preemptions: IntCounter,
    victims: Histogram,
    cached: IntGaugeVec,
}

impl Default for SchedulerMetrics {
    fn default() -> Self {
        let name = |rest: &str| format!("scheduler_{rest}");
        let exponential = |start, factor, count| exponential_buckets(start, factor, count).expect("buckets that grow");
        let histogram = |rest: &str, help: &str, buckets| HistogramOpts::new(name(rest), help).buckets(buckets);
        let gauge =
            |rest: &str, help: &str, label| IntGaugeVec::new(Opts::new(name(rest), help), &[label]).expect(WELL_FORMED);
        let of_attempts = ["result", "profile"];
        SchedulerMetrics {
            attempts: IntCounterVec::new(
                Opts::new(
                    name("schedule_attempts_total"),
                    "[STABLE] Number of attempts to schedule pods, by the result. 'unschedulable' means a pod could not be scheduled, while 'error' means an internal scheduler problem.",
                ),
                &of_attempts,
            )
            .expect(WELL_FORMED),
            attempt_seconds: HistogramVec::new(
                histogram(
                    "scheduling_attempt_duration_seconds",
                    "[STABLE] Scheduling attempt latency in seconds (scheduling algorithm + binding)",
                    exponential(0.001, 2.0, 15),
                ),
                &of_attempts,
            )
            .expect(WELL_FORMED),
            decision_seconds: Histogram::with_opts(histogram(
                "scheduling_algorithm_duration_seconds",
                "[ALPHA] Scheduling algorithm latency in seconds",
                exponential(0.001, 2.0, 15),
            ))
            .expect(WELL_FORMED),
            pod_seconds: HistogramVec::new(
                histogram(
                    "pod_scheduling_sli_duration_seconds",
                    "[BETA] E2e latency for a pod being scheduled, from the time the pod enters the scheduling queue and might involve multiple scheduling attempts.",
                    exponential(0.01, 2.0, 20),
                ),
                &["attempts"],
            )
            .expect(WELL_FORMED),
            pod_attempts: Histogram::with_opts(histogram(
                "pod_scheduling_attempts",
                "[STABLE] Number of attempts to successfully schedule a pod.",
                exponential(1.0, 2.0, 5),
            ))
            .expect(WELL_FORMED),
            pending: gauge(
                "pending_pods",
                "[STABLE] Number of pending pods, by the queue type. 'active' means number of pods in activeQ; 'backoff' means number of pods in backoffQ; 'unschedulable' means number of pods in unschedulablePods that the scheduler attempted to schedule and failed; 'gated' is the number of unschedulable pods that the scheduler never attempted to schedule because they are gated.",
                "queue",
            ),
            preemptions: IntCounter::new(
                name("preemption_attempts_total"),
                "[STABLE] Total preemption attempts in the cluster till now",
            )
            .expect(WELL_FORMED),
            victims: Histogram::with_opts(histogram(
                "preemption_victims",
                "[STABLE] Number of selected preemption victims",
                exponential(1.0, 2.0, 7),
            ))
            .expect(WELL_FORMED),
            cached: gauge(
                "cache_size",
                "[ALPHA] Number of nodes, pods, and assumed (bound) pods in the scheduler cache.",
                "type",
            ),
        }
    }
}

impl SchedulerMetrics {
    /// For whoever shows them.
    pub fn collectors(&self) -> Vec<Box<dyn Collector>> {
        vec![
            Box::new(self.attempts.clone()),
            Box::new(self.attempt_seconds.clone()),
            Box::new(self.decision_seconds.clone()),
            Box::new(self.pod_seconds.clone()),
            Box::new(self.pod_attempts.clone()),
            Box::new(self.pending.clone()),
            Box::new(self.preemptions.clone()),
            Box::new(self.victims.clone()),
            Box::new(self.cached.clone()),
        ]
    }

    /// It was decided about a pod.
    pub(crate) fn decided(&self, took: Duration) {
        self.decision_seconds.observe(took.as_secs_f64());
    }

    /// No node fits; it was looked whether others can make room. So many go, if they can.
    pub(crate) fn looked_for_room(&self, victims: Option<usize>) {
        self.preemptions.inc();
        if let Some(victims) = victims {
            self.victims.observe(victims as f64);
        }
    }

    /// An attempt came to its end.
    pub(crate) fn attempted(&self, outcome: Outcome, took: Duration) {
        let labels = [outcome.as_str(), crate::run::NAME];
        self.attempts.with_label_values(&labels).inc();
        self.attempt_seconds.with_label_values(&labels).observe(took.as_secs_f64());
    }

    /// A pod has its node, after so many attempts, the first of them so long ago.
    pub(crate) fn scheduled(&self, attempts: u32, took: Duration) {
        let label = if attempts >= MANY { format!("{MANY}+") } else { attempts.to_string() };
        self.pod_attempts.observe(attempts.into());
        self.pod_seconds.with_label_values(&[&label]).observe(took.as_secs_f64());
    }

    /// What waits, and how many nodes are known.
    pub(crate) fn state(&self, pending: Pending, nodes: usize) {
        let set = |gauge: &IntGaugeVec, label: &str, count: usize| {
            gauge.with_label_values(&[label]).set(i64::try_from(count).unwrap_or(i64::MAX));
        };
        set(&self.pending, "active", pending.active);
        set(&self.pending, "backoff", pending.backoff);
        set(&self.pending, "unschedulable", pending.unschedulable);
        set(&self.cached, "nodes", nodes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_are_counted_by_how_they_end_and_pods_by_how_many_they_took() {
        let metrics = SchedulerMetrics::default();
        metrics.attempted(Outcome::Unschedulable, Duration::from_millis(3));
        metrics.attempted(Outcome::Scheduled, Duration::from_millis(2));
        [2, 15, 40].into_iter().for_each(|attempts| metrics.scheduled(attempts, Duration::from_secs(1)));
        let counted = |result| metrics.attempts.with_label_values(&[result, "default-scheduler"]).get();
        assert_eq!(["scheduled", "unschedulable", "error"].map(counted), [1, 1, 0]);
        let pods = |attempts| metrics.pod_seconds.with_label_values(&[attempts]).get_sample_count();
        assert_eq!(["2", "15+"].map(pods), [1, 2]);
        assert_eq!(metrics.pod_attempts.get_sample_sum(), 57.0);
    }
}
