//! [`Waiting`]: pods that the node has taken and that begin when those which make room for them have ended.
//!
//! Upstream's loop stands still meanwhile (`killPodNow` in `pkg/kubelet/pod_workers.go`); here only these pods wait.

use super::{AgentHandle, Victim};
use crate::cluster::ClusterEvent;
use crate::context::Context;
use crate::counters;
use crate::pod::view;
use api::k8s::api::core::v1::Pod;
use api::meta::MetaExt;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// A victim that may stop at once has at least this long (`killPodNow`).
const PATIENCE_MIN: Duration = Duration::from_secs(10);

#[derive(Debug)]
struct Entry {
    pod: Arc<Pod>,
    has_room: bool,
}

/// See the file's head.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    pods: Mutex<BTreeMap<String, Entry>>,
    changed: Notify,
}

impl Waiting {
    /// The pod waits until there is room.
    pub(super) fn add(&self, pod: Arc<Pod>) {
        self.pods.lock().insert(pod.uid().to_owned(), Entry { pod, has_room: false });
    }

    /// Takes in a newer state of a pod that waits; whether it does.
    pub(super) fn update(&self, pod: &Arc<Pod>) -> bool {
        let mut pods = self.pods.lock();
        let Some(entry) = pods.get_mut(pod.uid()) else { return false };
        entry.pod = pod.clone();
        true
    }

    /// The pod is gone; whether it waited.
    pub(super) fn remove(&self, uid: &str) -> bool {
        self.pods.lock().remove(uid).is_some()
    }

    /// There is room for the pod.
    pub(super) fn has_room(&self, uid: &str) {
        if let Some(entry) = self.pods.lock().get_mut(uid) {
            entry.has_room = true;
            self.changed.notify_one();
        }
    }

    /// The pods that need not wait any more, as soon as there are some. One caller.
    pub(super) async fn over(&self) -> Vec<Arc<Pod>> {
        loop {
            let over: Vec<Arc<Pod>> =
                self.pods.lock().extract_if(.., |_, entry| entry.has_room).map(|(_, entry)| entry.pod).collect();
            if !over.is_empty() {
                return over;
            }
            self.changed.notified().await;
        }
    }
}

/// Waits until nothing of the victim runs, or should not: what it had is then taken all the same.
pub(super) async fn ended(agent: AgentHandle, context: Arc<Context>, victim: Victim) {
    let Victim { pod: victim, resource } = victim;
    let grace = view::grace_period(&victim, None);
    let Some(mut views) = agent.follow(victim.uid()) else { return };
    let patience = (grace + grace / 2).max(PATIENCE_MIN);
    // An error is the end of the worker, and so of the pod.
    let ending = views.wait_for(|view| view.seen.ending.is_some() && !view.seen.may_run());
    if tokio::time::timeout(patience, ending).await.is_ok() {
        context.counters.count(&counters::PREEMPTIONS, &[resource]);
        return;
    }
    tracing::error!(pod = view::describe(&victim), "a pod that makes room did not end in time");
    let (reason, message) =
        ("ExceededGracePeriod", "Container runtime did not kill the pod within specified grace period.");
    context.cluster.event(ClusterEvent { pod: Some(&victim), field_path: None, warning: true, reason, message });
}
