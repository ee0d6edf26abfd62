//! Pods that wait for a node: ready ones by priority and age, others until something changes or their back-off ends
//! (`backend/queue/scheduling_queue.go`). Pure: time is an argument.

use crate::pod::PodInfo;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// First and longest wait after a failed attempt (`DefaultPodInitialBackoffDuration`, `DefaultPodMaxBackoffDuration`).
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
/// A pod that found no node is tried again after this time even if nothing seems to have changed.
const FLUSH: Duration = Duration::from_secs(300);

#[derive(Debug)]
struct Waiting {
    pod: Arc<PodInfo>,
    /// Order of arrival.
    seq: u64,
    attempts: u32,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// May be tried now.
    Active,
    /// May be tried from then on.
    Backoff(Instant),
    /// Waits for a change; `since` is the last attempt.
    Unschedulable { since: Instant },
}

/// See the file's head.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    pods: BTreeMap<String, Waiting>,
    seq: u64,
}

fn backoff_after(attempts: u32) -> Duration {
    BACKOFF.0.saturating_mul(1 << attempts.saturating_sub(1).min(8)).min(BACKOFF.1)
}

impl Queue {
    /// A pod's newest state; a new pod is ready at once, a waiting one stays where it is unless its needs changed.
    pub(crate) fn add(&mut self, uid: &str, pod: Arc<PodInfo>) {
        if let Some(waiting) = self.pods.get_mut(uid) {
            let changed =
                waiting.pod.pod.spec != pod.pod.spec || waiting.pod.pod.metadata.labels != pod.pod.metadata.labels;
            waiting.pod = pod;
            if changed {
                waiting.state = State::Active;
            }
            return;
        }
        self.seq += 1;
        self.pods.insert(uid.to_owned(), Waiting { pod, seq: self.seq, attempts: 0, state: State::Active });
    }

    /// Needs no node any more.
    pub(crate) fn remove(&mut self, uid: &str) {
        self.pods.remove(uid);
    }

    /// The best pod that may be tried now. It stays known; say what became of it with one of the methods below.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<Arc<PodInfo>> {
        for waiting in self.pods.values_mut() {
            let due = match waiting.state {
                State::Active => false,
                State::Backoff(until) => until <= now,
                State::Unschedulable { since } => since + FLUSH <= now,
            };
            if due {
                waiting.state = State::Active;
            }
        }
        let ready = self.pods.values_mut().filter(|w| w.state == State::Active);
        let best = ready.min_by_key(|w| (std::cmp::Reverse(w.pod.priority()), w.seq))?;
        best.attempts += 1;
        // Until told otherwise it is not tried again.
        best.state = State::Unschedulable { since: now };
        Some(best.pod.clone())
    }

    /// An attempt failed for a reason that is not the cluster's state (a write failed).
    pub(crate) fn retry(&mut self, uid: &str, now: Instant) {
        if let Some(waiting) = self.pods.get_mut(uid) {
            waiting.state = State::Backoff(now + backoff_after(waiting.attempts));
        }
    }

    /// The cluster changed so that waiting pods may fit now.
    pub(crate) fn wake(&mut self, now: Instant) {
        for waiting in self.pods.values_mut() {
            if let State::Unschedulable { since } = waiting.state {
                let until = since + backoff_after(waiting.attempts);
                waiting.state = if until <= now { State::Active } else { State::Backoff(until) };
            }
        }
    }

    /// When [`Self::pop`] may have something without a change.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        let due = |w: &Waiting| match w.state {
            State::Active => Instant::now(),
            State::Backoff(until) => until,
            State::Unschedulable { since } => since + FLUSH,
        };
        self.pods.values().map(due).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::prelude::Pod;

    fn pod(name: &str, priority: i32) -> Arc<PodInfo> {
        let mut pod = Pod::default();
        pod.metadata.uid = Some(name.to_owned());
        pod.spec.get_or_insert_default().priority = Some(priority);
        Arc::new(PodInfo::of(Arc::new(pod)))
    }

    fn uid(pod: Option<Arc<PodInfo>>) -> Option<String> {
        pod.and_then(|p| p.pod.metadata.uid.clone())
    }

    #[tokio::test(start_paused = true)]
    async fn priority_first_then_age() {
        let mut queue = Queue::default();
        queue.add("a", pod("a", 0));
        queue.add("b", pod("b", 10));
        queue.add("c", pod("c", 0));
        let now = Instant::now();
        let order: Vec<_> = (0..4).map(|_| uid(queue.pop(now))).collect();
        assert_eq!(order, [Some("b".into()), Some("a".into()), Some("c".into()), None]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_wakes_a_pod_after_its_backoff() {
        let mut queue = Queue::default();
        queue.add("a", pod("a", 0));
        let start = Instant::now();
        assert!(queue.pop(start).is_some());
        assert!(queue.pop(start + Duration::from_secs(60)).is_none());
        queue.wake(start);
        assert!(queue.pop(start).is_none());
        assert!(queue.pop(start + Duration::from_secs(1)).is_some());
        assert!(queue.pop(start + FLUSH + Duration::from_secs(2)).is_some());
    }
}
