//! The Node object and its Lease: registered once, renewed every 10 s, its status written when something changed and at
//! least every 5 minutes (`pkg/kubelet/kubelet_node_status.go`, `nodestatus/setters.go`, `nodelease`).
//!
//! [`node_status`] is pure: the machine's facts and the old status become the new one. Differs: the facts are read with
//! the lease, every 10 s, instead of by cAdvisor.

use crate::cluster::ClusterEvent;
use crate::context::{Config, Context};
use crate::engine::{Handlers, RuntimeInfo};
use crate::eviction::{self, Policy, Pressure, Thresholds};
use crate::images::Image;
use crate::network::NoNetwork;
use crate::plugins::csi::NodeBook;
use crate::pod::spec::dns::{self, Resolver};
use crate::volumes::local;
use api::k8s::api::coordination::v1::{Lease, LeaseSpec};
use api::k8s::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeFeatures,
    NodeRuntimeHandler, NodeRuntimeHandlerFeatures, NodeSpec, NodeStatus, NodeSwapStatus, NodeSystemInfo,
};
use api::k8s::apimachinery::pkg::api::resource::Quantity;
use api::k8s::apimachinery::pkg::apis::meta::v1::MicroTime;
use api::meta::MetaExt;
use api::{Codec, ObjectMeta, OwnerReference, Time};
use client::{Client, ClientError, Patch};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// `nodeLeaseDurationSeconds` of the kubelet; renewed at a quarter of it.
const LEASE_SECONDS: i32 = 40;
const LEASE_RENEW: Duration = Duration::from_secs(10);
const LEASE_NAMESPACE: &str = "kube-node-lease";
/// `nodeStatusReportFrequency`.
const STATUS_EVERY: SignedDuration = SignedDuration::from_secs(300);
/// `nodeStatusMaxImages`.
const IMAGES_MAX: usize = 50;
/// What we are, to clients that look at versions.
pub const KUBELET_VERSION: &str = "v1.36.2";

/// What this node can do that not every node can (`DiscoverNodeFeatures` of
/// `staging/src/k8s.io/component-helpers/nodedeclaredfeatures`; `ExtendWebSocketsToKubelet`: its API server may pass on the
/// WebSockets of exec, attach and port-forward).
pub const DECLARED_FEATURES: [&str; 4] = [
    "ExtendWebSocketsToKubelet",
    "InPlacePodLevelResourcesVerticalScaling",
    "InPlacePodVerticalScalingInitContainers",
    "RestartAllContainersOnContainerExits",
];

/// Reason of an event about something that the kernel lacks, without which pods run, but not as they should.
const MISSING_FEATURE: &str = "MissingKernelFeature";

/// What the machine is and has left.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machine {
    /// Processors that are on line.
    pub cpus: u64,
    /// Bytes.
    pub memory: u64,
    /// Bytes that programs could have.
    pub memory_available: u64,
    /// Bytes that nothing uses.
    pub memory_free: u64,
    /// Tasks: how many may be and are.
    pub tasks: (u64, u64),
    /// Bytes of the file system with images and volumes.
    pub disk: u64,
    /// Of these, free.
    pub disk_available: u64,
    /// Files of that file system.
    pub inodes: u64,
    /// Of these, free.
    pub inodes_free: u64,
    /// `uname -r`
    pub kernel: String,
    /// Bytes of swap.
    pub swap: i64,
    /// Of these, free.
    pub swap_free: i64,
    /// Changes with every boot.
    pub boot_id: String,
    /// `/etc/machine-id`
    pub machine_id: String,
    /// Of the board.
    pub system_uuid: String,
    /// `PRETTY_NAME` of the operating system.
    pub os_image: String,
    /// Pods of our engine can have users of their own.
    pub user_namespaces: bool,
    /// Of each resource that plugins have: how many devices, and how many healthy ones. Not read with the rest.
    pub devices: BTreeMap<String, (usize, usize)>,
    /// Why the node is not ready. Not read with the rest.
    pub not_ready: Vec<String>,
    /// Why another pod would get no network. Not read with the rest.
    pub no_network: Option<NoNetwork>,
}

/// Names of the runtime in RuntimeClasses: there is one, and it is the default.
pub const HANDLERS: [&str; 2] = ["", "dhow"];

/// Whether pods of a runtime class can have users of their own; ours needs something of the file system that holds `disk`.
pub fn has_user_namespaces(runtime: &RuntimeInfo, class: &str, disk: &Path) -> bool {
    match &runtime.handlers {
        Handlers::Own => runtime::can_map_users(disk),
        Handlers::Foreign(handlers) => handlers.iter().any(|h| h.name == class && h.user_namespaces),
    }
}

