//! [`FakeNode`]: a kubelet that only pretends. Registers a Node and a Lease, watches the pods bound to it, and walks each from
//! Pending over Running to Ready, or to its end, after seeded delays; honours deletion and its grace.
//!
//! The *machine* (running pods, addresses) outlives the kubelet task, as containers outlive a real agent: dropping
//! [`FakeNode::run`] is a crash of the agent, [`FakeNode::reboot`] one of the machine.
//!
//! Always holds: two pods that the machine knows never have the same address; a pod object is removed only after its
//! containers ended and its final phase was written.

use crate::Dice;
use api::k8s::api::coordination::v1::LeaseSpec;
use api::k8s::apimachinery::pkg::apis::meta::v1::MicroTime;
use api::prelude::*;
use api::{Codec, Time};
use base::Clock;
use client::{Cache, Client, ClientError, DeleteParams, ListParams, Patch};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// Between renewals of the Lease (kubelet: a quarter of 40 s).
const HEARTBEAT: Duration = Duration::from_secs(10);
/// After a failed write.
const RETRY: Duration = Duration::from_millis(500);

/// How big it is and where its addresses are.
#[derive(Debug, Clone)]
pub struct NodeShape {
    /// `metadata.name`
    pub name: String,
    /// Third byte of its pod addresses: 10.42.N.0/24.
    pub subnet: u8,
    /// Allocatable CPU in millicores.
    pub cpu_milli: u64,
    /// Allocatable pods.
    pub pods: u64,
}

/// How its containers behave.
#[derive(Debug, Clone, Copy)]
pub struct Habits {
    /// Longest time from seeing a pod to running it, milliseconds.
    pub start_ms: u64,
    /// Longest time from running to ready.
    pub ready_ms: u64,
    /// How many containers of 1000 fail once after they were ready (or end with an error, if they are meant to end).
    pub failing: usize,
}

/// A node that only pretends. Share it; at most one [`FakeNode::run`] at a time.
pub struct FakeNode {
    shape: NodeShape,
    dice: Dice,
    habits: Mutex<Habits>,
    machine: Mutex<Machine>,
}

/// What is really running.
#[derive(Default)]
struct Machine {
    runs: BTreeMap<String, Run>,
    /// Addresses are given out in turn, so that one is not reused at once.
    cursor: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing runs yet.
    Starting,
    /// Runs, not ready.
    Running,
    /// Runs and is ready.
    Ready,
    /// TERM was sent.
    Stopping,
    /// All containers ended; true = well.
    Ended(bool),
}

struct Run {
    phase: Phase,
    /// When the next thing happens by itself.
    due: Option<Instant>,
    address: String,
    restarts: i32,
    /// It fails once.
    will_fail: bool,
    /// Since when its readiness is what it is.
    since: jiff::Timestamp,
    /// The last status that the server took.
    written: Option<Value>,
    /// The revision of that write.
    written_at: u64,
    retry_at: Option<Instant>,
}

/// What the kubelet is to do about a pod now.
enum Action {
    WriteStatus(Value),
    Remove,
}

impl FakeNode {
    /// A node that is not registered yet.
    pub fn new(shape: NodeShape, habits: Habits, dice: Dice) -> Arc<Self> {
        Arc::new(FakeNode { shape, dice, habits: Mutex::new(habits), machine: Mutex::default() })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.shape.name
    }

    /// How its containers behave from now on.
    pub fn set_habits(&self, habits: Habits) {
        *self.habits.lock() = habits;
        if habits.failing == 0 {
            self.machine.lock().runs.values_mut().for_each(|run| run.will_fail = false);
        }
    }

    /// The machine loses everything that runs.
    pub fn reboot(&self) {
        self.machine.lock().runs.clear();
    }

