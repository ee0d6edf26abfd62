//! Events about a pod and its containers: where reasons and texts of `pkg/kubelet/events/event.go` are, and how many.
//!
//! Per pod at most 25 events in a burst and one in five minutes after that (`client-go` EventSourceObjectSpamFilter);
//! repeats are counted by the client's recorder.

use super::view;
use crate::cluster::{Cluster, ClusterEvent};
use api::k8s::api::core::v1::Pod;
use base::Clock;
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;

const BURST: f64 = 25.0;
const SECONDS_PER_EVENT: f64 = 300.0;

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    at: Timestamp,
}

/// Records events of one pod. Cheap to clone.
#[derive(Clone)]
pub struct PodEvents {
    cluster: Arc<dyn Cluster>,
    clock: Arc<dyn Clock>,
    bucket: Arc<Mutex<Bucket>>,
}

impl PodEvents {
    /// A full bucket.
    pub fn new(cluster: Arc<dyn Cluster>, clock: Arc<dyn Clock>) -> Self {
        let bucket = Bucket { tokens: BURST, at: clock.now() };
        PodEvents { cluster, clock, bucket: Arc::new(Mutex::new(bucket)) }
    }

    fn allowed(&self) -> bool {
        let now = self.clock.now();
        let mut bucket = self.bucket.lock();
        let passed = now.duration_since(bucket.at).max(SignedDuration::ZERO).as_secs_f64();
        bucket.tokens = (bucket.tokens + passed / SECONDS_PER_EVENT).min(BURST);
        bucket.at = now;
        let allowed = bucket.tokens >= 1.0;
        if allowed {
            bucket.tokens -= 1.0;
        }
        allowed
    }

    /// About the pod, or one of its containers.
    pub fn record(&self, pod: &Pod, container: Option<&str>, warning: bool, reason: &str, message: &str) {
        if !self.allowed() {
            tracing::debug!(pod = view::describe(pod), reason, message, "event dropped: too many for this pod");
            return;
        }
        let field_path =
            container.and_then(|name| view::find_container(pod, name).map(|(role, _)| view::field_path(role, name)));
        self.cluster.event(ClusterEvent { pod: Some(pod), field_path, warning, reason, message });
    }

    /// All is well.
    pub fn normal(&self, pod: &Pod, container: &str, reason: &str, message: &str) {
        self.record(pod, Some(container), false, reason, message);
    }

    /// Somebody should look.
    pub fn warning(&self, pod: &Pod, container: &str, reason: &str, message: &str) {
        self.record(pod, Some(container), true, reason, message);
    }
}

/// As Go prints a duration cut to milliseconds: `512ms`, `1.5s`, `2m3.004s`.
pub fn go_millis(d: Duration) -> String {
    let ms = d.as_millis();
    if ms < 1000 {
        return if ms == 0 { "0s".into() } else { format!("{ms}ms") };
    }
    let (minutes, rest) = (ms / 60_000, ms % 60_000);
    let seconds = format!("{}.{:03}", rest / 1000, rest % 1000);
    let seconds = seconds.trim_end_matches('0').trim_end_matches('.');
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{seconds}s"),
        (0, m) => format!("{m}m{seconds}s"),
        (h, m) => format!("{h}h{m}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::fixture::pod;
    use crate::testing::FakeCluster;
    use base::clock::ManualClock;

    #[test]
    fn a_noisy_pod_is_muted_and_heard_again() {
        let cluster = Arc::new(FakeCluster::default());
        let clock = ManualClock::new(Timestamp::UNIX_EPOCH);
        let events = PodEvents::new(cluster.clone(), clock.clone());
        let pod = pod(r#"{"containers":[{"name":"a"}]}"#);
        (0..40).for_each(|i| events.normal(&pod, "a", "R", &format!("{i}")));
        assert_eq!(cluster.events().len(), 25);
        clock.advance(Duration::from_secs(300));
        (0..2).for_each(|_| events.normal(&pod, "a", "R", "again"));
        assert_eq!(cluster.events().len(), 26);
        assert_eq!(cluster.events()[25], "Normal R spec.containers{a} \"again\"");
    }

    #[test]
    fn durations() {
        for (ms, want) in
            [(0, "0s"), (512, "512ms"), (1500, "1.5s"), (2000, "2s"), (123_004, "2m3.004s"), (3_600_000, "1h0m0s")]
        {
            assert_eq!(go_millis(Duration::from_millis(ms)), want);
        }
    }
}
