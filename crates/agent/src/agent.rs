//! [`Agent`]: one worker per pod of this node, recovered at start, fed by the watch and the engine's events.
//! [`AgentHandle`]: what the node API (logs, exec, attach, port-forward) asks of it.
//!
//! Start, in this order: what the engine and the checkpoints know is put together; pods that the API no longer has are
//! stopped; sandboxes, addresses and root file systems that belong to nothing are removed. Nothing that runs is touched.

mod waiting;

use crate::cluster::{Cluster, ClusterEvent, ObjectReference};
use crate::context::{Config, Context};
use crate::counters::{self, Counters};
use crate::credential_providers::CredentialProviders;
use crate::devices::{self, Devices};
use crate::dra::DynamicResources;
use crate::engine::{
    Engine, EngineError, EngineEvent, EngineExit, Mounts, SandboxNetwork, SandboxSnapshot, Session, StreamRequest,
    Streams,
};
use crate::images::Images;
use crate::managers::Managers;
use crate::network::PodNetwork;
use crate::orphans;
use crate::pod::admission::{self, Rejection};
use crate::pod::allocation::{Allocation, Demand, Ledger, Shortage};
use crate::pod::checkpoint;
use crate::pod::execute::Message;
use crate::pod::host_ports::HostPorts;
use crate::pod::observe::Observation;
use crate::pod::preemption;
use crate::pod::recover::recover;
use crate::pod::seen::{Claims, Ending, Run, Seen};
use crate::pod::users::Ranges;
use crate::pod::view;
use crate::pod::worker::{self, PodView, WorkerHandle, last_words};
use crate::pull_records::PullRecords;
use crate::shutdown::Shutdown;
use crate::static_pods::{self, Directory};
use crate::swap::Swap;
use crate::volumes::{self, VolumeManager};
use api::k8s::api::core::v1::{ContainerStatus, Pod};
use api::meta::MetaExt;
use base::backoff::Backoff;
use base::{Clock, Random};
use parking_lot::RwLock;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use thiserror::Error;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;
use url::Url;
use waiting::{Next, Waiting};

/// What the agent works with.
pub struct Parts {
    /// Containers.
    pub engine: Arc<dyn Engine>,
    /// Mounts of volumes, which are the node's whatever engine runs the pods.
    pub mounts: Arc<dyn Mounts>,
    /// Images.
    pub images: Arc<dyn Images>,
    /// Pod network.
    pub network: Arc<dyn PodNetwork>,
    /// The API server.
    pub cluster: Arc<dyn Cluster>,
    /// Wall time.
    pub clock: Arc<dyn Clock>,
    /// Ids.
    pub random: Arc<dyn Random>,
    /// Bytes of memory of the machine.
    pub memory: i64,
    /// Programs that know logins for registries.
    pub credential_providers: CredentialProviders,
    /// The machine's processors and memory.
    pub managers: Managers,
}

/// Pods of this node: all that are there, then every change.
pub struct PodFeed {
    /// The first list, complete.
    pub initial: Vec<Arc<Pod>>,
    /// Afterwards.
    pub changes: mpsc::UnboundedReceiver<Feed>,
}

/// What the watches tell.
#[derive(Debug, Clone)]
pub enum Feed {
    /// A pod appeared or changed.
    Pod(Arc<Pod>),
    /// A pod is gone from the API.
    Gone(Arc<Pod>),
    /// A ConfigMap or Secret that was asked for appeared, changed or is gone.
    Reference(ObjectReference),
}

type Workers = Arc<RwLock<BTreeMap<String, WorkerHandle>>>;

/// When a pod that the node takes may begin.
enum Room {
    Now,
    /// When these have ended, whose share it has now.
    After(Vec<Victim>),
    /// There is none now, but pods are about to end for another one.
    Unknown,
}

/// A pod that ends so that the node can take another.
struct Victim {
    pod: Arc<Pod>,
    /// What the other has too little of, for `/metrics`.
    resource: &'static str,
}

/// The agent, assembled but not yet running.
pub struct Agent {
    context: Arc<Context>,
    workers: Workers,
    waiting: Arc<Waiting>,
}