    /// The kubelet. Drop the future to crash it; while `awake` is false it does nothing.
    pub async fn run(&self, client: Client, clock: Arc<dyn Clock>, mut awake: watch::Receiver<bool>) {
        while self.register(&client, clock.as_ref()).await.is_err() {
            tokio::time::sleep(RETRY).await;
        }
        let own = format!("spec.nodeName={}", self.shape.name);
        let pods: Cache<Pod> = client.cache_of(ListParams::all().fields(&own));
        let nodes: Cache<Node> =
            client.cache_of(ListParams::all().fields(&format!("metadata.name={}", self.shape.name)));
        pods.synced().await;
        let mut lease = None;
        let changed = Arc::new(Notify::new());
        let wake = changed.clone();
        let _told = pods.on_change(move |_| wake.notify_one());
        let mut heartbeat = Instant::now();
        loop {
            if awake.wait_for(|awake| *awake).await.is_err() {
                return;
            }
            if Instant::now() >= heartbeat {
                let doubted = nodes.get("", &self.shape.name).is_some_and(|node| !is_node_ready(&node));
                let sent = self.heartbeat(&client, clock.as_ref(), &mut lease, doubted).await;
                heartbeat = Instant::now() + if sent.is_ok() { HEARTBEAT } else { RETRY };
            }
            let due = self.round(&client, clock.as_ref(), &pods).await;
            let until = due.map_or(heartbeat, |due| due.min(heartbeat));
            tokio::select! {
                biased;
                () = changed.notified() => {}
                _ = awake.changed() => {}
                () = tokio::time::sleep_until(until) => {}
            }
        }
    }

    async fn register(&self, client: &Client, clock: &dyn Clock) -> Result<(), ClientError> {
        let api = client.api::<Node>();
        if api.find("", &self.shape.name).await?.is_none() {
            let labels = BTreeMap::from([("kubernetes.io/hostname".to_owned(), self.shape.name.clone())]);
            let metadata =
                ObjectMeta { name: Some(self.shape.name.clone()), labels: Some(labels), ..ObjectMeta::default() };
            match api.create(&Node { metadata, ..Node::default() }).await {
                Err(error) if !error.is_already_exists() => return Err(error),
                _ => {}
            }
        }
        self.write_node_status(client, clock).await
    }

    async fn write_node_status(&self, client: &Client, clock: &dyn Clock) -> Result<(), ClientError> {
        let room =
            json!({"cpu": format!("{}m", self.shape.cpu_milli), "memory": "8Gi", "pods": self.shape.pods.to_string()});
        let now = Time(clock.now());
        let ready = json!({"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "kubelet is posting ready status",
            "lastHeartbeatTime": now, "lastTransitionTime": now});
        let status = json!({"status": {"capacity": room, "allocatable": room, "conditions": [ready]}});
        client.api::<Node>().patch("", &self.shape.name, "status", &Patch::Strategic(status)).await.map(drop)
    }

    /// Renews the Lease, from what the last renewal left of it; says again that the node is ready if somebody doubts it.
    async fn heartbeat(
        &self,
        client: &Client,
        clock: &dyn Clock,
        last: &mut Option<Lease>,
        doubted: bool,
    ) -> Result<(), ClientError> {
        let api = client.api::<Lease>();
        let renewed = Some(MicroTime(clock.now()));
        let current = match last.take() {
            Some(lease) => Some(lease),
            None => api.find("kube-node-lease", &self.shape.name).await?,
        };
        let written = match current {
            Some(mut lease) => {
                lease.spec.get_or_insert_default().renew_time = renewed;
                api.update(&lease).await?
            }
            None => {
                let metadata = ObjectMeta {
                    name: Some(self.shape.name.clone()),
                    namespace: Some("kube-node-lease".into()),
                    ..ObjectMeta::default()
                };
                let spec = LeaseSpec {
                    holder_identity: Some(self.shape.name.clone()),
                    lease_duration_seconds: Some(40),
                    renew_time: renewed,
                    ..LeaseSpec::default()
                };
                api.create(&Lease { metadata, spec: Some(spec) }).await?
            }
        };
        *last = Some(written);
        if doubted { self.write_node_status(client, clock).await } else { Ok(()) }
    }