impl Machine {
    /// Reads it. `disk` is a directory on the file system that counts.
    pub fn read(disk: &Path) -> io::Result<Machine> {
        let text = |path: &str| std::fs::read_to_string(path).map(|t| t.trim().to_owned()).unwrap_or_default();
        let meminfo = std::fs::read_to_string("/proc/meminfo")?;
        let kib = |key: &str| {
            let line = meminfo.lines().find_map(|l| l.strip_prefix(key));
            line.and_then(|l| l.trim_start_matches(':').split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0)
                * 1024
        };
        let space = rustix::fs::statvfs(disk)?;
        let machine_id = text("/etc/machine-id");
        let uuid = text("/sys/class/dmi/id/product_uuid");
        Ok(Machine {
            cpus: count_cpus(&text("/sys/devices/system/cpu/online")),
            memory: kib("MemTotal"),
            memory_available: kib("MemAvailable"),
            memory_free: kib("MemFree"),
            tasks: crate::stats::tasks(),
            disk: space.f_blocks.saturating_mul(space.f_frsize),
            disk_available: space.f_bavail.saturating_mul(space.f_frsize),
            inodes: space.f_files,
            inodes_free: space.f_ffree,
            kernel: text("/proc/sys/kernel/osrelease"),
            swap: crate::swap::total(&meminfo),
            swap_free: i64::try_from(kib("SwapFree")).unwrap_or(0),
            boot_id: text("/proc/sys/kernel/random/boot_id"),
            system_uuid: if uuid.is_empty() { machine_id.clone() } else { uuid },
            machine_id,
            os_image: os_name(&text("/etc/os-release")),
            user_namespaces: runtime::can_map_users(disk),
            devices: BTreeMap::new(),
            not_ready: Vec::new(),
            no_network: None,
        })
    }
}

/// By the file system that is mounted there (`IsCgroup2UnifiedMode`).
pub fn cgroup_version() -> u8 {
    const CGROUP2: u64 = 0x6367_7270;
    let unified = rustix::fs::statfs("/sys/fs/cgroup").is_ok_and(|fs| fs.f_type.cast_unsigned() == CGROUP2);
    if unified { 2 } else { 1 }
}

/// What administrators should know of the machine at the agent's start, as reasons and messages of events; pods run nevertheless
/// (`cgroupVersionCheck`, `NewContainerManager` in `cm/container_manager_linux.go`, `CheckLimitsForResolvConf`). `swap` is in bytes.
fn cautions(
    config: &Config,
    cgroup_version: u8,
    swap: i64,
    resolv_conf: io::Result<String>,
) -> Vec<(&'static str, String)> {
    const RESOLV_CONF: &str = "CheckLimitsForResolvConf";
    let mut out = Vec::new();
    if cgroup_version == 1 {
        let text = "this machine has cgroup v1, which Kubernetes gives up: limits of swap, pressure and some numbers need cgroup v2";
        out.push(("CgroupV1", text.to_owned()));
    }
    if swap > 0 {
        // Differs: upstream tells only of kernels without the option `noswap`, which the tmpfs below /run has not.
        let text = "swap is on: Secrets, tokens and other files that pods have from the API may be written to it";
        out.push(("PossibleMemoryBackedVolumesOnDisk", text.to_owned()));
    }
    match resolv_conf {
        Ok(text) => {
            let excess = dns::excess(&Resolver::parse(&text), &config.resolv_conf, &config.dns);
            out.extend(excess.map(|text| (RESOLV_CONF, text)));
        }
        Err(error) => out.push((RESOLV_CONF, format!("open {}: {error}", config.resolv_conf.display()))),
    }
    out
}

/// `0-3,8` → 5.
fn count_cpus(online: &str) -> u64 {
    let range = |part: &str| -> Option<u64> {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        Some(to.parse::<u64>().ok()?.checked_sub(from.parse().ok()?)? + 1)
    };
    online.trim().split(',').filter_map(range).sum::<u64>().max(1)
}

fn os_name(os_release: &str) -> String {
    let line = os_release.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="));
    line.map_or_else(|| "Linux".to_owned(), |name| name.trim_matches('"').to_owned())
}

/// Go's names of processors.
fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

/// The Node as it is registered.
pub fn new_node(config: &Config, status: NodeStatus) -> Node {
    let arch = go_arch();
    let mut labels: BTreeMap<String, String> = [
        ("beta.kubernetes.io/arch", arch),
        ("beta.kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", arch),
        ("kubernetes.io/hostname", config.node_name.as_str()),
        ("kubernetes.io/os", "linux"),
    ]
    .map(|(k, v)| (k.to_owned(), v.to_owned()))
    .into();
    labels.extend(config.labels.clone());
    let cidrs: Vec<String> = config.pod_cidrs.iter().map(ToString::to_string).collect();
    Node {
        metadata: ObjectMeta {
            name: Some(config.node_name.clone()),
            labels: Some(labels),
            annotations: Some(
                [
                    ("volumes.kubernetes.io/controller-managed-attach-detach".to_owned(), "true".to_owned()),
                    (local::DIRECTORY.to_owned(), local::root(&config.data_dir).display().to_string()),
                ]
                .into(),
            ),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec {
            pod_cidr: cidrs.first().cloned(),
            pod_cidrs: (!cidrs.is_empty()).then_some(cidrs),
            ..NodeSpec::default()
        }),
        status: Some(status),
    }
}