impl Agent {
    /// Assembles; touches nothing.
    pub fn new(config: Config, parts: Parts) -> Self {
        let Parts { engine, mounts, images, network, cluster, clock, random, memory, credential_providers, managers } =
            parts;
        let counters = Arc::<Counters>::default();
        let volumes = VolumeManager::new(&config, mounts, cluster.clone(), counters.clone());
        let devices = Devices::new(devices::dir(&config.kubelet_dir), clock.clone(), counters.clone());
        let devices = Arc::new(devices);
        let data_dir = config.data_dir.clone();
        let dynamic = DynamicResources::new(data_dir, cluster.clone(), clock.clone(), counters.clone());
        let swap = Swap::read(config.swap, memory);
        let pulls = PullRecords::load(&config.data_dir);
        let context = Context {
            config,
            pulls,
            devices,
            dynamic: Arc::new(dynamic),
            engine,
            images,
            network,
            cluster,
            volumes,
            clock,
            random,
            allocatable: RwLock::default(),
            memory,
            swap,
            credential_providers,
            managers,
            pressure: RwLock::default(),
            ledger: Ledger::default(),
            host_ports: HostPorts::default(),
            shutdown: Shutdown::default(),
            pods_changed: Notify::new(),
            ended: false.into(),
            users: Ranges::default(),
            counters,
        };
        Agent { context: Arc::new(context), workers: Workers::default(), waiting: Arc::default() }
    }

    /// For the node API.
    pub fn handle(&self) -> AgentHandle {
        AgentHandle { context: self.context.clone(), workers: self.workers.clone() }
    }

    /// Shared state, for the node's registration.
    pub fn context(&self) -> Arc<Context> {
        self.context.clone()
    }

