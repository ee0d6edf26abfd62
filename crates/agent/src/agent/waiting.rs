//! [`Waiting`]: pods that the node has taken and that begin when those which make room for them have ended, and pods that
//! come meanwhile and find no room.
//!
//! Upstream's loop stands still until then (`killPodNow` in `pkg/kubelet/pod_workers.go`); here only these pods wait.

use super::{AgentHandle, Victim, is_over};
use crate::cluster::ClusterEvent;
use crate::context::Context;
use crate::counters;
use crate::pod::view;
use api::k8s::api::core::v1::Pod;
use api::meta::MetaExt;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// A victim that may stop at once has at least this long (`killPodNow`).
const PATIENCE_MIN: Duration = Duration::from_secs(10);

/// A pod that waits, and what for.
#[derive(Debug)]
struct Entry {
    pod: Arc<Pod>,
    stage: Stage,
}

#[derive(Debug, PartialEq, Eq)]
enum Stage {
    /// It has the share of pods that are about to end.
    Promised,
    /// These have ended.
    Given,
    /// It came when others had been promised something, and is asked again when they have it.
    InLine,
}

/// What comes next for a pod that need not wait any more.
#[derive(Debug)]
pub(super) enum Next {
    /// It has its share.
    Begin(Arc<Pod>),
    /// Whether the node takes it is to be seen.
    Admit(Arc<Pod>),
}

#[derive(Debug, Default)]
struct State {
    /// In the order of their coming.
    pods: Vec<Entry>,
    /// For how many pods others are about to end, even if those are gone meanwhile.
    making_room: usize,
}

/// See the file's head.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    state: Mutex<State>,
    changed: Notify,
}

impl Waiting {
    /// The pod waits until others have ended: [`Self::room_made`].
    pub(super) fn promise(&self, pod: Arc<Pod>) {
        let mut state = self.state.lock();
        state.pods.push(Entry { pod, stage: Stage::Promised });
        state.making_room += 1;
    }

    /// Those have ended that make room for the pod.
    pub(super) fn room_made(&self, uid: &str) {
        let mut state = self.state.lock();
        state.making_room -= 1;
        if let Some(entry) = state.pods.iter_mut().find(|e| e.pod.uid() == uid) {
            entry.stage = Stage::Given;
        }
        self.changed.notify_one();
    }

    /// Whether pods are about to end, so that who finds no room now may find some then.
    pub(super) fn is_room_made(&self) -> bool {
        self.state.lock().making_room > 0
    }

    /// The pod waits until no other pod is about to end.
    pub(super) fn line_up(&self, pod: Arc<Pod>) {
        self.state.lock().pods.push(Entry { pod, stage: Stage::InLine });
    }

    /// Takes in a newer state of a pod that waits; whether it does.
    pub(super) fn update(&self, pod: &Arc<Pod>) -> bool {
        let mut state = self.state.lock();
        let Some(entry) = state.pods.iter_mut().find(|e| e.pod.uid() == pod.uid()) else { return false };
        entry.pod = pod.clone();
        self.changed.notify_one();
        true
    }

    /// The pod is gone; whether it waited.
    pub(super) fn remove(&self, uid: &str) -> bool {
        self.state.lock().pods.extract_if(.., |entry| entry.pod.uid() == uid).count() > 0
    }

    /// The pods that need not wait any more, as soon as there are some. One caller.
    pub(super) async fn over(&self) -> Vec<Next> {
        loop {
            let over = self.take_over();
            if !over.is_empty() {
                return over;
            }
            self.changed.notified().await;
        }
    }

    fn take_over(&self) -> Vec<Next> {
        let mut state = self.state.lock();
        let stands = state.making_room > 0;
        let over = |entry: &mut Entry| match entry.stage {
            // There is nothing to wait for.
            _ if is_over(&entry.pod) => true,
            Stage::Promised => false,
            Stage::Given => true,
            Stage::InLine => !stands,
        };
        let next = |entry: Entry| match entry.stage {
            Stage::InLine => Next::Admit(entry.pod),
            Stage::Promised | Stage::Given => Next::Begin(entry.pod),
        };
        state.pods.extract_if(.., over).map(next).collect()
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
