//! Pods that wait for a node: ready ones by priority and age, others until something changes or their back-off ends
//! (`backend/queue/scheduling_queue.go`). Pure: time is an argument.
//!
//! Every operation costs O(log pods), but waking, which looks at the pods that found no node. A pod is in one state at a
//! time; `ready`, `timers` and `stuck` are indexes over the states.

use crate::events::Events;
use crate::metrics::Pending;
use crate::pod::PodInfo;
use api::k8s::api::core::v1::PodResourceClaimStatus;
use api::prelude::Pod;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
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
    /// Order of arrival; an attempt that failed puts a pod behind others of its priority.
    seq: u64,
    attempts: u32,
    /// When it was tried first.
    first: Option<Instant>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// May be tried now.
    Active,
    /// May be tried from then on.
    Backoff(Instant),
    /// Waits for one of these events; `since` is the last attempt.
    Unschedulable { since: Instant, hears: Events },
    /// Must not be tried before one of these events.
    Held { hears: Events },
    /// Somebody acts on a decision; these events came meanwhile.
    InFlight { missed: Events },
}

/// Most priority first, then the oldest.
type Rank = (Reverse<i32>, u64, String);

/// See the file's head.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    pods: BTreeMap<String, Waiting>,
    ready: BTreeSet<Rank>,
    /// Ends of back-offs and of long waits.
    timers: BTreeSet<(Instant, String)>,
    stuck: BTreeSet<String>,
    seq: u64,
}

/// Claims of devices that were made for a pod: once they are there, it may be tried.
fn claim_names(pod: &Pod) -> Option<&[PodResourceClaimStatus]> {
    pod.status.as_ref()?.resource_claim_statuses.as_deref()
}

fn backoff_after(attempts: u32) -> Duration {
    BACKOFF.0.saturating_mul(1 << attempts.saturating_sub(1).min(8)).min(BACKOFF.1)
}

impl Queue {
    /// A pod's newest state; a new pod is ready at once, a waiting one stays where it is unless its needs changed.
    pub(crate) fn add(&mut self, uid: &str, pod: Arc<PodInfo>, now: Instant) {
        let Some(waiting) = self.pods.get_mut(uid) else {
            self.seq += 1;
            let state = State::Active;
            self.pods.insert(uid.to_owned(), Waiting { pod, seq: self.seq, attempts: 0, first: None, state });
            self.enter(uid, state);
            return;
        };
        let (old, new) = (&waiting.pod.pod, &pod.pod);
        let same = old.spec == new.spec && old.metadata.labels == new.metadata.labels;
        if same && claim_names(old) == claim_names(new) {
            waiting.pod = pod;
            return;
        }
        // Its priority may be another, and with it its place.
        let state = waiting.state;
        self.leave(uid, state);
        if let Some(waiting) = self.pods.get_mut(uid) {
            waiting.pod = pod;
        }
        self.enter(uid, state);
        self.wake_one(uid, Events::ALL, now);
    }

    /// Needs no node any more.
    pub(crate) fn remove(&mut self, uid: &str) {
        if let Some(state) = self.pods.get(uid).map(|w| w.state) {
            self.leave(uid, state);
            self.pods.remove(uid);
        }
    }