    /// Runs until `shutdown`; pods go on without it.
    pub async fn run(self, mut feed: PodFeed, shutdown: CancellationToken) {
        let config = &self.context.config;
        let mut manifests = Directory::new(config.static_pod_dir.clone(), &config.node_name);
        let (mirrors, mut pods): (Vec<_>, Vec<_>) = feed.initial.drain(..).partition(|p| static_pods::is_mirror(p));
        pods.extend(manifests.read().into_values());
        self.recover(&pods).await;
        for mirror in mirrors {
            self.take(Feed::Pod(mirror)).await;
        }
        let (sender, mut statics) = mpsc::unbounded_channel();
        base::tasks::detach("static pods", manifests.run(sender, shutdown.clone()));
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                Some(change) = statics.recv() => self.take(change).await,
                change = feed.changes.recv() => match change {
                    Some(change) => self.take(change).await,
                    None => break,
                },
                () = self.context.ledger.room_made() => self.tell_of_room(),
                pods = self.waiting.over() => for next in pods {
                    match next {
                        Next::Begin(pod) => self.begin_with_share(pod).await,
                        Next::Admit(pod) => self.begin_new(pod).await,
                    }
                },
                pods = self.context.devices.concerned() => self.tell_of_devices(&pods),
                pods = self.context.dynamic.concerned() => self.tell_of_dynamic(&pods),
                event = self.context.engine.next_event() => match event {
                    Some(event) => self.engine_event(event),
                    None => break,
                },
            }
        }
        self.workers.read().values().for_each(|w| w.tell(Message::Detach));
        self.context.ended.store(true, Ordering::Relaxed);
    }

    // === start ===

    async fn recover(&self, pods: &[Arc<Pod>]) {
        let snapshots = self.snapshots().await;
        let kept = checkpoint::load_all(&self.context.config.data_dir.join("pods")).unwrap_or_else(|error| {
            tracing::error!(error = %base::chain(&error), "failed to read the checkpoints: pods begin anew");
            Vec::new()
        });
        let referred = pods.iter().map(|p| &**p).chain(kept.iter().map(|(pod, _)| pod)).flat_map(volumes::references);
        self.context.cluster.release(&referred.collect());
        let known: BTreeSet<String> = kept.iter().map(|(pod, _)| pod.uid().to_owned()).collect();
        self.remove_strangers(&snapshots, &kept).await;
        self.context.devices.retain(|uid| known.contains(uid));
        self.context.managers.retain(|uid| known.contains(uid));
        let all = known.iter().cloned().chain(pods.iter().map(|p| p.uid().to_owned())).collect();
        self.context.dynamic.undo_others(&all);
        orphans::sweep(&self.context, &all).await;
        for (pod, seen) in kept {
            self.resume(pod, seen, pods, &snapshots);
        }
        for pod in pods.iter().filter(|p| !known.contains(p.uid())) {
            self.begin_new(pod.clone()).await;
        }
    }

    /// What exists; asked until it is known, because acting without it could start things twice.
    async fn snapshots(&self) -> Vec<SandboxSnapshot> {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
        loop {
            match self.context.engine.recover().await {
                Ok(all) => return all,
                Err(error) => tracing::error!(error = %base::chain(&error), "failed to learn what runs, trying again"),
            }
            tokio::time::sleep(backoff.fail()).await;
        }
    }

    /// Sandboxes, addresses and roots that no checkpoint tells of.
    async fn remove_strangers(&self, snapshots: &[SandboxSnapshot], kept: &[(Pod, Seen)]) {
        let ours = |id: &str| kept.iter().any(|(_, seen)| sandbox_id(seen).as_deref() == Some(id));
        for snapshot in snapshots.iter().filter(|s| !ours(&s.id)) {
            tracing::info!(sandbox = snapshot.id, pod = snapshot.name, "removing a sandbox that belongs to no pod");
            self.context.counters.count(&counters::STRANGERS, &[]);
            if let Err(error) = self.context.engine.remove_sandbox(&snapshot.id).await {
                tracing::error!(sandbox = snapshot.id, error = %base::chain(&error), "failed to remove it");
            }
        }
        let live: Vec<String> = kept.iter().filter_map(|(_, seen)| sandbox_id(seen)).collect();
        if let Err(error) = self.context.network.retain(&live).await {
            tracing::error!(error = %base::chain(&error), "failed to release addresses of pods that are gone");
        }
        let roots: Vec<String> =
            snapshots.iter().filter(|s| ours(&s.id)).flat_map(|s| s.containers.iter().map(|c| c.id.clone())).collect();
        if let Err(error) = self.context.images.retain(&roots).await {
            tracing::error!(error = %base::chain(&error), "failed to release root file systems of containers that are gone");
        }
    }

    /// A pod that was known before the agent restarted.
    fn resume(&self, kept: Pod, seen: Seen, pods: &[Arc<Pod>], snapshots: &[SandboxSnapshot]) {
        let now = self.context.clock.now();
        let newest = pods.iter().find(|p| p.uid() == kept.uid()).cloned();
        let gone = newest.is_none();
        let pod = newest.unwrap_or_else(|| Arc::new(kept));
        let snapshot = sandbox_id(&seen).and_then(|id| snapshots.iter().find(|s| s.id == id));
        let message =
            |name: &str, restarts: u32, exit: &EngineExit| last_words(&self.context, &pod, name, restarts, exit.code);
        let mut seen = recover(&pod, seen, snapshot, message, now);
        seen.devices = self.context.devices.health(pod.uid());
        seen.dynamic = self.context.dynamic.statuses(&pod);
        let granted = seen.allocated.get_or_insert_with(|| Allocation::wanted(&pod));
        if seen.ending.is_none() && !gone {
            self.context.ledger.record(pod.uid(), Demand::of(&granted.apply(&pod)));
            self.context.host_ports.record(&pod, pod.uid());
        }
        let handle = self.begin(pod, seen);
        if gone {
            handle.tell(Message::Observed(Observation::ObjectGone));
        }
    }

    /// A pod that the node has not seen before: taken or rejected (`HandlePodAdditions`).
    async fn begin_new(&self, pod: Arc<Pod>) {
        if is_over(&pod) {
            return self.begin_admitted(pod, Ok(()));
        }
        match self.admit(&pod).await {
            Ok(Room::Now) => self.begin_with_share(pod).await,
            Ok(Room::After(victims)) => self.wait_for(pod, victims),
            Ok(Room::Unknown) => self.waiting.line_up(pod),
            Err(rejection) => self.begin_admitted(pod, Err(rejection)),
        }
    }

    /// A pod whose share nobody has any more gets what else it is to have of the machine, and begins.
    async fn begin_with_share(&self, pod: Arc<Pod>) {
        if is_over(&pod) {
            return self.begin_admitted(pod, Ok(()));
        }
        let given = match self.context.shutdown.admit() {
            Ok(()) => self.context.managers.allocate(&pod, &self.context.devices, &self.context.counters).await,
            off => off,
        };
        if given.is_err() {
            self.context.give_back(pod.uid());
        }
        self.begin_admitted(pod, given);
    }

    fn begin_admitted(&self, pod: Arc<Pod>, admitted: Result<(), Rejection>) {
        let devices = self.context.devices.health(pod.uid());
        let claims =
            if self.context.dynamic.knows(pod.uid()) { Claims::Due { retry_at: None } } else { Claims::Unknown };
        let mut seen = Seen { allocated: Some(Allocation::wanted(&pod)), devices, claims, ..Seen::default() };
        if let Err(Rejection { reason, message }) = admitted {
            self.context.counters.count(&counters::ADMISSION_REJECTIONS, &[counters::rejection(&reason)]);
            let event =
                ClusterEvent { pod: Some(&pod), field_path: None, warning: true, reason: &reason, message: &message };
            self.context.cluster.event(event);
            seen.ending = Some(Ending::Failed { reason, message: format!("Pod was rejected: {message}") });
        }
        self.begin(pod, seen);
    }

    /// Gives the pod its share of the node, or tells why not.
    async fn admit(&self, pod: &Pod) -> Result<Room, Rejection> {
        self.context.shutdown.admit()?;
        admission::admit(pod)?;
        admission::admit_confined(pod, runtime::apparmor::is_enabled())?;
        admission::admit_declared(pod, &crate::node::DECLARED_FEATURES)?;
        admission::admit_under(pod, *self.context.pressure.read())?;
        self.admit_here(pod).await?;
        let shortage = self.context.ledger.grant(pod.uid(), Demand::of(pod), &self.context.allocatable.read()).err();
        match shortage {
            Some(_) if self.waiting.is_room_made() => Ok(Room::Unknown),
            Some(shortage) if !admission::is_critical(pod) => Err(shortage.into()),
            shortage => self.give(pod, shortage).inspect_err(|_| self.context.give_back(pod.uid())),
        }
    }

    /// The pod's ports, and its share if that is too little so far.
    fn give(&self, pod: &Pod, shortage: Option<Shortage>) -> Result<Room, Rejection> {
        self.context.host_ports.take(pod, pod.uid())?;
        shortage.map_or(Ok(Room::Now), |shortage| self.make_room(pod, &shortage).map(Room::After))
    }

    /// The watch of the node may be behind the scheduler's, so who does not fit is looked at again with what the server has now.
    async fn admit_here(&self, pod: &Pod) -> Result<(), Rejection> {
        let Some(node) = self.context.cluster.node() else { return Ok(()) };
        let Err(rejection) = admission::admit_on(pod, &node) else { return Ok(()) };
        match self.context.cluster.read_node().await {
            Ok(node) => admission::admit_on(pod, &node),
            Err(_) => Err(rejection),
        }
    }

    /// A pod that the node needs gets its share from others (`evictPodsToFreeRequests`), which are told to end.
    fn make_room(&self, pod: &Pod, first: &Shortage) -> Result<Vec<Victim>, Rejection> {
        let (ledger, demand) = (&self.context.ledger, Demand::of(pod));
        let shortages = ledger.shortages(pod.uid(), demand, &self.context.allocatable.read());
        let views: Vec<PodView> = self.workers.read().values().map(WorkerHandle::view).collect();
        let running: Vec<_> = views.into_iter().filter(|v| v.seen.ending.is_none()).map(|v| v.pod).collect();
        let victims = preemption::victims(pod, &running, &shortages).map_err(Rejection::without_room)?;
        ledger.record(pod.uid(), demand);
        victims.iter().for_each(|victim| self.preempt(victim));
        Ok(victims.into_iter().map(|pod| Victim { pod, resource: first.resource }).collect())
    }

    fn preempt(&self, victim: &Arc<Pod>) {
        let (reason, message) = (preemption::REASON, preemption::MESSAGE);
        let event = ClusterEvent { pod: Some(victim), field_path: None, warning: true, reason, message };
        self.context.cluster.event(event);
        let grace = view::grace_period(victim, None);
        let (reason, message) = (reason.to_owned(), message.to_owned());
        let happened = Observation::Evicted { reason, message, grace, disrupted: true };
        if let Some(worker) = self.workers.read().get(victim.uid()) {
            worker.tell(Message::Observed(happened));
        }
    }

    fn wait_for(&self, pod: Arc<Pod>, victims: Vec<Victim>) {
        let (waiting, uid) = (self.waiting.clone(), pod.uid().to_owned());
        let ends = victims.into_iter().map(|v| waiting::ended(self.handle(), self.context.clone(), v));
        let all = futures_util::future::join_all(ends);
        waiting.promise(pod);
        base::tasks::detach("room for a pod", async move {
            all.await;
            waiting.room_made(&uid);
        });
    }

    fn begin(&self, pod: Arc<Pod>, seen: Seen) -> WorkerHandle {
        let (uid, workers, context) = (pod.uid().to_owned(), self.workers.clone(), self.context.clone());
        let ended = {
            let uid = uid.clone();
            move || {
                let left = {
                    let mut workers = workers.write();
                    workers.remove(&uid);
                    workers.values().map(|w| w.view().pod).collect::<Vec<_>>()
                };
                context.cluster.release(&left.iter().flat_map(|p| volumes::references(p)).collect());
            }
        };
        let handle = worker::spawn(self.context.clone(), pod, seen, ended);
        self.workers.write().insert(uid, handle.clone());
        handle
    }

    // === afterwards ===

    async fn take(&self, change: Feed) {
        match change {
            Feed::Pod(mirror) if static_pods::is_mirror(&mirror) => self.take_mirror(mirror, false),
            Feed::Gone(mirror) if static_pods::is_mirror(&mirror) => self.take_mirror(mirror, true),
            Feed::Pod(pod) if self.waiting.update(&pod) => {}
            Feed::Gone(pod) if self.waiting.remove(pod.uid()) => self.context.give_back(pod.uid()),
            Feed::Pod(pod) => {
                let worker = self.workers.read().get(pod.uid()).cloned();
                match worker {
                    Some(worker) => worker.tell(Message::Pod(pod)),
                    None => self.begin_new(pod).await,
                }
            }
            Feed::Gone(pod) => {
                self.context.give_back_share(pod.uid());
                if let Some(worker) = self.workers.read().get(pod.uid()) {
                    worker.tell(Message::Pod(pod));
                    worker.tell(Message::Observed(Observation::ObjectGone));
                }
            }
            Feed::Reference(reference) => {
                let workers = self.workers.read();
                let concerned = workers.values().filter(|w| volumes::references(&w.view().pod).contains(&reference));
                concerned.for_each(|w| w.tell(Message::Observed(Observation::ReferencesChanged)));
            }
        }
    }

    /// A mirror is there for its static pod: one that goes is made again, one that shows nothing is removed.
    fn take_mirror(&self, mirror: Arc<Pod>, gone: bool) {
        let shown = self
            .workers
            .read()
            .values()
            .find(|w| {
                let view = w.view();
                static_pods::shows(&mirror, &view.pod) && !view.seen.object_gone
            })
            .cloned();
        match shown {
            Some(worker) if gone || mirror.metadata.deletion_timestamp.is_some() => worker.tell(Message::MirrorLost),
            Some(_) => {}
            None if gone => {}
            None => {
                let cluster = self.context.cluster.clone();
                base::tasks::detach("orphaned mirror", async move {
                    if let Err(error) = cluster.delete_pod(&mirror).await {
                        tracing::warn!(pod = view::describe(&mirror), error = %base::chain(&error), "failed to remove a mirror pod");
                    }
                });
            }
        }
    }

    fn tell_of_room(&self) {
        let workers = self.workers.read();
        let waiting = workers.values().filter(|w| w.view().seen.resize.pending.is_some());
        waiting.for_each(|w| w.tell(Message::Observed(Observation::RoomMade)));
    }

    fn tell_of_devices(&self, pods: &BTreeSet<String>) {
        let workers = self.workers.read();
        for (uid, worker) in pods.iter().filter_map(|uid| Some((uid, workers.get(uid)?))) {
            worker.tell(Message::Observed(Observation::Devices(self.context.devices.health(uid))));
        }
    }

    fn tell_of_dynamic(&self, pods: &BTreeSet<String>) {
        let workers = self.workers.read();
        for worker in pods.iter().filter_map(|uid| workers.get(uid)) {
            let statuses = self.context.dynamic.statuses(&worker.view().pod);
            worker.tell(Message::Observed(Observation::DynamicDevices(statuses)));
        }
    }

    fn engine_event(&self, event: EngineEvent) {
        let worker = |pod: &str| self.workers.read().get(pod).cloned();
        match event {
            EngineEvent::Exited { pod, container, exit } => {
                if let Some(worker) = worker(&pod) {
                    worker.tell(Message::Exited { id: container, exit });
                }
            }
            EngineEvent::SandboxLost { pod, sandbox } => {
                if let Some(worker) = worker(&pod)
                    && sandbox_id(&worker.view().seen).is_none_or(|id| id == sandbox)
                {
                    worker.tell(Message::Observed(Observation::SandboxLost));
                }
            }
        }
    }
}

