//! The node half, assembled: network, Service proxy, DNS, engine, images, agent and the node's API.

use crate::commands::CommandError;
use crate::config::{Config, NODE_PREFIX};
use crate::images;
use crate::traces;
use agent::adapters::{
    ApiCluster, ClusterOptions, CriRuntime, Endpoints, NodeMounts, NodePodNetwork, RuntimeEngine, StoreImages,
};
use agent::credential_providers::CredentialProviders;
use agent::engine::{Handlers, RuntimeInfo};
use agent::eviction::Pressure;
use agent::evictor::Evictor;
use agent::managers::Managers;
use agent::node::{Machine, NodeKeeper, node_status};
use agent::plugins::csi::{self, CsiPlugins};
use agent::plugins::dra::{self, DraPlugins};
use agent::plugins::{Handlers as PluginHandlers, PluginHandler, Registrar};
use agent::server::{AgentNumbers, AgentPods, ClientAuth, NodeApi, NodeProcess, Tls};
use agent::stats::Collector;
use agent::{Agent, AgentHandle, Parts};
use api::k8s::api::core::v1::{NodeStatus, ObjectReference};
use api::prelude::{EndpointSlice, Node as ApiNode, Service};
use base::{Clock, Random};
use client::{Cache, Client, EventKind, ListParams, Recorder};
use ipnet::IpNet;
use jiff::Timestamp;
use machinery::zpages::Process;
use net::dns::{DnsConfig, DnsServer};
use net::overlay::{Overlay, Underlay};
use net::pod::PodNetwork;
use net::service::{HealthServer, PROXY_HEALTH_PORT, ServiceName, ServiceProxy};
use net::{Change, NetConfig};
use runtime::Engine;
use runtime::selinux::Selinux;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The kubelet's default (`maxPods`).
const MAX_PODS: u32 = 110;

/// The cgroups that we make, below every hierarchy's root.
pub(crate) fn cgroups(config: &Config) -> [String; 2] {
    ["kubepods", "dhow"].map(|name| format!("{}/{name}", config.cgroup_root))
}

/// The node's place in the cluster.
pub(crate) struct Seat {
    /// Acts as this node.
    pub(crate) client: Client,
    /// `https://host:port`
    pub(crate) server_url: String,
    /// By which others reach the node.
    pub(crate) node_ip: IpAddr,
    /// Addresses for the node's pods.
    pub(crate) pod_cidrs: Vec<IpNet>,
    /// Whether the server may be away while we start.
    pub(crate) remembers: bool,
    /// For the node's API, as soon as there is a certificate; `None` if we are stopped before.
    pub(crate) tls: Pin<Box<dyn Future<Output = Option<Arc<Tls>>> + Send>>,
}

/// A running node half.
pub(crate) struct Node {
    name: String,
    nodes: Cache<ApiNode>,
    /// For `dhow image`.
    pub(crate) images: image::ImageStore,
    /// For `dhow status`.
    pub(crate) status: Arc<dyn Fn() -> Value + Send + Sync>,
    tasks: Vec<JoinHandle<()>>,
    shutdown: CancellationToken,
}

/// The part of the pods' addresses that the cluster's first node has: the first /24.
pub(crate) fn first_pod_cidr(config: &Config) -> IpNet {
    config.cluster_cidr.subnets(NODE_PREFIX).ok().and_then(|mut s| s.next()).unwrap_or(config.cluster_cidr)
}

/// The network as `net` wants it.
pub(crate) fn net_config(config: &Config, pod_cidrs: &[IpNet]) -> NetConfig {
    NetConfig {
        node_name: config.node_name.clone(),
        bridge: config.bridge.clone(),
        pod_cidrs: pod_cidrs.to_vec(),
        cluster_cidrs: vec![config.cluster_cidr],
        service_cidrs: vec![config.service_cidr],
        dns_ips: vec![config.cluster_dns],
        state_dir: config.data_dir.join("net"),
        ..NetConfig::default()
    }
}