/// `status` from the machine's facts; `held`: pressure that is told of for a while after it ended. What others wrote into `old` stays.
pub fn node_status(
    config: &Config,
    machine: &Machine,
    held: Pressure,
    images: &[Image],
    old: &NodeStatus,
    now: Timestamp,
) -> NodeStatus {
    let mut capacity = capacity(config, machine);
    let mut allocatable = allocatable(&config.eviction.hard, machine, &capacity);
    let promised = machine.cpus.saturating_sub(config.managers.reserved_cpus.0.len() as u64);
    allocatable.insert("cpu".into(), Quantity(promised.to_string()));
    for (resource, (all, healthy)) in &machine.devices {
        capacity.insert(resource.clone(), Quantity(all.to_string()));
        allocatable.insert(resource.clone(), Quantity(healthy.to_string()));
    }
    NodeStatus {
        addresses: Some(addresses(config)),
        allocatable: Some(allocatable),
        capacity: Some(capacity),
        conditions: Some(conditions(&config.eviction, machine, held, old, now)),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(config.port) }),
        }),
        images: Some(image_list(images)),
        node_info: Some(node_info(config, machine)),
        declared_features: Some(DECLARED_FEATURES.iter().map(|name| (*name).to_owned()).collect()),
        features: Some(NodeFeatures { supplemental_groups_policy: Some(config.runtime.handlers == Handlers::Own) }),
        runtime_handlers: Some(handlers(&config.runtime, machine)),
        ..old.clone()
    }
}

fn handlers(runtime: &RuntimeInfo, machine: &Machine) -> Vec<NodeRuntimeHandler> {
    let handler = |name: &str, recursive_read_only: bool, user_namespaces: bool| NodeRuntimeHandler {
        name: Some(name.to_owned()),
        features: Some(NodeRuntimeHandlerFeatures {
            recursive_read_only_mounts: Some(recursive_read_only),
            user_namespaces: Some(user_namespaces),
        }),
    };
    match &runtime.handlers {
        Handlers::Own => HANDLERS.map(|name| handler(name, true, machine.user_namespaces)).into(),
        Handlers::Foreign(all) => {
            all.iter().map(|h| handler(&h.name, h.recursive_read_only, h.user_namespaces)).collect()
        }
    }
}

fn addresses(config: &Config) -> Vec<NodeAddress> {
    let address = |type_: &str, address: String| NodeAddress { type_: type_.to_owned(), address };
    let mut out: Vec<NodeAddress> = config.node_ips.iter().map(|ip| address("InternalIP", ip.to_string())).collect();
    out.push(address("Hostname", config.hostname.clone()));
    out
}

fn kibibytes(bytes: u64) -> Quantity {
    Quantity(format!("{}Ki", bytes / 1024))
}

fn capacity(config: &Config, machine: &Machine) -> BTreeMap<String, Quantity> {
    [
        ("cpu", Quantity(machine.cpus.to_string())),
        ("ephemeral-storage", kibibytes(machine.disk)),
        ("hugepages-1Gi", Quantity("0".into())),
        ("hugepages-2Mi", Quantity("0".into())),
        ("memory", kibibytes(machine.memory)),
        ("pods", Quantity(config.max_pods.to_string())),
    ]
    .map(|(k, v)| (k.to_owned(), v))
    .into()
}

/// Capacity less what eviction keeps free.
fn allocatable(
    eviction: &Thresholds,
    machine: &Machine,
    capacity: &BTreeMap<String, Quantity>,
) -> BTreeMap<String, Quantity> {
    let mut out = capacity.clone();
    let left =
        |threshold: Option<eviction::Threshold>, all: u64| all.saturating_sub(threshold.map_or(0, |t| t.of(all)));
    out.insert("memory".into(), kibibytes(left(eviction.memory, machine.memory)));
    out.insert("ephemeral-storage".into(), Quantity(left(eviction.disk, machine.disk).to_string()));
    out
}

fn node_info(config: &Config, machine: &Machine) -> NodeSystemInfo {
    NodeSystemInfo {
        architecture: go_arch().to_owned(),
        boot_id: machine.boot_id.clone(),
        container_runtime_version: format!("{}://{}", config.runtime.name, config.runtime.version),
        kernel_version: machine.kernel.clone(),
        kube_proxy_version: String::new(),
        kubelet_version: KUBELET_VERSION.to_owned(),
        machine_id: machine.machine_id.clone(),
        operating_system: "linux".into(),
        os_image: machine.os_image.clone(),
        swap: (machine.swap > 0).then_some(NodeSwapStatus { capacity: Some(machine.swap) }),
        system_uuid: machine.system_uuid.clone(),
    }
}

