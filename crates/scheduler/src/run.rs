//! The loop: caches in, bindings out. One task decides; binding and telling happen beside it.

use crate::decide::{Decision, decide};
use crate::pod::PodInfo;
use crate::queue::Queue;
use crate::snapshot::Snapshot;
use api::k8s::api::core::v1::{Binding, ObjectReference};
use api::k8s::apimachinery::pkg::apis::meta::v1::Status;
use api::meta::MetaExt;
use api::prelude::{Node, Pod};
use api::{Codec, ObjectMeta};
use base::{Clock, Random};
use client::{Cache, Client, ClientError, EventKind, Patch, Recorder};
use parking_lot::Mutex;
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The scheduler that pods get if they name none (`DefaultSchedulerName`).
const NAME: &str = "default-scheduler";
/// Bindings in flight; more decisions wait.
const IN_FLIGHT: usize = 64;

/// Names of changed objects, to be read from the caches.
#[derive(Default)]
struct Inbox {
    pods: BTreeSet<(String, String, String)>,
    nodes: BTreeSet<String>,
}

struct Scheduler {
    client: Client,
    pods: Cache<Pod>,
    nodes: Cache<Node>,
    recorder: Recorder,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    snapshot: Snapshot,
    queue: Queue,
    binds: JoinSet<(String, Result<(), ClientError>)>,
}

/// Schedules whenever `leading` is true, until `shutdown`.
pub async fn run(
    client: Client,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    mut leading: watch::Receiver<bool>,
    shutdown: CancellationToken,
) {
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            leads = async { leading.wait_for(|l| *l).await.is_ok() } => if !leads { return },
        }
        let lost = async { leading.wait_for(|l| !*l).await.is_ok() };
        let term = shutdown.child_token();
        let work = Scheduler::new(&client, &clock, &random).work(term.clone());
        tokio::pin!(work);
        tokio::select! {
            biased;
            () = &mut work => return,
            _ = lost => {
                term.cancel();
                work.await;
            }
        }
    }
}

impl Scheduler {
    fn new(client: &Client, clock: &Arc<dyn Clock>, random: &Arc<dyn Random>) -> Self {
        Scheduler {
            pods: client.cache(),
            nodes: client.cache(),
            recorder: Recorder::new(client, NAME, "", clock.clone()),
            client: client.clone(),
            clock: clock.clone(),
            random: random.clone(),
            snapshot: Snapshot::default(),
            queue: Queue::default(),
            binds: JoinSet::new(),
        }
    }

