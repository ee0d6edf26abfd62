//! The loop: caches in, decisions out. One task decides; what follows from decisions happens beside it (`bind.rs`).

use crate::bind::{self, Done, Tools};
use crate::decide::{Decision, Preparation, decide};
use crate::events::Events;
use crate::metrics::{Outcome, SchedulerMetrics};
use crate::pod::PodInfo;
use crate::queue::Queue;
use crate::snapshot::Snapshot;
use api::k8s::api::policy::v1::PodDisruptionBudget;
use api::k8s::api::resource::v1::{DeviceClass, ResourceClaim, ResourceSlice};
use api::k8s::api::storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment};
use api::prelude::*;
use base::{Clock, Random};
use client::{Cache, Client, Recorder, Subscription};
use machinery::selector::LabelSelector;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::{Notify, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The scheduler that pods get if they name none (`DefaultSchedulerName`).
pub(crate) const NAME: &str = "default-scheduler";
/// Decisions being acted on; more wait. Those that wait for volumes or devices do not count, they may take minutes.
const IN_FLIGHT: usize = 64;

/// Brings the newest state of an object into the snapshot.
type Apply = Box<dyn FnOnce(&mut Snapshot) -> Events + Send>;

/// What changed. Pods and nodes by name, to be read from the caches; of everything else the newest state.
#[derive(Default)]
struct Inbox {
    pods: BTreeSet<(String, String, String)>,
    nodes: BTreeSet<String>,
    others: BTreeMap<(&'static str, String, String), Apply>,
}

#[derive(Default)]
struct Mail {
    inbox: Mutex<Inbox>,
    arrived: Notify,
}

/// A pod that a task works on.
struct Task {
    pod: Arc<PodInfo>,
    /// What is assumed until it ends, however it does.
    assumed: Arc<Preparation>,
    /// It waits for volumes or devices.
    slow: bool,
    /// When the attempt began.
    begun: Instant,
}

impl Task {
    /// Nothing is assumed, nothing waited for.
    fn quick(pod: Arc<PodInfo>, begun: Instant) -> Self {
        Task { pod, assumed: Arc::default(), slow: false, begun }
    }
}

struct Scheduler {
    tools: Tools,
    pods: Cache<Pod>,
    nodes: Cache<Node>,
    random: Arc<dyn Random>,
    metrics: SchedulerMetrics,
    snapshot: Snapshot,
    queue: Queue,
    tasks: JoinSet<Done>,
    running: BTreeMap<Id, Task>,
}

/// What the scheduler needs from outside.
pub struct Deps {
    /// Reads pods and nodes, binds.
    pub client: Client,
    /// For events and conditions.
    pub clock: Arc<dyn Clock>,
    /// Picks among nodes that are equally good.
    pub random: Arc<dyn Random>,
    /// Counts.
    pub metrics: SchedulerMetrics,
}

/// Schedules whenever `leading` is true, until `shutdown`.
pub async fn run(deps: Deps, mut leading: watch::Receiver<bool>, shutdown: CancellationToken) {
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            leads = async { leading.wait_for(|l| *l).await.is_ok() } => if !leads { return },
        }
        let lost = async { leading.wait_for(|l| !*l).await.is_ok() };
        let term = shutdown.child_token();
        let mut work = base::tasks::spawn("scheduling", Scheduler::new(&deps).work(term.clone()));
        tokio::select! {
            biased;
            // A bug in one decision must not end all scheduling: the next term starts from the caches, as after a restart.
            ended = &mut work => if let Err(panic) = ended {
                tracing::error!(%panic, "the scheduler failed and starts again");
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            },
            _ = lost => {
                term.cancel();
                drop(work.await);
            }
        }
    }
}

impl Scheduler {
    fn new(deps: &Deps) -> Self {
        let Deps { client, clock, random, metrics } = deps;
        let recorder = Recorder::new(client, NAME, "", clock.clone());
        Scheduler {
            pods: client.cache(),
            nodes: client.cache(),
            tools: Tools { client: client.clone(), recorder, clock: clock.clone() },
            random: random.clone(),
            metrics: metrics.clone(),
            snapshot: Snapshot::default(),
            queue: Queue::default(),
            tasks: JoinSet::new(),
            running: BTreeMap::new(),
        }
    }