fn image_list(images: &[Image]) -> Vec<ContainerImage> {
    let mut sorted: Vec<&Image> = images.iter().collect();
    sorted.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.id.cmp(&b.id)));
    let one = |image: &&Image| ContainerImage {
        names: Some(image.names.iter().take(5).cloned().collect()),
        size_bytes: i64::try_from(image.size).ok(),
    };
    sorted.iter().take(IMAGES_MAX).map(one).collect()
}

struct Verdict {
    type_: &'static str,
    bad: bool,
    reason: &'static str,
    message: Cow<'static, str>,
}

fn verdicts(eviction: &Policy, machine: &Machine, held: Pressure) -> [Verdict; 4] {
    let eviction::Pressure { memory, disk, pids } = eviction::pressure(eviction, machine).or(held);
    let pick =
        |bad: bool, no: (&'static str, &'static str), yes: (&'static str, &'static str)| if bad { yes } else { no };
    let (memory_reason, memory_message) = pick(
        memory,
        ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
    );
    let (disk_reason, disk_message) = pick(
        disk,
        ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ("KubeletHasDiskPressure", "kubelet has disk pressure"),
    );
    let (pids_reason, pids_message) = pick(
        pids,
        ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
    );
    [
        Verdict { type_: "MemoryPressure", bad: memory, reason: memory_reason, message: memory_message.into() },
        Verdict { type_: "DiskPressure", bad: disk, reason: disk_reason, message: disk_message.into() },
        Verdict { type_: "PIDPressure", bad: pids, reason: pids_reason, message: pids_message.into() },
        ready(&machine.not_ready),
    ]
}

/// `ReadyCondition`
fn ready(why_not: &[String]) -> Verdict {
    let (reason, message) = match why_not {
        [] => ("KubeletReady", "kubelet is posting ready status".into()),
        [one] => ("KubeletNotReady", one.clone().into()),
        many => ("KubeletNotReady", format!("[{}]", many.join(", ")).into()),
    };
    Verdict { type_: "Ready", bad: !why_not.is_empty(), reason, message }
}

const NETWORK: &str = "NetworkUnavailable";
/// The reasons that are ours; with others the condition is somebody else's.
const NO_ADDRESS: &str = "NoFreeAddress";
const NO_RULES: &str = "NoPacketRules";
const AVAILABLE: &str = "NetworkAvailable";

/// Keeps pods away (by the taint that it leads to) that could get no address or reach no Service; those that are here go on. Differs: upstream leaves the
/// condition to the network's own programs.
fn network(machine: &Machine, before: &[NodeCondition]) -> Option<Verdict> {
    let was = before.iter().find(|c| c.type_ == NETWORK);
    let ours = was.is_some_and(|c| c.reason.as_deref().is_some_and(|r| [NO_ADDRESS, NO_RULES, AVAILABLE].contains(&r)));
    let (bad, reason, message) = match &machine.no_network {
        Some(NoNetwork::Address(why)) => (true, NO_ADDRESS, why.clone().into()),
        Some(NoNetwork::Rules(why)) => (true, NO_RULES, why.clone().into()),
        None if ours => (false, AVAILABLE, "there is a network for more pods".into()),
        None => return None,
    };
    Some(Verdict { type_: NETWORK, bad, reason, message })
}

fn conditions(
    eviction: &Policy,
    machine: &Machine,
    held: Pressure,
    old: &NodeStatus,
    now: Timestamp,
) -> Vec<NodeCondition> {
    let before = old.conditions.as_deref().unwrap_or_default();
    let now = crate::pod::status::time(now);
    let ours: Vec<NodeCondition> = verdicts(eviction, machine, held)
        .into_iter()
        .chain(network(machine, before))
        .map(|v| {
            let truth = if v.type_ == "Ready" { !v.bad } else { v.bad };
            let status = if truth { "True" } else { "False" };
            let same = before.iter().find(|c| c.type_ == v.type_ && c.status == status);
            NodeCondition {
                type_: v.type_.to_owned(),
                status: status.to_owned(),
                reason: Some(v.reason.to_owned()),
                message: Some(v.message.into_owned()),
                last_heartbeat_time: Some(now.clone()),
                last_transition_time: same.and_then(|c| c.last_transition_time.clone()).or_else(|| Some(now.clone())),
            }
        })
        .collect();
    let others = before.iter().filter(|c| !ours.iter().any(|o| o.type_ == c.type_)).cloned();
    others.chain(ours.clone()).collect()
}