/// Whether there is nothing to begin any more.
fn is_over(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
        || matches!(pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"))
}

/// The sandbox that a record speaks of.
fn sandbox_id(seen: &Seen) -> Option<String> {
    use crate::pod::seen::Sandbox;
    match &seen.sandbox {
        Sandbox::Ready { id } | Sandbox::Stopping { id } | Sandbox::Lost { id } => Some(id.clone()),
        Sandbox::None | Sandbox::Creating | Sandbox::Failed { .. } | Sandbox::Stopped { .. } | Sandbox::Removing => {
            None
        }
    }
}

// === for the node API ===

/// Questions of the node API. Cheap to clone.
#[derive(Clone)]
pub struct AgentHandle {
    context: Arc<Context>,
    workers: Workers,
}

/// A container that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerTarget {
    /// Its sandbox.
    pub sandbox: String,
    /// The run's id.
    pub id: String,
    /// Whether it has a terminal (`tty`).
    pub tty: bool,
    /// Whether it reads standard input (`stdin`).
    pub stdin: bool,
}

/// A container's log.
#[derive(Debug)]
pub struct LogTarget {
    /// File in CRI format; rotated ones beside it as `<path>.<time>`.
    pub path: PathBuf,
    /// The run's id.
    pub id: String,
    /// Whether it runs: then it may grow.
    pub running: bool,
    views: watch::Receiver<PodView>,
}