    async fn work(mut self, shutdown: CancellationToken) {
        let mail = Arc::new(Mail::default());
        let (_told, synced): (Vec<Subscription>, Vec<_>) = self.follow(&mail).into_iter().unzip();
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            () = async { for synced in synced { synced.await } } => {}
        }
        loop {
            let changed = std::mem::take(&mut *mail.inbox.lock());
            self.take_in(changed);
            self.place_all();
            self.metrics.state(self.queue.pending(), self.snapshot.len());
            let due = self.queue.next_due(Instant::now()).filter(|_| self.may_start());
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(ended) = self.tasks.join_next_with_id() => self.ended(ended),
                () = mail.arrived.notified() => {}
                () = async { tokio::time::sleep_until(due.unwrap_or_else(Instant::now)).await }, if due.is_some() => {}
            }
        }
        self.tasks.shutdown().await;
    }

    /// Subscribes to everything.
    fn follow(&self, mail: &Arc<Mail>) -> Vec<Followed> {
        let (to_pods, to_nodes) = (mail.clone(), mail.clone());
        let follow = Follow { client: &self.tools.client, to: mail.clone() };
        vec![
            followed(&self.pods, move |change| {
                let mut inbox = to_pods.inbox.lock();
                for pod in change.old.iter().chain(&change.new) {
                    inbox.pods.insert((pod.namespace().to_owned(), pod.name().to_owned(), pod.uid().to_owned()));
                }
                to_pods.arrived.notify_one();
            }),
            followed(&self.nodes, move |change| {
                to_nodes.inbox.lock().nodes.insert(change.latest().name().to_owned());
                to_nodes.arrived.notify_one();
            }),
            follow.kind::<Namespace>(|s, _, name, new| {
                s.apply_namespace(name, new.map(|n| n.metadata.labels.clone().unwrap_or_default()))
            }),
            follow.kind::<PersistentVolumeClaim>(|s, ns, name, new| s.volumes.apply_claim(ns, name, new)),
            follow.kind::<PersistentVolume>(|s, _, name, new| s.volumes.apply_volume(name, new)),
            follow.kind::<StorageClass>(|s, _, name, new| s.volumes.apply_class(name, new)),
            follow.kind::<CSINode>(|s, _, name, new| s.volumes.apply_csi_node(name, new)),
            follow.kind::<CSIDriver>(|s, _, name, new| s.volumes.apply_driver(name, new)),
            follow.kind::<CSIStorageCapacity>(|s, ns, name, new| s.volumes.apply_capacity(ns, name, new)),
            follow.kind::<VolumeAttachment>(|s, _, name, new| s.volumes.apply_attachment(name, new)),
            follow.kind::<ResourceClaim>(|s, ns, name, new| s.devices.apply_claim(ns, name, new)),
            follow.kind::<ResourceSlice>(|s, _, name, new| s.devices.apply_slice(name, new)),
            follow.kind::<DeviceClass>(|s, _, name, new| s.devices.apply_class(name, new)),
            follow.kind::<PodDisruptionBudget>(|s, ns, name, new| s.apply_budget(ns, name, new)),
            follow.kind::<Service>(|s, ns, name, new| {
                s.owners.apply_service(ns, name, new.and_then(|s| s.spec.as_ref()?.selector.clone()));
                Events::NONE
            }),
            follow
                .owner::<ReplicationController>(|rc| rc.spec.as_ref()?.selector.as_ref().map(LabelSelector::from_set)),
            follow.owner::<ReplicaSet>(|rs| LabelSelector::from_api(Some(&rs.spec.as_ref()?.selector)).ok()),
            follow.owner::<StatefulSet>(|ss| LabelSelector::from_api(Some(&ss.spec.as_ref()?.selector)).ok()),
        ]
    }

    /// Brings snapshot and queue up to the caches.
    fn take_in(&mut self, changed: Inbox) {
        let mut events = Events::NONE;
        for (_, apply) in changed.others {
            events |= apply(&mut self.snapshot);
        }
        for name in changed.nodes {
            events |= self.snapshot.apply_node(&name, self.nodes.get("", &name));
        }
        for (namespace, name, uid) in changed.pods {
            match self.pods.get(&namespace, &name).filter(|p| p.uid() == uid) {
                Some(pod) => events |= self.take_in_pod(&pod),
                None => {
                    events |= self.snapshot.forget(&uid);
                    self.queue.remove(&uid);
                }
            }
        }
        self.queue.wake(events, Instant::now());
    }

    fn take_in_pod(&mut self, pod: &Arc<Pod>) -> Events {
        let events = self.snapshot.apply_pod(pod);
        if is_ours_to_place(pod) {
            self.queue.add(pod.uid(), Arc::new(PodInfo::of(pod.clone())), Instant::now());
        } else {
            self.queue.remove(pod.uid());
        }
        events
    }

    fn may_start(&self) -> bool {
        self.running.values().filter(|task| !task.slow).count() < IN_FLIGHT
    }

    /// Decides for all pods that may be tried now.
    fn place_all(&mut self) {
        while self.may_start()
            && let Some(pod) = self.queue.pop(Instant::now())
        {
            let (tools, object) = (self.tools.clone(), pod.pod.clone());
            let begun = Instant::now();
            let decision = decide(&pod, &self.snapshot, self.tools.clock.now(), self.random.next_u64());
            if !matches!(decision, Decision::Hold(_)) {
                self.metrics.decided(begun.elapsed());
            }
            match decision {
                Decision::Bind(node, mut plan) => {
                    plan.claims.name_shares(self.random.as_ref());
                    self.snapshot.place(pod.clone(), &node);
                    self.snapshot.volumes.assume(&plan.volumes, &node);
                    self.snapshot.devices.assume(&plan.claims);
                    let slow = !plan.volumes.is_empty() || plan.claims.is_slow();
                    let plan = Arc::new(plan);
                    let task = Task { pod, assumed: plan.clone(), slow, begun };
                    self.start(task, bind::bind(tools, object, node, plan));
                }
                Decision::Hold(hears) => self.queue.hold(object.uid(), hears),
                Decision::Fail(why) => self.start(Task::quick(pod, begun), bind::fail(tools, object, why)),
                Decision::Preempt(room, waiting) => {
                    self.metrics.looked_for_room(Some(room.victims.len()));
                    for other in &room.disappointed {
                        self.snapshot.unpromise(other.uid());
                    }
                    self.snapshot.promise(pod.clone(), &room.node);
                    self.start(Task::quick(pod, begun), bind::wait(tools, object, Some(room), waiting));
                }
                Decision::Wait(waiting) => {
                    // Without nodes there is nothing to look at.
                    if !self.snapshot.is_empty() {
                        self.metrics.looked_for_room(None);
                    }
                    if waiting.ends_promise {
                        self.snapshot.unpromise(object.uid());
                    }
                    self.start(Task::quick(pod, begun), bind::wait(tools, object, None, waiting));
                }
            }
        }
    }

    fn start(&mut self, task: Task, work: impl Future<Output = Done> + Send + 'static) {
        let id = self.tasks.spawn(work).id();
        self.running.insert(id, task);
    }

    fn ended(&mut self, ended: Result<(Id, Done), JoinError>) {
        let id = match &ended {
            Ok((id, _)) => *id,
            Err(panic) => panic.id(),
        };
        let Some(Task { pod, assumed, begun, .. }) = self.running.remove(&id) else { return };
        let (uid, now) = (pod.pod.uid().to_owned(), Instant::now());
        self.count(&uid, &ended, begun);
        self.snapshot.volumes.unassume(&assumed.volumes);
        let freed = self.snapshot.devices.unassume(&assumed.claims);
        match ended {
            Ok((_, Done::Bind(Ok(())))) => self.queue.remove(&uid),
            Ok((_, Done::Bind(Err(error)))) => self.not_bound(&pod, error, freed),
            Ok((_, Done::Wait(waiting, Ok(())))) => self.queue.unschedulable(&uid, waiting.hears, now),
            Ok((_, Done::Wait(_, Err(error)))) => {
                tracing::debug!(pod = pod.pod.name(), %error, "failed to note why a pod waits or to make room for it");
                self.queue.retry(&uid, now);
            }
            Ok((_, Done::Fail)) => self.queue.retry(&uid, now),
            Err(panic) => {
                tracing::error!(%panic, pod = pod.pod.name(), "a task of the scheduler failed");
                self.not_bound(&pod, "a task of the scheduler failed".into(), freed);
            }
        }
    }

    fn count(&self, uid: &str, ended: &Result<(Id, Done), JoinError>, begun: Instant) {
        let outcome = match ended {
            Ok((_, Done::Bind(Ok(())))) => Outcome::Scheduled,
            Ok((_, Done::Wait(_, Ok(())))) => Outcome::Unschedulable,
            _ => Outcome::Error,
        };
        self.metrics.attempted(outcome, begun.elapsed());
        if let (Outcome::Scheduled, Some((attempts, first))) = (outcome, self.queue.tries(uid)) {
            self.metrics.scheduled(attempts, first.elapsed());
        }
    }

    /// Takes the pod from its node again and tells, unless it is bound all the same or gone. Others may use what was `freed`.
    fn not_bound(&mut self, pod: &Arc<PodInfo>, error: String, freed: Events) {
        tracing::debug!(pod = pod.pod.name(), error, "binding failed");
        let uid = pod.pod.uid();
        let newest = self.pods.get(pod.pod.namespace(), pod.pod.name()).filter(|p| p.uid() == uid);
        let mut events = freed | self.snapshot.forget(uid);
        if let Some(newest) = newest {
            // If it was bound all the same, this counts it again.
            events |= self.snapshot.apply_pod(&newest);
            if is_ours_to_place(&newest) {
                let tools = self.tools.clone();
                base::tasks::detach("not-bound", async move {
                    drop(bind::note(&tools, &newest, ("SchedulerError", &error), None, false).await);
                });
            }
        }
        self.queue.retry(uid, Instant::now());
        self.queue.wake(events, Instant::now());
    }
}