    /// Brings every pod a step on; returns when to look again.
    async fn round(&self, client: &Client, clock: &dyn Clock, pods: &Cache<Pod>) -> Option<Instant> {
        let seen = pods.list();
        let alive: BTreeSet<&str> = seen.iter().map(|p| p.uid()).collect();
        self.machine.lock().runs.retain(|uid, _| alive.contains(uid.as_str()));
        for pod in &seen {
            // One write each; the next comes with the next round.
            if let Some(action) = self.decide(pod, &seen, clock) {
                let done = self.act(client, pod, &action).await;
                self.note(pod.uid(), action, done.ok());
            }
        }
        let machine = self.machine.lock();
        // While a write waits to be repeated nothing else happens to its pod.
        machine.runs.values().filter_map(|run| run.retry_at.or(run.due)).min()
    }

    /// Moves the pod's containers to where they are by now and says what to tell the server.
    fn decide(&self, pod: &Pod, all: &[Arc<Pod>], clock: &dyn Clock) -> Option<Action> {
        let now = Instant::now();
        let mut machine = self.machine.lock();
        if !machine.runs.contains_key(pod.uid()) {
            let ended = matches!(phase_of(pod), "Succeeded" | "Failed");
            if ended && !pod.is_deleting() {
                return None;
            }
            let address = machine.take_address(self.shape.subnet, all);
            let phase = if ended { Phase::Ended(phase_of(pod) == "Succeeded") } else { Phase::Starting };
            let habits = *self.habits.lock();
            let run = Run {
                phase,
                due: (!ended).then(|| now + self.dice.millis(20, habits.start_ms.max(21))),
                address,
                restarts: 0,
                will_fail: self.dice.chance(habits.failing),
                since: clock.now(),
                written: ended.then(|| pod_status(pod)),
                written_at: 0,
                retry_at: None,
            };
            machine.runs.insert(pod.uid().to_owned(), run);
        }
        let run = machine.runs.get_mut(pod.uid())?;
        if run.retry_at.is_some_and(|at| at > now) {
            return None;
        }
        run.retry_at = None;
        self.advance(pod, run, now, clock);
        // Others write readiness, too (the node controller, of a node that it lost): what runs here decides.
        if pod.revision() > run.written_at && is_ready(pod) != (run.phase == Phase::Ready) {
            run.written = None;
        }
        if pod.is_deleting() && matches!(run.phase, Phase::Ended(_)) && run.written.is_some() {
            let told = run.written.as_ref().is_some_and(|w| *w == run.status(pod) || *w == pod_status(pod));
            if told {
                return Some(Action::Remove);
            }
        }
        let status = run.status(pod);
        (run.phase != Phase::Starting && run.written.as_ref() != Some(&status)).then_some(Action::WriteStatus(status))
    }

    fn advance(&self, pod: &Pod, run: &mut Run, now: Instant, clock: &dyn Clock) {
        let habits = *self.habits.lock();
        if pod.is_deleting() && !matches!(run.phase, Phase::Stopping | Phase::Ended(_)) {
            let grace = u64::try_from(pod.metadata.deletion_grace_period_seconds.unwrap_or(0)).unwrap_or(0) * 1000;
            let was_up = run.phase != Phase::Starting;
            run.phase = Phase::Stopping;
            run.since = clock.now();
            run.due = Some(if was_up { now + self.dice.millis(0, grace.min(5000) + 1) } else { now });
        }
        if run.due.is_none_or(|due| due > now) {
            return;
        }
        let restarts = restart_policy(pod) == "Always";
        (run.phase, run.due) = match run.phase {
            Phase::Starting => (Phase::Running, Some(now + self.dice.millis(10, habits.ready_ms.max(11)))),
            // A container that is meant to end does so when others would become ready.
            Phase::Running if !restarts => {
                let failed = std::mem::take(&mut run.will_fail);
                if failed && restart_policy(pod) == "OnFailure" {
                    run.restarts += 1;
                    (Phase::Running, Some(now + self.dice.millis(10, habits.ready_ms.max(11))))
                } else {
                    (Phase::Ended(!failed), None)
                }
            }
            Phase::Running => {
                run.since = clock.now();
                (Phase::Ready, run.will_fail.then(|| now + self.dice.millis(100, 20_000)))
            }
            Phase::Ready if run.will_fail => {
                run.will_fail = false;
                run.restarts += 1;
                run.since = clock.now();
                (Phase::Running, Some(now + self.dice.millis(10, habits.ready_ms.max(11))))
            }
            Phase::Ready => (Phase::Ready, None),
            Phase::Stopping => (Phase::Ended(restarts), None),
            ended @ Phase::Ended(_) => (ended, None),
        };
    }