impl LogTarget {
    /// Waits until the run has ended (for `follow`).
    pub async fn ended(&mut self) {
        let id = self.id.clone();
        let runs = |view: &PodView| view.seen.containers.values().any(|c| c.running().is_some_and(|r| r.id == id));
        // An error is the end of the worker, and so of the pod.
        self.views.wait_for(|view| !runs(view)).await.ok();
    }
}

/// Why there is no such pod, container or log; upstream's words.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LookupError {
    /// No such pod on this node.
    #[error("pod {0} not found")]
    NoPod(String),
    /// No such container in it.
    #[error("container {container} not found in pod {pod}")]
    NoContainer {
        /// Its name.
        container: String,
        /// `name_namespace`
        pod: String,
    },
    /// It does not run.
    #[error("container not found (\"{0}\")")]
    NotRunning(String),
    /// There is no log (yet); the reason as upstream puts it.
    #[error("{0}")]
    NoLog(String),
}

impl AgentHandle {
    /// All pods of the node, with their newest statuses.
    pub fn pods(&self) -> Vec<Arc<Pod>> {
        self.workers.read().values().map(|w| w.view().pod).collect()
    }

    /// Whether nobody looks after pods any more.
    pub fn has_ended(&self) -> bool {
        self.context.ended.load(Ordering::Relaxed)
    }