/// Whether a pod waits for us to find its node.
fn is_ours_to_place(pod: &Pod) -> bool {
    let spec = pod.spec.as_ref();
    let placed = spec.and_then(|s| s.node_name.as_deref()).is_some_and(|n| !n.is_empty());
    let ended = matches!(pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"));
    let ours = spec.and_then(|s| s.scheduler_name.as_deref()).is_none_or(|n| n == NAME);
    let gated = spec.and_then(|s| s.scheduling_gates.as_ref()).is_some_and(|g| !g.is_empty());
    !placed && !ended && ours && !gated && !pod.is_deleting()
}

/// What tells of changes for the term, and what ends when the cache is filled.
type Followed = (Subscription, Pin<Box<dyn Future<Output = ()> + Send>>);

fn followed<K: Object>(cache: &Cache<K>, handler: impl Fn(&client::Change<K>) + Send + Sync + 'static) -> Followed {
    let (told, cache) = (cache.on_change(handler), cache.clone());
    (told, Box::pin(async move { cache.synced().await }))
}

/// Subscribes to kinds whose newest state is all that matters.
struct Follow<'a> {
    client: &'a Client,
    to: Arc<Mail>,
}

impl Follow<'_> {
    fn kind<K: Object>(&self, apply: fn(&mut Snapshot, &str, &str, Option<Arc<K>>) -> Events) -> Followed {
        self.each::<K>(move |change| {
            let (namespace, name) = (change.latest().namespace().to_owned(), change.latest().name().to_owned());
            let new = change.new.clone();
            Box::new(move |snapshot| apply(snapshot, &namespace, &name, new))
        })
    }

    /// Controllers whose selector spreads their pods.
    fn owner<K: Object>(&self, selector: fn(&K) -> Option<LabelSelector>) -> Followed {
        self.each::<K>(move |change| {
            let new = change.new.as_ref().map(|new| (new.uid().to_owned(), selector(new)));
            let gone = change.old.as_ref().map(|old| old.uid().to_owned());
            let gone = gone.filter(|old| new.as_ref().is_none_or(|(uid, _)| uid != old));
            Box::new(move |snapshot| {
                gone.iter().for_each(|uid| snapshot.owners.apply_controller(uid, None));
                if let Some((uid, selector)) = new {
                    snapshot.owners.apply_controller(&uid, selector);
                }
                Events::NONE
            })
        })
    }

    fn each<K: Object>(&self, read: impl Fn(&client::Change<K>) -> Apply + Send + Sync + 'static) -> Followed {
        let to = self.to.clone();
        followed(&self.client.cache::<K>(), move |change| {
            let object = change.latest();
            let key = (K::KIND, object.namespace().to_owned(), object.name().to_owned());
            to.inbox.lock().others.insert(key, read(change));
            to.arrived.notify_one();
        })
    }
}