    /// The best pod that may be tried now. It stays known; say what became of it with one of the methods below.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<Arc<PodInfo>> {
        while let Some((due, uid)) = self.timers.first().cloned()
            && due <= now
        {
            self.move_to(&uid, State::Active);
        }
        let (_, _, uid) = self.ready.first().cloned()?;
        self.move_to(&uid, State::InFlight { missed: Events::NONE });
        let waiting = self.pods.get_mut(&uid)?;
        waiting.attempts += 1;
        waiting.first.get_or_insert(now);
        Some(waiting.pod.clone())
    }

    /// An attempt found no node; `hears` may help.
    pub(crate) fn unschedulable(&mut self, uid: &str, hears: Events, now: Instant) {
        let missed = self.attempted(uid);
        self.move_to(uid, State::Unschedulable { since: now, hears });
        self.wake_one(uid, missed, now);
    }

    /// The attempt was none: the pod is not ready to be tried before one of these events (upstream's PreEnqueue).
    pub(crate) fn hold(&mut self, uid: &str, hears: Events) {
        if let Some(waiting) = self.pods.get_mut(uid) {
            waiting.attempts = waiting.attempts.saturating_sub(1);
            if waiting.attempts == 0 {
                waiting.first = None;
            }
        }
        self.move_to(uid, State::Held { hears });
    }

    /// An attempt failed for a reason that is not the cluster's state (a write failed).
    pub(crate) fn retry(&mut self, uid: &str, now: Instant) {
        self.attempted(uid);
        let attempts = self.pods.get(uid).map_or(0, |w| w.attempts);
        self.move_to(uid, State::Backoff(now + backoff_after(attempts)));
    }

    /// Something happened that may let waiting pods fit.
    pub(crate) fn wake(&mut self, events: Events, now: Instant) {
        if !events.any() {
            return;
        }
        let stuck: Vec<String> = self.stuck.iter().cloned().collect();
        stuck.iter().for_each(|uid| self.wake_one(uid, events, now));
    }

    /// When [`Self::pop`] may have something without a change.
    pub(crate) fn next_due(&self, now: Instant) -> Option<Instant> {
        if self.ready.is_empty() { self.timers.first().map(|(due, _)| *due) } else { Some(now) }
    }

    /// How often a pod was tried, and when first.
    pub(crate) fn tries(&self, uid: &str) -> Option<(u32, Instant)> {
        self.pods.get(uid).and_then(|w| Some((w.attempts, w.first?)))
    }

    /// How many wait, by why.
    pub(crate) fn pending(&self) -> Pending {
        let (ready, timers, stuck) = (self.ready.len(), self.timers.len(), self.stuck.len());
        // Each pod is ready, in back-off (a timer), without a node (a timer, and stuck), held or in flight (stuck).
        let unschedulable = (ready + timers + stuck).saturating_sub(self.pods.len());
        Pending { active: ready, backoff: timers.saturating_sub(unschedulable), unschedulable }
    }

    fn attempted(&mut self, uid: &str) -> Events {
        self.seq += 1;
        let Some(waiting) = self.pods.get(uid) else { return Events::NONE };
        let State::InFlight { missed } = waiting.state else { return Events::NONE };
        let state = waiting.state;
        self.leave(uid, state);
        if let Some(waiting) = self.pods.get_mut(uid) {
            waiting.seq = self.seq;
        }
        self.enter(uid, state);
        missed
    }

    fn wake_one(&mut self, uid: &str, events: Events, now: Instant) {
        let Some(waiting) = self.pods.get_mut(uid) else { return };
        match &mut waiting.state {
            State::Unschedulable { since, hears } if hears.touches(events) => {
                let until = *since + backoff_after(waiting.attempts);
                self.move_to(uid, if until <= now { State::Active } else { State::Backoff(until) });
            }
            State::Held { hears } if hears.touches(events) => self.move_to(uid, State::Active),
            State::InFlight { missed } => *missed |= events,
            _ => {}
        }
    }

    fn move_to(&mut self, uid: &str, state: State) {
        let Some(before) = self.pods.get_mut(uid).map(|w| std::mem::replace(&mut w.state, state)) else { return };
        self.leave(uid, before);
        self.enter(uid, state);
    }

    fn enter(&mut self, uid: &str, state: State) {
        match state {
            State::Active => {
                self.ready.extend(self.rank(uid));
            }
            State::Backoff(until) => {
                self.timers.insert((until, uid.to_owned()));
            }
            State::Unschedulable { since, .. } => {
                self.timers.insert((since + FLUSH, uid.to_owned()));
                self.stuck.insert(uid.to_owned());
            }
            // Events that come meanwhile are noted.
            State::Held { .. } | State::InFlight { .. } => {
                self.stuck.insert(uid.to_owned());
            }
        }
    }

    fn leave(&mut self, uid: &str, state: State) {
        match state {
            State::Active => {
                if let Some(rank) = self.rank(uid) {
                    self.ready.remove(&rank);
                }
            }
            State::Backoff(until) => {
                self.timers.remove(&(until, uid.to_owned()));
            }
            State::Unschedulable { since, .. } => {
                self.timers.remove(&(since + FLUSH, uid.to_owned()));
                self.stuck.remove(uid);
            }
            State::Held { .. } | State::InFlight { .. } => {
                self.stuck.remove(uid);
            }
        }
    }

    fn rank(&self, uid: &str) -> Option<Rank> {
        self.pods.get(uid).map(|w| (Reverse(w.pod.priority()), w.seq, uid.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, priority: i32) -> Arc<PodInfo> {
        let mut pod = Pod::default();
        pod.metadata.uid = Some(name.to_owned());
        pod.spec.get_or_insert_default().priority = Some(priority);
        Arc::new(PodInfo::of(Arc::new(pod)))
    }

    fn uid(pod: Option<Arc<PodInfo>>) -> Option<String> {
        pod.and_then(|p| p.pod.metadata.uid.clone())
    }

    /// A queue with a pod `a` that was popped once.
    fn popped() -> (Queue, Instant) {
        let (mut queue, start) = (Queue::default(), Instant::now());
        queue.add("a", pod("a", 0), start);
        assert!(queue.pop(start).is_some());
        (queue, start)
    }

    #[tokio::test(start_paused = true)]
    async fn priority_first_then_age() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.add("a", pod("a", 0), now);
        queue.add("b", pod("b", 10), now);
        queue.add("c", pod("c", 0), now);
        let order: Vec<_> = (0..4).map(|_| uid(queue.pop(now))).collect();
        assert_eq!(order, [Some("b".into()), Some("a".into()), Some("c".into()), None]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_that_helps_wakes_a_pod_after_its_backoff() {
        let (mut queue, start) = popped();
        queue.unschedulable("a", Events::NODE, start);
        assert!(queue.pop(start + Duration::from_secs(60)).is_none());
        queue.wake(Events::STORAGE, start);
        assert!(queue.pop(start + Duration::from_secs(60)).is_none());
        queue.wake(Events::NODE, start);
        assert_eq!(queue.next_due(start), Some(start + Duration::from_secs(1)));
        assert!(queue.pop(start).is_none());
        let again = start + Duration::from_secs(1);
        assert!(queue.pop(again).is_some());
        queue.unschedulable("a", Events::NODE, again);
        assert!(queue.pop(again + FLUSH - Duration::from_secs(1)).is_none());
        assert!(queue.pop(again + FLUSH).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_is_not_tried_again_while_somebody_acts_on_it() {
        let (mut queue, start) = popped();
        queue.wake(Events::NODE, start);
        assert_eq!((uid(queue.pop(start + FLUSH)), queue.next_due(start)), (None, None));
        // What came meanwhile counts as soon as it is known that the attempt led to nothing.
        queue.unschedulable("a", Events::NODE, start);
        assert!(queue.pop(start + Duration::from_secs(1)).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_write_is_tried_again_with_longer_and_longer_waits() {
        let (mut queue, mut now) = popped();
        for wait in [1, 2, 4, 8, 10, 10] {
            queue.retry("a", now);
            assert_eq!(queue.next_due(now), Some(now + Duration::from_secs(wait)));
            now += Duration::from_secs(wait);
            assert!(queue.pop(now).is_some());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn pods_are_counted_by_why_they_wait() {
        let (mut queue, start) = popped();
        let counts = |queue: &Queue| {
            let Pending { active, backoff, unschedulable } = queue.pending();
            [active, backoff, unschedulable]
        };
        assert_eq!(counts(&queue), [0, 0, 0], "what is in flight does not wait");
        queue.unschedulable("a", Events::NODE, start);
        queue.add("b", pod("b", 0), start);
        assert_eq!(counts(&queue), [1, 0, 1]);
        queue.wake(Events::NODE, start);
        assert_eq!(counts(&queue), [1, 1, 0]);
        let again = start + Duration::from_secs(1);
        assert!(queue.pop(again).is_some() && queue.pop(again).is_some());
        assert_eq!((queue.tries("a"), queue.tries("b")), (Some((2, start)), Some((1, again))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_attempt_puts_a_pod_behind_others() {
        let (mut queue, start) = popped();
        queue.add("b", pod("b", 0), start);
        queue.retry("a", start);
        let later = start + Duration::from_secs(5);
        queue.add("c", pod("c", 0), later);
        let order: Vec<_> = (0..3).map(|_| uid(queue.pop(later)).unwrap_or_default()).collect();
        assert_eq!(order, ["b", "a", "c"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_held_pod_is_tried_as_soon_as_it_may_be() {
        let (mut queue, start) = popped();
        queue.hold("a", Events::CLAIM);
        queue.wake(Events::NODE, start);
        assert_eq!((uid(queue.pop(start + FLUSH)), queue.next_due(start)), (None, None));
        queue.wake(Events::CLAIM, start);
        assert_eq!(queue.tries("a"), None);
        assert!(queue.pop(start).is_some());
        queue.hold("a", Events::CLAIM);
        let mut named = pod("a", 0).pod.as_ref().clone();
        let status = PodResourceClaimStatus { name: "c".into(), resource_claim_name: Some("a-c".into()) };
        named.status.get_or_insert_default().resource_claim_statuses = Some(vec![status]);
        queue.add("a", Arc::new(PodInfo::of(Arc::new(named))), start);
        assert!(queue.pop(start).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_pod_is_tried_again() {
        let (mut queue, start) = popped();
        queue.unschedulable("a", Events::NODE, start);
        queue.add("a", pod("a", 0), start);
        assert!(queue.pop(start + Duration::from_secs(2)).is_none());
        queue.add("a", pod("a", 7), start);
        assert!(queue.pop(start + Duration::from_secs(2)).is_some());
        queue.remove("a");
        assert_eq!(queue.next_due(start), None);
    }
}