/// Events that a change of conditions is worth (`recordNodeStatusEvent`), as reason.
pub fn transitions(before: &NodeStatus, after: &NodeStatus) -> Vec<&'static str> {
    let state = |s: &NodeStatus, type_: &str| {
        s.conditions.iter().flatten().find(|c| c.type_ == type_).map(|c| c.status.clone())
    };
    let names = [
        ("MemoryPressure", "NodeHasInsufficientMemory", "NodeHasSufficientMemory"),
        ("DiskPressure", "NodeHasDiskPressure", "NodeHasNoDiskPressure"),
        ("PIDPressure", "NodeHasInsufficientPID", "NodeHasSufficientPID"),
        ("Ready", "NodeReady", "NodeNotReady"),
    ];
    let event = |(type_, on, off): (&str, &'static str, &'static str)| {
        let now = state(after, type_);
        (now != state(before, type_)).then(|| if now.as_deref() == Some("True") { on } else { off })
    };
    names.into_iter().filter_map(event).collect()
}

/// What is told when the machine has started anew since the last status.
fn reboot(node: &str, before: &NodeStatus, after: &NodeStatus) -> Option<String> {
    let boot = |s: &NodeStatus| s.node_info.as_ref().map(|i| i.boot_id.clone()).unwrap_or_default();
    let (old, new) = (boot(before), boot(after));
    (!old.is_empty() && old != new).then(|| format!("Node {node} has been rebooted, boot id: {new}"))
}

/// The event that tells that the node takes no more pods (`kubectl cordon`), or does again, if that was otherwise.
fn cordon(was: bool, node: &Node) -> Option<&'static str> {
    match (was, node.spec.as_ref().and_then(|s| s.unschedulable) == Some(true)) {
        (false, true) => Some("NodeNotSchedulable"),
        (true, false) => Some("NodeSchedulable"),
        _ => None,
    }
}

/// Whether two statuses differ in more than heartbeats.
fn differs(a: &NodeStatus, b: &NodeStatus) -> bool {
    let calm = |s: &NodeStatus| {
        let mut s = s.clone();
        s.conditions.iter_mut().flatten().for_each(|c| c.last_heartbeat_time = None);
        s
    };
    calm(a) != calm(b)
}

/// Registers the node and keeps lease and status until `shutdown`.
pub struct NodeKeeper {
    context: Arc<Context>,
    client: Client,
    uid: String,
    has_csi_node: bool,
    known: NodeStatus,
    reported_at: Option<Timestamp>,
    cordoned: bool,
}

impl NodeKeeper {
    /// Touches nothing.
    pub fn new(context: Arc<Context>, client: &Client) -> Self {
        NodeKeeper {
            context,
            client: client.named("kubelet"),
            uid: String::new(),
            has_csi_node: false,
            known: NodeStatus::default(),
            reported_at: None,
            cordoned: false,
        }
    }