/// The engine's place.
pub(crate) fn engine_config(config: &Config) -> runtime::Config {
    runtime::Config {
        run_dir: config.run_dir.join("runtime"),
        state_dir: config.data_dir.join("runtime"),
        exe: "/proc/self/exe".into(),
        // Where the zygote and the supervisors live.
        supervisor_cgroup: Some(format!("{}/dhow/supervisors", config.cgroup_root)),
        patience: runtime::Config::PATIENCE,
    }
}

/// Feeds every change of a cache to something of `net`.
fn follow<K: api::Object>(cache: &Cache<K>, apply: impl Fn(Change<'_, K>) + Send + Sync + 'static) {
    let told = cache.on_change(move |change| {
        if let Some(change) = Change::new(change.old.as_deref(), change.new.as_deref()) {
            apply(change);
        }
    });
    told.for_good();
}

/// The container runtime that the configuration names.
pub(crate) fn foreign_runtime(config: &Config) -> Option<Endpoints> {
    config.foreign_runtime.as_ref().map(|(runtime, images)| Endpoints {
        runtime: runtime.clone(),
        images: images.clone(),
        cgroup_root: config.cgroup_root.clone(),
        sub_paths: config.data_dir.join("agent/sub-paths"),
    })
}

/// Starts the node; it registers itself and becomes Ready in its own time.
pub(crate) async fn start(
    seat: Seat,
    config: &Config,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    shutdown: CancellationToken,
) -> Result<Node, CommandError> {
    let Seat { client, server_url, node_ip, pod_cidrs, remembers, tls } = seat;
    let mtu = config.overlay.pod_mtu(&Underlay::read(node_ip)?);
    let net_config = NetConfig { mtu, ..net_config(config, &pod_cidrs) };
    let pod_network = Arc::new(PodNetwork::new(net_config.clone(), random.clone())?);
    pod_network.setup()?;
    let (services, slices) = (client.cache::<Service>(), client.cache::<EndpointSlice>());
    let nodes = client.cache_of::<ApiNode>(ListParams::all());

    let proxy = Arc::new(ServiceProxy::new(net_config.clone(), clock.clone()));
    let overlay = Arc::new(Overlay::new(net_config, config.overlay, node_ip));
    let dns = Arc::new(DnsServer::new(dns_config(config), random.clone()));
    let sockets = dns.bind().await?;
    feed(&services, &slices, &nodes, &proxy, &dns);
    let o = overlay.clone();
    follow(&nodes, move |change| o.apply(change));
    services.synced().await;
    slices.synced().await;
    nodes.synced().await;
    let mut tasks = vec![
        base::tasks::spawn("service-proxy", proxy.clone().run(shutdown.clone())),
        base::tasks::spawn("overlay", overlay.run(shutdown.clone())),
        base::tasks::spawn("dns", dns.run(sockets, shutdown.clone())),
    ];
    let health = health_server(&client, config, proxy.clone(), clock.clone());
    tasks.push(base::tasks::spawn("service-health", health.clone().services(shutdown.clone())));
    tasks.push(base::tasks::spawn("proxy-health", health.node(PROXY_HEALTH_PORT, shutdown.clone())));

    let open = config.clone();
    let store = tokio::task::spawn_blocking(move || images::open(&open.data_dir, &open.registries)).await??;
    let recorder = Recorder::new(&client, "kubelet", &config.node_name, clock.clone());
    let options = ClusterOptions {
        client: client.clone(),
        services,
        nodes: nodes.clone(),
        recorder,
        node_name: config.node_name.clone(),
    };
    let (cluster, feed) = ApiCluster::start(options).await;
    let Runs { engine, images, info } =
        runs(config, &store, pod_network.clone(), clock.clone(), random.clone()).await?;
    let parts = Parts {
        engine,
        mounts: Arc::new(NodeMounts),
        images,
        network: Arc::new(NodePodNetwork::new(pod_network, proxy)),
        cluster,
        clock: clock.clone(),
        random: random.clone(),
        memory: total_memory()?,
        managers: Managers::load(&config.managers, |all| config.eviction.memory_kept_free(all), &config.data_dir)?,
        credential_providers: match &config.credential_providers {
            Some((file, programs)) => CredentialProviders::load(file, programs.clone())?,
            None => CredentialProviders::default(),
        },
    };
    let agent_config = agent::Config { remembers, runtime: info, ..agent_config(config, node_ip, &pod_cidrs) };
    let local_volumes = agent::volumes::local::root(&agent_config.data_dir);
    let agent = Agent::new(agent_config, parts);
    let handle = agent.handle();
    let context = agent.context();
    let keeper = NodeKeeper::new(context.clone(), &client);
    tasks.push(base::tasks::spawn("agent", agent.run(feed, shutdown.clone())));
    tasks.push(base::tasks::spawn("node", keeper.run(shutdown.clone())));
    let tidy = agent::volumes::local::tidy(local_volumes, client.clone(), shutdown.clone());
    tasks.push(base::tasks::spawn("local-volumes", tidy));
    traces::make_kubelet_dir(config)?;
    let handlers = plugin_handlers(&context, &client);
    let registrar = Registrar::new(config.kubelet_dir.join("plugins_registry"), handlers);
    tasks.push(base::tasks::spawn("plugins", registrar.run(shutdown.clone())));
    let evictor = Evictor::new(handle.clone(), context.clone());
    tasks.push(base::tasks::spawn("evictor", evictor.run(shutdown.clone())));
    tasks.push(base::tasks::spawn(
        "cpus",
        agent::managers::cpus::run(handle.clone(), context.clone(), shutdown.clone()),
    ));
    tasks.push(base::tasks::spawn("qos", agent::qos::run(handle.clone(), context.clone(), shutdown.clone())));
    tasks.push(base::tasks::spawn("system-oom", agent::oom::watch(context.clone(), shutdown.clone())));
    let machine_shutdown = agent::shutdown::run(handle.clone(), context.clone(), shutdown.clone());
    tasks.push(base::tasks::spawn("machine-shutdown", machine_shutdown));
    tasks.push(base::tasks::spawn("device-plugins", context.devices.clone().serve(shutdown.clone())));
    let pod_resources = agent::devices::pod_resources::serve(handle.clone(), context.clone(), shutdown.clone());
    tasks.push(base::tasks::spawn("pod-resources", pod_resources));
    let listener = TcpListener::bind((IpAddr::from([0, 0, 0, 0]), config.agent_port)).await.map_err(|e| {
        format!(
            "failed to listen on port {} for the node's API; choose another with --agent-port: {e}",
            config.agent_port
        )
    })?;
    let started = clock.now();
    let node_api = NodeApi {
        node_name: config.node_name.as_str().into(),
        pods: Arc::new(AgentPods::new(handle.clone())),
        numbers: Arc::new(AgentNumbers::new(handle.clone(), Collector::new(handle.clone(), context, started))),
        auth: Arc::new(ClientAuth::new(client.clone())),
        process: Arc::new(node_process(config, started)),
        clock,
        random,
    };
    let stop = shutdown.clone();
    tasks.push(base::tasks::spawn("node-api", async move {
        if let Some(tls) = tls.await {
            agent::server::serve(node_api, listener, tls, stop).await;
        }
    }));
    let status = status_of(config, server_url, &handle, &store, nodes.clone());
    Ok(Node { name: config.node_name.clone(), nodes, images: store, status, tasks, shutdown })
}

/// What runs the pods.
struct Runs {
    engine: Arc<dyn agent::engine::Engine>,
    images: Arc<dyn agent::images::Images>,
    info: RuntimeInfo,
}

/// Our engine, or the runtime that the configuration names.
async fn runs(
    config: &Config,
    store: &image::ImageStore,
    network: Arc<PodNetwork>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
) -> Result<Runs, CommandError> {
    if let Some(at) = foreign_runtime(config) {
        let (engine, images, info) = CriRuntime::connect(at, clock).await?;
        return Ok(Runs { engine: Arc::new(engine), images: Arc::new(images), info });
    }
    let (engine, events) = Engine::start(engine_config(config))?;
    let networks = network.prepare(engine.networks_in_advance(), Engine::SPARES);
    base::tasks::detach("networks-in-advance", networks);
    let selinux = Selinux::of_machine(random);
    let mut engine = RuntimeEngine::new(engine, events).labelling(selinux);
    if !config.cgroup_root.is_empty() {
        engine = engine.below_cgroup(&config.cgroup_root);
    }
    let images = StoreImages::new(store.clone(), config.data_dir.join("images"));
    Ok(Runs { engine: Arc::new(engine), images: Arc::new(images), info: own_engine() })
}

/// What is done with plugins of the node, by their type.
fn plugin_handlers(context: &Arc<agent::Context>, client: &Client) -> PluginHandlers {
    let csi: Arc<dyn PluginHandler> = Arc::new(CsiPlugins::new(context.clone(), client));
    PluginHandlers::from([(csi::KIND, csi), (dra::KIND, Arc::new(DraPlugins::start(context.clone(), client)))])
}

fn feed(
    services: &Cache<Service>,
    slices: &Cache<EndpointSlice>,
    nodes: &Cache<ApiNode>,
    proxy: &Arc<ServiceProxy>,
    dns: &Arc<DnsServer>,
) {
    let (p, d) = (proxy.clone(), dns.clone());
    follow(services, move |change| p.apply(change));
    follow(services, move |change| d.apply(change));
    let (p, d) = (proxy.clone(), dns.clone());
    follow(slices, move |change| p.apply(change));
    follow(slices, move |change| d.apply(change));
    let p = proxy.clone();
    follow(nodes, move |change| p.apply(change));
}

/// Answers load balancers, and tells of a Service's port that it cannot listen on as kube-proxy does.
fn health_server(
    client: &Client,
    config: &Config,
    proxy: Arc<ServiceProxy>,
    clock: Arc<dyn Clock>,
) -> Arc<HealthServer> {
    let recorder = Recorder::new(client, "kube-proxy", &config.node_name, clock.clone());
    let node = config.node_name.clone();
    let tell = move |service: &ServiceName, port: u16, error: &std::io::Error| {
        let about = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Service".into()),
            namespace: Some(service.namespace.clone()),
            name: Some(service.name.clone()),
            ..ObjectReference::default()
        };
        let service = service.to_string();
        let message = format!("node {node} failed to start healthcheck {service:?} on port {port}: {error}");
        recorder.record_ref(about, EventKind::Warning, "FailedToStartServiceHealthcheck", &message);
    };
    HealthServer::new(proxy, clock, Box::new(tell))
}