    /// Returns the revision of the write.
    async fn act(&self, client: &Client, pod: &Pod, action: &Action) -> Result<u64, ClientError> {
        let api = client.api::<Pod>();
        match action {
            Action::WriteStatus(status) => {
                let patch = Patch::Merge(json!({"metadata": {"uid": pod.uid()}, "status": status}));
                api.patch(pod.namespace(), pod.name(), "status", &patch).await.map(|pod| pod.revision())
            }
            Action::Remove => {
                let params = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::uid(pod.uid()) };
                api.delete(pod.namespace(), pod.name(), &params).await.map(|()| 0)
            }
        }
    }

    fn note(&self, uid: &str, action: Action, done: Option<u64>) {
        let mut machine = self.machine.lock();
        let Some(run) = machine.runs.get_mut(uid) else { return };
        match (action, done) {
            (Action::WriteStatus(status), Some(revision)) => {
                run.written = Some(status);
                run.written_at = revision;
            }
            // Asked for; if the object stays, ask again later.
            (Action::Remove, Some(_)) => run.retry_at = Some(Instant::now() + RETRY * 20),
            (_, None) => run.retry_at = Some(Instant::now() + RETRY),
        }
    }
}

impl Machine {
    /// An address that no pod here has, as far as anybody knows.
    fn take_address(&mut self, subnet: u8, all: &[Arc<Pod>]) -> String {
        let told = |p: &Arc<Pod>| p.status.as_ref().and_then(|s| s.pod_ip.clone());
        let used: BTreeSet<String> =
            all.iter().filter_map(told).chain(self.runs.values().map(|r| r.address.clone())).collect();
        loop {
            self.cursor = self.cursor % 250 + 1;
            let address = format!("10.42.{subnet}.{}", self.cursor);
            if !used.contains(&address) {
                return address;
            }
        }
    }
}

impl Run {
    fn status(&self, pod: &Pod) -> Value {
        let ready = self.phase == Phase::Ready;
        let phase = match self.phase {
            Phase::Starting => "Pending",
            Phase::Running | Phase::Ready | Phase::Stopping => "Running",
            Phase::Ended(true) => "Succeeded",
            Phase::Ended(false) => "Failed",
        };
        let since = Time(self.since);
        let condition = |kind: &str, yes: bool| json!({"type": kind, "status": if yes { "True" } else { "False" }, "lastTransitionTime": since});
        let state = match self.phase {
            Phase::Starting => json!({"waiting": {"reason": "ContainerCreating"}}),
            Phase::Ended(well) => json!({"terminated": {"exitCode": if well { 0 } else { 1 }}}),
            _ => json!({"running": {}}),
        };
        let name_and_image = |c: &api::k8s::api::core::v1::Container| json!({"name": c.name, "image": c.image, "imageID": "sim", "ready": ready, "restartCount": self.restarts, "state": state});
        let containers: Vec<Value> = pod.spec.iter().flat_map(|s| &s.containers).map(name_and_image).collect();
        json!({
            "phase": phase,
            "podIP": self.address,
            "podIPs": [{"ip": self.address}],
            "conditions": [condition("PodScheduled", true), condition("Initialized", true), condition("ContainersReady", ready), condition("Ready", ready)],
            "containerStatuses": containers,
        })
    }
}

fn pod_status(pod: &Pod) -> Value {
    let decoded: Option<Value> = serde_json::from_slice(&Codec::encode(pod)).ok();
    decoded.map(|mut v| v["status"].take()).unwrap_or_default()
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
}

fn is_node_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
}

fn phase_of(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default()
}

fn restart_policy(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|s| s.restart_policy.as_deref()).unwrap_or("Always")
}