    async fn work(mut self, shutdown: CancellationToken) {
        let inbox = Arc::new((Mutex::new(Inbox::default()), Notify::new()));
        self.follow(&inbox);
        let caches = (self.pods.clone(), self.nodes.clone());
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            () = async { caches.0.synced().await; caches.1.synced().await } => {}
        }
        loop {
            let changed = std::mem::take(&mut *inbox.0.lock());
            self.take_in(changed);
            self.place_all();
            let due = self.queue.next_due();
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(done) = self.binds.join_next() => match done {
                    Ok((uid, result)) => self.bound(&uid, result),
                    Err(panic) => tracing::error!(%panic, "a binding task failed"),
                },
                () = inbox.1.notified() => {}
                () = async { tokio::time::sleep_until(due.unwrap_or_else(Instant::now)).await }, if due.is_some() && self.binds.len() < IN_FLIGHT => {}
            }
        }
        self.binds.shutdown().await;
    }

    fn follow(&self, inbox: &Arc<(Mutex<Inbox>, Notify)>) {
        let to = inbox.clone();
        self.pods.on_change(move |change| {
            let mut inbox = to.0.lock();
            for pod in change.old.iter().chain(&change.new) {
                inbox.pods.insert((pod.namespace().to_owned(), pod.name().to_owned(), pod.uid().to_owned()));
            }
            to.1.notify_one();
        });
        let to = inbox.clone();
        self.nodes.on_change(move |change| {
            to.0.lock().nodes.insert(change.latest().name().to_owned());
            to.1.notify_one();
        });
    }

    /// Brings snapshot and queue up to the caches.
    fn take_in(&mut self, changed: Inbox) {
        let mut freed = !changed.nodes.is_empty();
        for name in changed.nodes {
            self.snapshot.apply_node(&name, self.nodes.get("", &name));
        }
        for (namespace, name, uid) in changed.pods {
            match self.pods.get(&namespace, &name).filter(|p| p.uid() == uid) {
                Some(pod) => freed |= self.take_in_pod(&pod),
                None => {
                    self.snapshot.forget(&uid);
                    self.queue.remove(&uid);
                    freed = true;
                }
            }
        }
        if freed {
            self.queue.wake(Instant::now());
        }
    }

    /// Returns whether it may have made room.
    fn take_in_pod(&mut self, pod: &Arc<Pod>) -> bool {
        self.snapshot.apply_pod(pod);
        let spec = pod.spec.as_ref();
        let placed = spec.and_then(|s| s.node_name.as_deref()).is_some_and(|n| !n.is_empty());
        let ended = matches!(pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"));
        let ours = spec.and_then(|s| s.scheduler_name.as_deref()).is_none_or(|n| n == NAME);
        let gated = spec.and_then(|s| s.scheduling_gates.as_ref()).is_some_and(|g| !g.is_empty());
        if placed || ended || !ours || gated || pod.is_deleting() {
            self.queue.remove(pod.uid());
        } else {
            self.queue.add(pod.uid(), Arc::new(PodInfo::of(pod.clone())));
        }
        ended
    }

    /// Decides for all pods that may be tried now.
    fn place_all(&mut self) {
        while self.binds.len() < IN_FLIGHT
            && let Some(pod) = self.queue.pop(Instant::now())
        {
            match decide(&pod, &self.snapshot, self.random.next_u64()) {
                Decision::Bind(node) => {
                    self.snapshot.place(pod.clone(), &node);
                    self.binds.spawn(bind(self.client.clone(), self.recorder.clone(), pod.pod.clone(), node));
                }
                Decision::Unschedulable(why) => self.tell(&pod.pod, &why),
            }
        }
    }

    fn bound(&mut self, uid: &str, result: Result<(), ClientError>) {
        match result {
            Ok(()) => self.queue.remove(uid),
            Err(error) => {
                tracing::debug!(uid, error = %base::chain(&error), "binding failed");
                self.snapshot.forget(uid);
                self.queue.retry(uid, Instant::now());
            }
        }
    }

    /// Event and condition; the condition only if it says something new.
    fn tell(&self, pod: &Arc<Pod>, why: &str) {
        self.recorder.record(pod.as_ref(), EventKind::Warning, "FailedScheduling", why);
        let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
        let current = conditions.into_iter().flatten().find(|c| c.type_ == "PodScheduled");
        if current.is_some_and(|c| c.status == "False" && c.message.as_deref() == Some(why)) {
            return;
        }
        let now = api::Time(self.clock.now());
        let since = current.filter(|c| c.status == "False").and_then(|c| c.last_transition_time.clone()).unwrap_or(now);
        let condition = json!({
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": why, "lastTransitionTime": since,
            "observedGeneration": pod.metadata.generation,
        });
        let patch = Patch::Strategic(json!({"metadata": {"uid": pod.uid()}, "status": {"conditions": [condition]}}));
        let (api, pod) = (self.client.api::<Pod>(), pod.clone());
        base::tasks::detach("unschedulable", async move {
            if let Err(error) = api.patch(pod.namespace(), pod.name(), "status", &patch).await {
                tracing::debug!(error = %base::chain(&error), "failed to note why a pod waits; the next attempt tries again");
            }
        });
    }
}

async fn bind(client: Client, recorder: Recorder, pod: Arc<Pod>, node: String) -> (String, Result<(), ClientError>) {
    let binding = Binding {
        metadata: ObjectMeta {
            name: pod.metadata.name.clone(),
            namespace: pod.metadata.namespace.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectMeta::default()
        },
        target: ObjectReference { kind: Some("Node".into()), name: Some(node.clone()), ..ObjectReference::default() },
    };
    let api = client.api::<Pod>();
    let sent = api.post_subresource::<Status>(pod.namespace(), pod.name(), "binding", binding.encode()).await;
    if sent.is_ok() {
        let text = format!("Successfully assigned {}/{} to {node}", pod.namespace(), pod.name());
        recorder.record(pod.as_ref(), EventKind::Normal, "Scheduled", &text);
    }
    (pod.uid().to_owned(), sent.map(drop))
}