fn dns_config(config: &Config) -> DnsConfig {
    // Without a resolver of the machine, only the cluster's own names are answered.
    let resolv = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    DnsConfig {
        zone: config.cluster_domain.clone(),
        listen: vec![config.cluster_dns],
        upstreams: net::dns::parse_resolv_conf(&resolv, &[config.cluster_dns]),
        networks: vec![config.cluster_cidr, config.service_cidr],
        ..DnsConfig::default()
    }
}

/// The Node as a node registers itself before anything of it runs: known by its addresses, and not ready.
pub(crate) fn new_node(
    config: &Config,
    node_ip: IpAddr,
    pod_cidrs: &[IpNet],
    now: jiff::Timestamp,
) -> std::io::Result<ApiNode> {
    let config = agent_config(config, node_ip, pod_cidrs);
    let machine = Machine::read(std::path::Path::new("/"))?;
    let status = node_status(&config, &machine, Pressure::default(), &[], &NodeStatus::default(), now);
    Ok(agent::node::new_node(&config, NodeStatus { conditions: None, ..status }))
}

fn agent_config(config: &Config, node_ip: IpAddr, pod_cidrs: &[IpNet]) -> agent::Config {
    agent::Config {
        node_name: config.node_name.clone(),
        node_ips: vec![node_ip],
        hostname: config.node_name.clone(),
        data_dir: config.data_dir.join("agent"),
        run_dir: config.run_dir.join("agent"),
        kubelet_dir: config.kubelet_dir.clone(),
        remembers: false,
        log_dir: config.data_dir.join("log/pods"),
        static_pod_dir: config.data_dir.join("manifests"),
        dns: agent::pod::spec::dns::ClusterDns {
            servers: vec![config.cluster_dns],
            domain: config.cluster_domain.clone(),
        },
        resolv_conf: "/etc/resolv.conf".into(),
        port: config.agent_port,
        max_pods: MAX_PODS,
        pod_cidrs: pod_cidrs.to_vec(),
        eviction: config.eviction.clone(),
        managers: config.managers.clone(),
        swap: config.swap,
        shutdown: config.shutdown.clone(),
        labels: BTreeMap::new(),
        runtime: own_engine(),
    }
}

