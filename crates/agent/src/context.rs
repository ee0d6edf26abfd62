//! [`Context`]: what every pod worker shares. No state of pods in it.

use crate::cluster::Cluster;
use crate::counters::Counters;
use crate::credential_providers::CredentialProviders;
use crate::devices::Devices;
use crate::dra::DynamicResources;
use crate::engine::{Engine, RuntimeInfo};
use crate::eviction::Pressure;
use crate::images::Images;
use crate::managers::{self, Managers};
use crate::network::PodNetwork;
use crate::pod::allocation::Ledger;
use crate::pod::host_ports::HostPorts;
use crate::pod::spec::dns::{ClusterDns, Resolver};
use crate::pod::users::Ranges;
use crate::pull_records::PullRecords;
use crate::shutdown::{self, Shutdown};
use crate::swap::{self, Swap};
use crate::volumes::VolumeManager;
use api::k8s::apimachinery::pkg::api::resource::Quantity;
use base::{Clock, Random};
use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tokio::sync::Notify;

/// What the node is.
#[derive(Debug, Clone)]
pub struct Config {
    /// `metadata.name` of the Node.
    pub node_name: String,
    /// The node's addresses, the primary first.
    pub node_ips: Vec<IpAddr>,
    /// The node's host name, for `status.addresses` and `/etc/hosts`.
    pub hostname: String,
    /// Checkpoints, volumes, termination messages (`/var/lib/dhow/agent`).
    pub data_dir: PathBuf,
    /// On a tmpfs: files that come from the API (`/run/dhow/agent`).
    pub run_dir: PathBuf,
    /// Where plugins of the node expect the kubelet's files (`/var/lib/kubelet`).
    pub kubelet_dir: PathBuf,
    /// Tokens of pods are kept on disk, so that pods can be started while the server is away.
    pub remembers: bool,
    /// Container logs (`/var/log/pods`).
    pub log_dir: PathBuf,
    /// Manifests of static pods; need not exist.
    pub static_pod_dir: PathBuf,
    /// The cluster's DNS.
    pub dns: ClusterDns,
    /// The node's resolv.conf.
    pub resolv_conf: PathBuf,
    /// Port of the node API, for `status.daemonEndpoints`.
    pub port: u16,
    /// How many pods the node takes (`maxPods`).
    pub max_pods: u32,
    /// `spec.podCIDRs` of the Node, if this agent sets them.
    pub pod_cidrs: Vec<ipnet::IpNet>,
    /// When the node has too little left.
    pub eviction: crate::eviction::Policy,
    /// Who gets processors and memory alone.
    pub managers: managers::Settings,
    /// Who may swap.
    pub swap: swap::Behavior,
    /// How long pods have when the machine shuts down.
    pub shutdown: shutdown::Settings,
    /// Labels beyond the usual ones.
    pub labels: BTreeMap<String, String>,
    /// Who runs the pods.
    pub runtime: RuntimeInfo,
}

/// What every worker needs.
pub struct Context {
    /// What the node is.
    pub config: Config,
    /// Containers.
    pub engine: Arc<dyn Engine>,
    /// Images.
    pub images: Arc<dyn Images>,
    /// Who may use which of them.
    pub pulls: PullRecords,
    /// Pod network.
    pub network: Arc<dyn PodNetwork>,
    /// The API server.
    pub cluster: Arc<dyn Cluster>,
    /// Volumes of all pods.
    pub volumes: VolumeManager,
    /// Wall time.
    pub clock: Arc<dyn Clock>,
    /// Ids.
    pub random: Arc<dyn Random>,
    /// `status.allocatable` of the Node.
    pub allocatable: RwLock<BTreeMap<String, Quantity>>,
    /// Bytes of memory of the machine.
    pub memory: i64,
    /// Its swap, and who may use it.
    pub swap: Swap,
    /// Programs that know logins for registries.
    pub credential_providers: CredentialProviders,
    /// What the node has too little of, or had a moment ago.
    pub pressure: RwLock<Pressure>,
    /// What the pods have been granted of it.
    pub ledger: Ledger,
    /// Which of its ports they have.
    pub host_ports: HostPorts,
    /// Which of its processors and memory they have for themselves.
    pub managers: Managers,
    /// Which of its devices they have.
    pub devices: Arc<Devices>,
    /// What their claims are prepared for.
    pub dynamic: Arc<DynamicResources>,
    /// Whether the machine shuts down.
    pub shutdown: Shutdown,
    /// Pods have come or gone.
    pub pods_changed: Notify,
    /// The agent has stopped looking after pods.
    pub ended: AtomicBool,
    /// Which of its users they have.
    pub users: Ranges,
    /// What has happened, for `/metrics`.
    pub counters: Arc<Counters>,
}

impl Context {
    /// A pod whose object is gone does not count when others are admitted, though its processes may take a while to end: the scheduler
    /// has given its share away (upstream admits beside the pods of its pod manager, which are those that the server has).
    pub fn give_back_share(&self, uid: &str) {
        self.ledger.release(uid);
        self.host_ports.release(uid);
        self.pods_changed.notify_one();
    }

    /// A pod that is over needs nothing of the node any more.
    pub fn give_back(&self, uid: &str) {
        self.devices.release(uid);
        self.managers.retain(|pod| pod != uid);
        // Last: it wakes those who look at what is free.
        self.give_back_share(uid);
    }

    /// Why the node should get no pods, for its Ready condition.
    pub fn not_ready(&self) -> Vec<String> {
        self.shutdown.is_on().then(|| shutdown::NOT_READY.to_owned()).into_iter().collect()
    }

    /// Checkpoint and termination messages of a pod.
    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.config.data_dir.join("pods").join(uid)
    }

    /// Files of a pod that end with the machine.
    pub fn pod_run_dir(&self, uid: &str) -> PathBuf {
        self.config.run_dir.join("pods").join(uid)
    }

    /// `/var/log/pods/<namespace>_<name>_<uid>` (`BuildPodLogsDirectory`).
    pub fn pod_log_dir(&self, namespace: &str, name: &str, uid: &str) -> PathBuf {
        self.config.log_dir.join(format!("{namespace}_{name}_{uid}"))
    }

    /// A container run's log file.
    pub fn log_path(&self, namespace: &str, name: &str, uid: &str, container: &str, restarts: u32) -> PathBuf {
        self.pod_log_dir(namespace, name, uid).join(container).join(format!("{restarts}.log"))
    }

    /// A container run's termination message file.
    pub fn termination_path(&self, uid: &str, container: &str, restarts: u32) -> PathBuf {
        self.pod_dir(uid).join("containers").join(container).join(restarts.to_string())
    }

    /// The node's resolver; an unreadable file is an empty one, and says so in the log.
    pub fn node_resolver(&self) -> Resolver {
        match std::fs::read_to_string(&self.config.resolv_conf) {
            Ok(text) => Resolver::parse(&text),
            Err(error) => {
                tracing::warn!(path = %self.config.resolv_conf.display(), %error, "cannot read the node's resolv.conf");
                Resolver::default()
            }
        }
    }
}