    /// Runs until `shutdown`. The first round registers; a round that fails is tried again at the next.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut going_down = self.context.shutdown.moves();
        self.event(false, "Starting", "Starting kubelet.");
        for lack in self.context.engine.lacks() {
            tracing::warn!("{lack}");
            self.event(true, MISSING_FEATURE, &lack);
        }
        let config = &self.context.config;
        let resolv_conf = std::fs::read_to_string(&config.resolv_conf);
        for (reason, message) in cautions(config, cgroup_version(), self.context.swap.node_swap, resolv_conf) {
            tracing::warn!("{message}");
            self.event(true, reason, &message);
        }
        let mut wait = Duration::from_millis(100);
        loop {
            match self.round().await {
                Ok(()) => wait = LEASE_RENEW,
                Err(error) => {
                    tracing::warn!(error = %base::chain(&error), "failed to report the node");
                    wait = (wait * 2).min(LEASE_RENEW);
                }
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
                // Nothing is attached before the node says that it will use it.
                () = self.context.volumes.csi().in_use_changed() => {}
                // Nor is a pod sent here when the machine is on its way down. The sender is in the context.
                _ = going_down.changed() => {}
            }
        }
    }

    fn event(&self, warning: bool, reason: &str, message: &str) {
        self.context.cluster.event(ClusterEvent { pod: None, field_path: None, warning, reason, message });
    }

    fn is_now(&self, reason: &str) {
        let name = &self.context.config.node_name;
        self.event(false, reason, &format!("Node {name} status is now: {reason}"));
    }

    /// `recordNodeSchedulableEvent`
    fn tell_of_cordon(&mut self) {
        let Some(node) = self.context.cluster.node() else { return };
        if let Some(reason) = cordon(self.cordoned, &node) {
            self.cordoned = !self.cordoned;
            self.is_now(reason);
        }
    }

    async fn round(&mut self) -> Result<(), ClientError> {
        let now = self.context.clock.now();
        self.tell_of_cordon();
        let machine = match Machine::read(&self.context.images.root()) {
            Ok(machine) => Machine {
                devices: self.context.devices.capacity(),
                not_ready: self.context.not_ready().into_iter().chain(self.context.engine.fault().await).collect(),
                no_network: self.context.network.fault(),
                ..machine
            },
            Err(error) => {
                tracing::error!(%error, "failed to read what this machine has");
                return Ok(());
            }
        };
        let images = self.context.images.list().await.unwrap_or_else(|error| {
            tracing::warn!(error = %base::chain(&error), "failed to list images for the node's status");
            Vec::new()
        });
        if self.uid.is_empty() {
            self.register(&machine, &images, now).await?;
        }
        let held = *self.context.pressure.read();
        if !self.has_csi_node {
            let book = NodeBook { client: self.client.clone(), node: self.context.config.node_name.clone() };
            match book.open(&self.uid).await {
                Ok(_) => self.has_csi_node = true,
                Err(error) => tracing::warn!(error = %base::chain(&error), "failed to make the CSINode"),
            }
        }
        let mut status = node_status(&self.context.config, &machine, held, &images, &self.known, now);
        status.volumes_in_use = Some(self.context.volumes.csi().in_use()).filter(|v| !v.is_empty());
        *self.context.allocatable.write() = status.allocatable.clone().unwrap_or_default();
        let due = self.reported_at.is_none_or(|at| now.duration_since(at) >= STATUS_EVERY);
        if due || differs(&self.known, &status) {
            self.report(status, now).await?;
        }
        self.renew_lease(now).await
    }

    async fn register(&mut self, machine: &Machine, images: &[Image], now: Timestamp) -> Result<(), ClientError> {
        let config = &self.context.config;
        let nodes = self.client.api::<Node>();
        let status = node_status(config, machine, Pressure::default(), images, &NodeStatus::default(), now);
        let wanted = new_node(config, status);
        let node = match nodes.create(&wanted).await {
            Ok(node) => node,
            Err(e) if e.is_already_exists() => {
                let labels =
                    json!({"metadata": {"labels": wanted.metadata.labels, "annotations": wanted.metadata.annotations}});
                nodes.patch("", &config.node_name, "", &Patch::Merge(labels)).await?
            }
            Err(e) => return Err(e),
        };
        self.uid = node.uid().to_owned();
        self.known = node.status.unwrap_or_default();
        Ok(())
    }

    async fn report(&mut self, status: NodeStatus, now: Timestamp) -> Result<(), ClientError> {
        let name = &self.context.config.node_name;
        let mut value = status_value(&status);
        if status.volumes_in_use.is_none() {
            value["volumesInUse"] = Value::Null;
        }
        if let Some(fields) = value.as_object_mut() {
            // The controller's.
            fields.remove("volumesAttached");
        }
        let patch = json!({"status": value});
        let written = self.client.api::<Node>().patch("", name, "status", &Patch::Merge(patch)).await;
        let node = match written {
            Ok(node) => node,
            Err(e) => {
                if e.is_not_found() {
                    // Somebody deleted the node: register anew.
                    self.uid.clear();
                    self.has_csi_node = false;
                }
                return Err(e);
            }
        };
        transitions(&self.known, &status).into_iter().for_each(|reason| self.is_now(reason));
        if let Some(message) = reboot(name, &self.known, &status) {
            self.event(true, "Rebooted", &message);
        }
        self.known = node.status.unwrap_or(status);
        self.reported_at = Some(now);
        Ok(())
    }

    async fn renew_lease(&self, now: Timestamp) -> Result<(), ClientError> {
        let name = &self.context.config.node_name;
        let leases = self.client.api::<Lease>();
        let patch = json!({"spec": {
            "holderIdentity": name,
            "leaseDurationSeconds": LEASE_SECONDS,
            "renewTime": micro_time(now),
        }});
        match leases.patch(LEASE_NAMESPACE, name, "", &Patch::Merge(patch)).await {
            Err(e) if e.is_not_found() => leases.create(&self.new_lease(now)).await.map(drop),
            other => other.map(drop),
        }
    }

    fn new_lease(&self, now: Timestamp) -> Lease {
        let name = self.context.config.node_name.clone();
        Lease {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(LEASE_NAMESPACE.into()),
                owner_references: Some(vec![OwnerReference {
                    api_version: "v1".into(),
                    kind: "Node".into(),
                    name: name.clone(),
                    uid: self.uid.clone(),
                    ..OwnerReference::default()
                }]),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(name),
                lease_duration_seconds: Some(LEASE_SECONDS),
                renew_time: Some(MicroTime(now)),
                ..LeaseSpec::default()
            }),
        }
    }
}

/// The status' JSON, by way of a Node, whose codec there is.
fn status_value(status: &NodeStatus) -> Value {
    let node = Node { status: Some(status.clone()), ..Node::default() };
    let mut value: Value = serde_json::from_slice(&node.encode()).unwrap_or_default();
    value["status"].take()
}