    /// Tells a pod's worker; a pod that is gone needs no telling.
    pub fn tell(&self, uid: &str, happened: Observation) {
        if let Some(worker) = self.workers.read().get(uid) {
            worker.tell(Message::Observed(happened));
        }
    }

    /// A pod's views, as they change.
    pub(crate) fn follow(&self, uid: &str) -> Option<watch::Receiver<PodView>> {
        self.workers.read().get(uid).map(WorkerHandle::views)
    }

    /// Likewise, with what the node knows of each.
    pub fn views(&self) -> Vec<PodView> {
        self.workers.read().values().map(WorkerHandle::view).collect()
    }

    fn worker(&self, namespace: &str, name: &str, uid: Option<&str>) -> Option<WorkerHandle> {
        let workers = self.workers.read();
        let fits = |w: &&WorkerHandle| {
            let view = w.view();
            view.pod.namespace() == namespace
                && view.pod.name() == name
                && uid.is_none_or(|u| u.is_empty() || u == view.pod.uid())
        };
        // The one that is not going away, if a name was used again.
        let mut found: Vec<&WorkerHandle> = workers.values().filter(fits).collect();
        found.sort_by_key(|w| w.view().seen.object_gone);
        found.first().map(|w| (*w).clone())
    }

    /// A pod and what the node knows of it.
    pub fn pod(&self, namespace: &str, name: &str, uid: Option<&str>) -> Result<PodView, LookupError> {
        let worker = self.worker(namespace, name, uid);
        worker.map(|w| w.view()).ok_or_else(|| LookupError::NoPod(format!("{name}_{namespace}")))
    }