/// What the node's API tells of this process.
fn node_process(config: &Config, started: Timestamp) -> NodeProcess {
    let version = agent::node::KUBELET_VERSION.trim_start_matches('v');
    let process = Process {
        component: "kubelet",
        started,
        binary_version: version.to_owned(),
        emulation_version: version.rsplit_once('.').map_or(version, |(minor, _)| minor).to_owned(),
        go_version: "none".into(),
    };
    NodeProcess::new(process, config.flags.clone(), crate::logging::check)
}

fn own_engine() -> RuntimeInfo {
    RuntimeInfo { name: "dhow".into(), version: env!("CARGO_PKG_VERSION").into(), handlers: Handlers::Own }
}

fn total_memory() -> Result<i64, CommandError> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let kib = text.lines().find_map(|l| l.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse::<i64>().ok());
    kib.map(|k| k * 1024).ok_or_else(|| "/proc/meminfo does not tell the machine's memory".into())
}

/// What `dhow status` shows.
fn status_of(
    config: &Config,
    server: String,
    handle: &AgentHandle,
    store: &image::ImageStore,
    nodes: Cache<ApiNode>,
) -> Arc<dyn Fn() -> serde_json::Value + Send + Sync> {
    let (name, handle, store) = (config.node_name.clone(), handle.clone(), store.clone());
    Arc::new(move || {
        let node = nodes.get("", &name);
        let ready = node.as_deref().is_some_and(is_ready);
        json!({
            "server": server,
            "version": "1.36",
            "node": name,
            "nodeState": if ready { "Ready" } else { "NotReady" },
            "pods": handle.pods().len(),
            "images": store.list().len(),
            "residentMib": resident_mib(),
        })
    })
}

