//! [`Cluster`]: the processes of one simulation, assembled as `bin` does it, each of which can crash and start again.

use crate::disk::FaultStore;
use crate::net::Wire;
use crate::world::World;
use api::prelude::*;
use apiserver::auth::{AllowAll, LocalOnly};
use apiserver::{ApiServer, Deps, ServiceNetwork};
use base::{Clock, Random};
use client::{Client, ClientError};
use controllers::Facts;
use std::sync::Arc;
use testkit::{Dice, FakeNode, Habits, NodeShape};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// One life of the API server.
#[derive(Clone)]
pub struct ApiProcess {
    pub(crate) server: ApiServer,
    /// Cancelled when it crashes: what it was doing stops where it is.
    pub(crate) dead: CancellationToken,
}

/// One life of another process.
struct Process {
    dead: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
    /// Kept, so that it leads.
    _leading: watch::Sender<bool>,
}

impl Drop for Process {
    fn drop(&mut self) {
        self.dead.cancel();
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

struct NodeProcess {
    node: Arc<FakeNode>,
    kubelet: Option<Process>,
    awake: watch::Sender<bool>,
}

/// All processes.
pub struct Cluster {
    world: Arc<World>,
    store: Arc<FaultStore>,
    random: Arc<dyn Random>,
    controllers: Option<Process>,
    scheduler: Option<Process>,
    nodes: Vec<NodeProcess>,
}

impl Cluster {
    /// Nothing runs yet.
    pub fn new(world: &Arc<World>, dice: &Dice) -> Self {
        let store = FaultStore::new(world.clone());
        let random = dice.split().random();
        Cluster { world: world.clone(), store, random, controllers: None, scheduler: None, nodes: Vec::new() }
    }

    /// The store behind everything.
    pub fn store(&self) -> &Arc<FaultStore> {
        &self.store
    }

    fn clock(&self) -> Arc<dyn Clock> {
        self.world.clock.clone()
    }

    /// A client that plays a user, without faults.
    pub fn user(&self) -> Client {
        Client::new(Wire::reliable(&self.world), "kubectl")
    }

    /// The API server over what the store has.
    pub async fn start_api(&self) -> Result<(), String> {
        self.world.note(|| "api starts".into());
        let deps = Deps {
            store: self.store.clone(),
            authenticator: Arc::new(LocalOnly),
            authorizer: Arc::new(AllowAll),
            admission: apiserver::admission::default_plugins(self.random.clone()),
            token_issuer: None,
            services: ServiceNetwork::default(),
            node_client: None,
            audit: None,
            clock: self.clock(),
            random: self.random.clone(),
        };
        let server = ApiServer::new(deps).await.map_err(|status| status.message)?;
        *self.world.api.lock() = Some(ApiProcess { server, dead: CancellationToken::new() });
        Ok(())
    }

    /// The namespaces that every cluster has, and one that may go.
    pub async fn bootstrap(&self) -> Result<(), ClientError> {
        let client = self.user();
        for name in ["default", "kube-system", "kube-node-lease", "team"] {
            let metadata = ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() };
            client.api::<Namespace>().create(&Namespace { metadata, ..Namespace::default() }).await?;
        }
        Ok(())
    }

    /// The API server is gone, with everything it was doing.
    pub fn crash_api(&self) {
        if let Some(api) = self.world.api.lock().take() {
            self.world.note(|| "api crashes".into());
            api.dead.cancel();
        }
    }

    /// Whether the API server runs.
    pub fn has_api(&self) -> bool {
        self.world.api.lock().is_some()
    }

    /// All controllers in one process, as `bin` starts them. Running ones crash first.
    pub fn start_controllers(&mut self) {
        self.crash_controllers();
        self.world.note(|| "controllers start".into());
        let dead = CancellationToken::new();
        let (leading, follow) = watch::channel(true);
        let wire = |user: &str| Wire::new(&self.world, &dead, user, &["system:masters"]);
        let shared = Client::new(wire("controllers"), "dhow-controllers");
        let facts = Arc::new(Facts {
            root_ca_pem: "simulated".into(),
            server_names: Vec::new(),
            pod_ranges: Vec::new(),
            signer: None,
            tokens: None,
            queues: Default::default(),
        });
        let start = |runner: &controllers::Runner| {
            let client = shared.acting(wire(runner.name), runner.name);
            runner.start(client, &facts, &self.clock(), follow.clone(), &CancellationToken::new())
        };
        let tasks = controllers::all().iter().map(start).collect();
        self.controllers = Some(Process { dead, tasks, _leading: leading });
    }

    /// The controllers are gone.
    pub fn crash_controllers(&mut self) {
        if self.controllers.take().is_some() {
            self.world.note(|| "controllers crash".into());
        }
    }

    /// The scheduler. A running one crashes first.
    pub fn start_scheduler(&mut self) {
        self.crash_scheduler();
        self.world.note(|| "scheduler starts".into());
        let dead = CancellationToken::new();
        let (leading, follow) = watch::channel(true);
        let client = Client::new(Wire::new(&self.world, &dead, "scheduler", &["system:masters"]), "kube-scheduler");
        let (clock, random, metrics) = (self.clock(), self.random.clone(), scheduler::SchedulerMetrics::default());
        let deps = scheduler::run::Deps { client, clock, random, metrics };
        let run = scheduler::run::run(deps, follow, CancellationToken::new());
        let tasks = vec![base::tasks::spawn("scheduler", run)];
        self.scheduler = Some(Process { dead, tasks, _leading: leading });
    }

    /// The scheduler is gone.
    pub fn crash_scheduler(&mut self) {
        if self.scheduler.take().is_some() {
            self.world.note(|| "scheduler crashes".into());
        }
    }

    /// A new node; its kubelet is not started.
    pub fn add_node(&mut self, shape: NodeShape, habits: Habits, dice: &Dice) {
        let node = FakeNode::new(shape, habits, dice.split());
        self.nodes.push(NodeProcess { node, kubelet: None, awake: watch::Sender::new(true) });
    }

    /// How many nodes there are.
    pub fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// The kubelet of node `i`. A running one crashes first.
    pub fn start_kubelet(&mut self, i: usize) {
        self.crash_kubelet(i);
        let (world, clock) = (self.world.clone(), self.clock());
        let Some(process) = self.nodes.get_mut(i) else { return };
        let name = process.node.name().to_owned();
        world.note(|| format!("kubelet {name} starts"));
        let dead = CancellationToken::new();
        let user = format!("system:node:{name}");
        let client = Client::new(Wire::new(&world, &dead, &user, &["system:nodes", "system:masters"]), "kubelet");
        let (node, awake) = (process.node.clone(), process.awake.subscribe());
        let task = base::tasks::spawn("kubelet", async move { node.run(client, clock, awake).await });
        process.kubelet = Some(Process { dead, tasks: vec![task], _leading: watch::Sender::new(true) });
    }

    /// The kubelet of node `i` is gone; its containers run on.
    pub fn crash_kubelet(&mut self, i: usize) {
        if let Some(process) = self.nodes.get_mut(i)
            && process.kubelet.take().is_some()
        {
            let name = process.node.name();
            self.world.note(|| format!("kubelet {name} crashes"));
        }
    }

    /// Node `i` loses everything and its kubelet starts anew.
    pub fn reboot_node(&mut self, i: usize) {
        self.crash_kubelet(i);
        if let Some(process) = self.nodes.get(i) {
            let name = process.node.name();
            self.world.note(|| format!("node {name} reboots"));
            process.node.reboot();
        }
        self.start_kubelet(i);
    }

    /// Lets the kubelet of node `i` sleep or wake.
    pub fn set_awake(&self, i: usize, awake: bool) {
        if let Some(process) = self.nodes.get(i) {
            let name = process.node.name();
            self.world.note(|| format!("kubelet {name} {}", if awake { "wakes" } else { "sleeps" }));
            // Nobody may be listening; the value counts.
            process.awake.send_replace(awake);
        }
    }

    /// Everything that is down starts; sleepers wake; containers behave.
    pub async fn mend(&mut self, habits: Habits) -> Result<(), String> {
        if !self.has_api() {
            self.start_api().await?;
        }
        if self.controllers.is_none() {
            self.start_controllers();
        }
        if self.scheduler.is_none() {
            self.start_scheduler();
        }
        for i in 0..self.nodes.len() {
            self.nodes[i].node.set_habits(habits);
            self.set_awake(i, true);
            if self.nodes[i].kubelet.is_none() {
                self.start_kubelet(i);
            }
        }
        Ok(())
    }
}