/// RFC 3339 with microseconds, as MicroTime is written.
fn micro_time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// A heartbeat's time in tests and elsewhere.
pub fn heartbeat(status: &NodeStatus) -> Option<&Time> {
    status.conditions.iter().flatten().find(|c| c.type_ == "Ready")?.last_heartbeat_time.as_ref()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::spec::dns::ClusterDns;
    use expect_test::expect;
    use std::net::IpAddr;

    fn config() -> Config {
        Config {
            node_name: "n1".into(),
            node_ips: vec![IpAddr::from([192, 168, 0, 1])],
            hostname: "n1.lan".into(),
            data_dir: "/d".into(),
            run_dir: "/r".into(),
            kubelet_dir: "/k".into(),
            remembers: false,
            static_pod_dir: "/none".into(),
            log_dir: "/l".into(),
            dns: ClusterDns::default(),
            resolv_conf: "/etc/resolv.conf".into(),
            port: 10250,
            max_pods: 110,
            pod_cidrs: vec!["10.42.0.0/24".parse().expect("literal")],
            eviction: Policy::default(),
            managers: Default::default(),
            swap: Default::default(),
            shutdown: Default::default(),
            labels: BTreeMap::new(),
            runtime: RuntimeInfo { name: "dhow".into(), version: "0.1.0".into(), ..RuntimeInfo::default() },
        }
    }

    fn machine() -> Machine {
        Machine {
            cpus: 2,
            memory: 8 << 30,
            memory_available: 4 << 30,
            disk: 100 << 30,
            disk_available: 50 << 30,
            inodes: 1000,
            inodes_free: 900,
            ..Machine::default()
        }
    }

    fn at(s: i64) -> Timestamp {
        Timestamp::from_second(s).expect("small")
    }

    fn shown(status: &NodeStatus) -> String {
        let mut out = String::new();
        for (name, quantity) in status.capacity.iter().flatten() {
            let allocatable =
                status.allocatable.as_ref().and_then(|a| a.get(name)).map(|q| q.0.clone()).unwrap_or_default();
            out += &format!("{name} {} {allocatable}\n", quantity.0);
        }
        for c in status.conditions.iter().flatten() {
            let since = c.last_transition_time.as_ref().map(|t| t.0.as_second()).unwrap_or_default();
            out += &format!("{}={} {} since {since}\n", c.type_, c.status, c.reason.as_deref().unwrap_or_default());
        }
        out
    }

    #[test]
    fn capacity_allocatable_and_conditions() {
        let status = node_status(&config(), &machine(), Pressure::default(), &[], &NodeStatus::default(), at(100));
        expect![[r#"
            cpu 2 2
            ephemeral-storage 104857600Ki 96636764160
            hugepages-1Gi 0 0
            hugepages-2Mi 0 0
            memory 8388608Ki 8286208Ki
            pods 110 110
            MemoryPressure=False KubeletHasSufficientMemory since 100
            DiskPressure=False KubeletHasNoDiskPressure since 100
            PIDPressure=False KubeletHasSufficientPID since 100
            Ready=True KubeletReady since 100
        "#]]
        .assert_eq(&shown(&status));
        assert_eq!(
            transitions(&NodeStatus::default(), &status),
            ["NodeHasSufficientMemory", "NodeHasNoDiskPressure", "NodeHasSufficientPID", "NodeReady"]
        );
    }

    #[test]
    fn a_machine_that_started_anew_and_a_node_that_takes_no_pods_are_told_of() {
        let with_boot = |id: &str| NodeStatus {
            node_info: Some(NodeSystemInfo { boot_id: id.into(), ..NodeSystemInfo::default() }),
            ..NodeStatus::default()
        };
        let (none, first, second) = (NodeStatus::default(), with_boot("a"), with_boot("b"));
        assert_eq!((reboot("n", &none, &first), reboot("n", &first, &first)), (None, None));
        assert_eq!(reboot("n", &first, &second).as_deref(), Some("Node n has been rebooted, boot id: b"));
        let cordoned: Node = crate::pod::fixture::object(r#"{"metadata":{},"spec":{"unschedulable":true}}"#);
        assert_eq!((cordon(false, &cordoned), cordon(true, &cordoned)), (Some("NodeNotSchedulable"), None));
        assert_eq!((cordon(true, &Node::default()), cordon(false, &Node::default())), (Some("NodeSchedulable"), None));
    }

    #[test]
    fn pressure_is_told_once_and_heartbeats_are_no_change() {
        let before = node_status(&config(), &machine(), Pressure::default(), &[], &NodeStatus::default(), at(100));
        let later = node_status(&config(), &machine(), Pressure::default(), &[], &before, at(200));
        assert!(!differs(&before, &later));
        assert_eq!(heartbeat(&later).map(|t| t.0), Some(at(200)));
        let full = Machine { disk_available: 1 << 30, memory_available: 1 << 20, ..machine() };
        let pressed = node_status(&config(), &full, Pressure::default(), &[], &later, at(300));
        assert!(differs(&later, &pressed));
        assert_eq!(transitions(&later, &pressed), ["NodeHasInsufficientMemory", "NodeHasDiskPressure"]);
        assert!(shown(&pressed).contains("Ready=True KubeletReady since 100"));
    }

    #[test]
    fn a_node_that_shuts_down_is_not_ready() {
        let before = node_status(&config(), &machine(), Pressure::default(), &[], &NodeStatus::default(), at(100));
        let going = Machine { not_ready: vec![crate::shutdown::NOT_READY.into()], ..machine() };
        let status = node_status(&config(), &going, Pressure::default(), &[], &before, at(200));
        assert!(shown(&status).contains("Ready=False KubeletNotReady since 200"), "{}", shown(&status));
        assert_eq!(transitions(&before, &status), ["NodeNotReady"]);
        let ready = status.conditions.iter().flatten().find(|c| c.type_ == "Ready");
        assert_eq!(ready.and_then(|c| c.message.as_deref()), Some("node is shutting down"));
    }

    #[test]
    fn a_node_without_a_network_for_more_pods_says_so_until_there_is_one() {
        let status = |no_network: Option<NoNetwork>, before: &NodeStatus, now| {
            let machine = Machine { no_network, ..machine() };
            node_status(&config(), &machine, Pressure::default(), &[], before, at(now))
        };
        let before = status(None, &NodeStatus::default(), 100);
        assert!(!shown(&before).contains(NETWORK));
        let full = status(Some(NoNetwork::Address("all are in use".into())), &before, 200);
        assert!(shown(&full).ends_with("NetworkUnavailable=True NoFreeAddress since 200\n"), "{}", shown(&full));
        assert!(shown(&full).contains("Ready=True"));
        let ruleless = status(Some(NoNetwork::Rules("no nftables".into())), &full, 300);
        assert!(
            shown(&ruleless).ends_with("NetworkUnavailable=True NoPacketRules since 200\n"),
            "{}",
            shown(&ruleless)
        );
        let free = status(None, &ruleless, 400);
        assert!(shown(&free).ends_with("NetworkUnavailable=False NetworkAvailable since 400\n"), "{}", shown(&free));
    }

    #[test]
    fn machines_are_read() {
        let machine = Machine::read(Path::new("/")).expect("this machine");
        assert!(machine.cpus > 0 && machine.memory > 0 && machine.disk > 0 && !machine.kernel.is_empty());
        assert_eq!(count_cpus("0-3,8"), 5);
        assert_eq!(count_cpus(""), 1);
        assert_eq!(os_name("ID=debian\nPRETTY_NAME=\"Debian 12\"\n"), "Debian 12");
        assert_eq!(micro_time(at(0)), "1970-01-01T00:00:00.000000Z");
    }

    #[test]
    fn what_is_not_as_it_should_be_is_told_at_start() {
        let check = |version, swap, resolv_conf: io::Result<String>, want: &[&str]| {
            let config = Config { dns: ClusterDns { domain: "c".into(), ..ClusterDns::default() }, ..config() };
            let found = cautions(&config, version, swap, resolv_conf);
            assert_eq!(found.iter().map(|(reason, text)| format!("{reason} {text}")).collect::<Vec<_>>(), want);
        };
        let searches =
            |count: usize, length: usize| Ok(format!("search {}\n", vec!["d".repeat(length); count].join(" ")));
        check(2, 0, searches(29, 3), &[]);
        let many = "CheckLimitsForResolvConf Resolv.conf file '/etc/resolv.conf' contains search line consisting of more than 29 domains!";
        check(2, 0, searches(30, 3), &[many]);
        let path = "CheckLimitsForResolvConf Resolv.conf file \"/etc/resolv.conf\" contains a search path which length is more than allowed 253 chars!";
        check(2, 0, searches(1, 254), &[path]);
        let line = "CheckLimitsForResolvConf Resolv.conf file '/etc/resolv.conf' contains search line which length is more than allowed 2048 chars!";
        check(2, 0, searches(20, 110), &[line]);
        let none = "CheckLimitsForResolvConf open /etc/resolv.conf: entity not found";
        check(2, 0, Err(io::ErrorKind::NotFound.into()), &[none]);
        let reasons = cautions(&config(), 1, 1 << 20, Ok(String::new())).into_iter().map(|(reason, _)| reason);
        assert_eq!(reasons.collect::<Vec<_>>(), ["CgroupV1", "PossibleMemoryBackedVolumesOnDisk"]);
    }

    #[test]
    fn registration() {
        let node = new_node(&config(), NodeStatus::default());
        assert_eq!(node.spec.and_then(|s| s.pod_cidr).as_deref(), Some("10.42.0.0/24"));
        assert_eq!(node.metadata.labels.expect("set")["kubernetes.io/hostname"], "n1");
    }
}