/// What `dhow status` shows where no node runs.
pub(crate) fn status_without_node(server: &str) -> Value {
    json!({"server": server, "version": "1.36", "residentMib": resident_mib()})
}

fn resident_mib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kib: u64 = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?.split_whitespace().next()?.parse().ok()?;
    Some(kib / 1024)
}

fn is_ready(node: &ApiNode) -> bool {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
}

impl Node {
    /// Waits until the Node object says Ready.
    pub(crate) async fn ready(&self) {
        let mut moves = self.nodes.revisions();
        while !self.nodes.get("", &self.name).as_deref().is_some_and(is_ready) {
            if moves.changed().await.is_err() {
                return;
            }
        }
    }

    /// What the node says it has too little of, in the node's words: it takes no pods then.
    pub(crate) fn pressures(&self) -> Vec<String> {
        let node = self.nodes.get("", &self.name);
        let conditions = node.iter().flat_map(|n| n.status.iter()).flat_map(|s| s.conditions.iter().flatten());
        let bad = conditions.filter(|c| c.type_.ends_with("Pressure") && c.status == "True");
        bad.map(|c| c.message.clone().unwrap_or_else(|| c.type_.clone())).collect()
    }

    /// Ends the agent; containers go on.
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        for task in self.tasks {
            if let Err(error) = task.await {
                tracing::error!(%error, "a task failed");
            }
        }
    }
}