    /// A running container, for exec and attach. An empty name is the pod's first.
    pub fn container(
        &self,
        namespace: &str,
        pod: &str,
        uid: Option<&str>,
        container: &str,
    ) -> Result<ContainerTarget, LookupError> {
        let view = self.pod(namespace, pod, uid)?;
        let name = if container.is_empty() {
            view::app_containers(&view.pod).first().map(|c| c.name.clone()).unwrap_or_default()
        } else {
            container.to_owned()
        };
        let no_container = || LookupError::NoContainer { container: name.clone(), pod: format!("{pod}_{namespace}") };
        let (_, spec) = view::find_container(&view.pod, &name).ok_or_else(no_container)?;
        let run = view.seen.container(&name).and_then(|c| c.running());
        match (run, view.seen.sandbox.ready()) {
            (Some(run), Some(sandbox)) => Ok(ContainerTarget {
                sandbox: sandbox.to_owned(),
                id: run.id.clone(),
                tty: spec.tty == Some(true),
                stdin: spec.stdin == Some(true),
            }),
            _ => Err(LookupError::NotRunning(name)),
        }
    }

    /// Where a container's log is (`validateContainerLogStatus`).
    pub fn log(
        &self,
        namespace: &str,
        pod: &str,
        uid: Option<&str>,
        container: &str,
        previous: bool,
    ) -> Result<LogTarget, LookupError> {
        let worker =
            self.worker(namespace, pod, uid).ok_or_else(|| LookupError::NoPod(format!("{pod}_{namespace}")))?;
        let view = worker.view();
        let status = view.pod.status.clone().unwrap_or_default();
        let lists = [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
        let found = lists.into_iter().flatten().flatten().find(|s| s.name == container);
        let found = found.ok_or_else(|| {
            LookupError::NoLog(format!("container \"{container}\" in pod \"{pod}\" is not available"))
        })?;
        let seen = view.seen.container(container);
        let none = |why: String| LookupError::NoLog(format!("container \"{container}\" in pod \"{pod}\" {why}"));
        let restarts = seen.map_or(0, |s| s.restarts);
        let (id, restarts, running) = match (seen.map(|s| (&s.run, &s.last)), previous) {
            (Some((Run::Running(_) | Run::Exited(_), Some(last))), true) if !last.id.is_empty() => {
                (last.id.clone(), restarts.saturating_sub(1), false)
            }
            (_, true) => {
                let text = format!("previous terminated container \"{container}\" in pod \"{pod}\" not found");
                return Err(LookupError::NoLog(text));
            }
            (Some((Run::Running(run), _)), false) => (run.id.clone(), restarts, true),
            (Some((Run::Exited(exit), _)), false) if !exit.id.is_empty() => (exit.id.clone(), restarts, false),
            (Some((_, Some(last))), false) if !last.id.is_empty() => (last.id.clone(), restarts, false),
            _ => return Err(none(waiting_text(found))),
        };
        let path = self.context.log_path(namespace, pod, view.pod.uid(), container, restarts);
        Ok(LogTarget { path, id, running, views: worker.views() })
    }

    /// Runs a command with streams.
    pub async fn exec(&self, target: &ContainerTarget, request: StreamRequest) -> Result<Session, EngineError> {
        self.context.engine.exec_stream(&target.sandbox, &target.id, request).await
    }

    /// Streams of the container's first process.
    pub async fn attach(&self, target: &ContainerTarget, request: StreamRequest) -> Result<Session, EngineError> {
        self.context.engine.attach(&target.sandbox, &target.id, request).await
    }

    /// Writes the state of a container's processes into this file of the directory `checkpoints`; where that is.
    pub async fn checkpoint(
        &self,
        target: &ContainerTarget,
        file: &str,
        timeout_seconds: i64,
    ) -> Result<PathBuf, EngineError> {
        let path = self.context.config.kubelet_dir.join("checkpoints").join(file);
        self.context.engine.checkpoint(&target.id, &path, timeout_seconds).await?;
        Ok(path)
    }

    /// Where the engine itself serves these streams, if it does.
    pub async fn streams_at(&self, streams: Streams<'_>) -> Result<Option<Url>, EngineError> {
        self.context.engine.streams_at(streams).await
    }

    /// The pod's network, for port-forward: connect to `localhost` from a thread that has joined its namespace.
    pub async fn netns(&self, namespace: &str, pod: &str, uid: Option<&str>) -> Result<OwnedFd, EngineError> {
        let sandbox = self.sandbox(namespace, pod, uid)?;
        match self.context.engine.network(&sandbox).await? {
            SandboxNetwork::Namespace(netns) => Ok(netns),
            SandboxNetwork::Connected(_) => Err(EngineError::Unsupported("port-forward of this runtime".into())),
        }
    }

    /// The id of the pod's sandbox.
    pub fn sandbox(&self, namespace: &str, pod: &str, uid: Option<&str>) -> Result<String, EngineError> {
        let view = self.pod(namespace, pod, uid).map_err(|e| EngineError::NotFound(e.to_string()))?;
        let not_running = || EngineError::NotFound(format!("sandbox of pod {pod}_{namespace}"));
        view.seen.sandbox.ready().map(str::to_owned).ok_or_else(not_running)
    }

    /// The pod's own address, if it has one; with the node's network `localhost` of the node is the pod's.
    pub fn shares_node_network(&self, namespace: &str, pod: &str, uid: Option<&str>) -> Result<bool, LookupError> {
        Ok(view::is_host_network(&self.pod(namespace, pod, uid)?.pod))
    }
}

fn waiting_text(status: &ContainerStatus) -> String {
    let waiting = status.state.as_ref().and_then(|s| s.waiting.as_ref()).and_then(|w| w.reason.as_deref());
    match waiting {
        Some("ErrImagePull") => "is waiting to start: image can't be pulled".into(),
        Some("ImagePullBackOff") => "is waiting to start: trying and failing to pull image".into(),
        Some(reason) => format!("is waiting to start: {reason}"),
        None if status.state.as_ref().is_some_and(|s| s.terminated.is_some()) => "is terminated".into(),
        None => "is waiting to start - no logs yet".into(),
    }
}

#[cfg(test)]
mod tests;
