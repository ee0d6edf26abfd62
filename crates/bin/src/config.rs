//! What the user wants, from flags and a file, checked as a whole: all mistakes are reported together.
//!
//! Two steps, as ripgrep does: [`Settings`] is what was said (flags win over the file), [`Config`] what it means.

use agent::eviction::{Policy, PolicyTexts};
use agent::managers;
use agent::shutdown;
use agent::swap;
use apiserver::admission::Switches;
use clap::Args;
use ipnet::IpNet;
use net::overlay::Mode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use thiserror::Error;

/// Where our files are if nobody says otherwise.
pub(crate) const CONFIG_DIR: &str = "/etc/dhow";
/// Where our data are if nobody says otherwise.
const DATA_DIR: &str = "/var/lib/dhow";
/// Where the file is looked for if nobody says otherwise.
pub(crate) const CONFIG_FILE: &str = "/etc/dhow/config.yaml";

/// Everything that can be set. Absent = default. The file has the same names in camelCase.
#[derive(Debug, Clone, Default, Args, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Settings {
    /// Configuration file (YAML) [default: /etc/dhow/config.yaml, if it exists]
    #[arg(long, global = true, value_name = "FILE")]
    #[serde(skip)]
    pub(crate) config: Option<PathBuf>,
    /// Everything that must survive a reboot [default: /var/lib/dhow]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Sockets and state of this boot [default: /run/dhow]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) run_dir: Option<PathBuf>,
    /// Where plugins of the node, CSI drivers foremost, expect the kubelet's files [default: /var/lib/kubelet, or `kubelet` in
    /// a data directory that is elsewhere]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) kubelet_dir: Option<PathBuf>,
    /// Where the kubeconfig is written [default: /etc/dhow/kubeconfig]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Do not merge the cluster into ~/.kube/config
    #[arg(long, global = true)]
    pub(crate) no_merge_kubeconfig: bool,
    /// Address and port of the API [default: 0.0.0.0:6443]
    #[arg(long, global = true, value_name = "ADDR:PORT")]
    pub(crate) listen: Option<String>,
    /// This machine's name in the cluster [default: the host name]
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) node_name: Option<String>,
    /// This machine's address in the cluster [default: the one of the default route]
    #[arg(long, global = true, value_name = "IP")]
    pub(crate) node_ip: Option<String>,
    /// Port of the node agent's API [default: 10250]
    #[arg(long, global = true, value_name = "PORT")]
    pub(crate) agent_port: Option<u16>,
    /// Addresses of pods [default: 10.42.0.0/16]
    #[arg(long, global = true, value_name = "CIDR")]
    pub(crate) cluster_cidr: Option<String>,
    /// Addresses of Services [default: 10.43.0.0/16]
    #[arg(long, global = true, value_name = "CIDR")]
    pub(crate) service_cidr: Option<String>,
    /// Address of the cluster's DNS [default: the tenth Service address, 10.43.0.10]
    #[arg(long, global = true, value_name = "IP")]
    pub(crate) cluster_dns: Option<String>,
    /// DNS domain of the cluster [default: cluster.local]
    #[arg(long, global = true, value_name = "DOMAIN")]
    pub(crate) cluster_domain: Option<String>,
    /// Name of the pods' bridge [default: dhow0]
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) bridge: Option<String>,
    /// How packets travel between nodes: auto (plain routes on one link, VXLAN elsewhere), routes or vxlan [default: auto]
    #[arg(long, global = true, value_name = "MODE")]
    pub(crate) overlay: Option<String>,
    /// The cgroup under which kubepods and dhow are made [default: the root]
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) cgroup_root: Option<String>,
    /// Run pods in this container runtime (CRI v1) instead of dhow's own engine: unix:///run/containerd/containerd.sock
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) container_runtime_endpoint: Option<String>,
    /// Where its images are [default: the same]
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) image_service_endpoint: Option<String>,
    /// Registries: mirrors, plain HTTP, CA files, credentials [default: /etc/dhow/registries.yaml, if it exists]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) registries: Option<PathBuf>,
    /// etcd servers that keep the objects instead of the data directory, so that several servers share them:
    /// https://10.0.0.1:2379,https://10.0.0.2:2379
    #[arg(long, global = true, value_name = "URL,…")]
    pub(crate) etcd_servers: Option<String>,
    /// CA of the etcd servers
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) etcd_cafile: Option<PathBuf>,
    /// Client certificate for etcd
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) etcd_certfile: Option<PathBuf>,
    /// Its key
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) etcd_keyfile: Option<PathBuf>,
    /// What all keys in etcd begin with [default: /dhow]
    #[arg(long, global = true, value_name = "PREFIX")]
    pub(crate) etcd_prefix: Option<String>,
    /// Below what the node is under pressure and takes no more pods
    /// [default: memory.available<100Mi,nodefs.available<10%,nodefs.inodesFree<5%]
    #[arg(long, global = true, value_name = "SIGNAL<VALUE,…")]
    pub(crate) eviction_hard: Option<String>,
    /// Below what the node is under pressure and, after a while, ends pods gently
    #[arg(long, global = true, value_name = "SIGNAL<VALUE,…")]
    pub(crate) eviction_soft: Option<String>,
    /// That while, for each of them: memory.available=1m30s
    #[arg(long, global = true, value_name = "SIGNAL=TIME,…")]
    pub(crate) eviction_soft_grace_period: Option<String>,
    /// What a pod that is ended gently has at most to stop [default: 0]
    #[arg(long, global = true, value_name = "SECONDS")]
    pub(crate) eviction_max_pod_grace_period: Option<u32>,
    /// How much more than the threshold is reclaimed once it is met: memory.available=200Mi
    #[arg(long, global = true, value_name = "SIGNAL=VALUE,…")]
    pub(crate) eviction_minimum_reclaim: Option<String>,
    /// How long the node says that it is under pressure after it was [default: 5m]
    #[arg(long, global = true, value_name = "TIME")]
    pub(crate) eviction_pressure_transition_period: Option<String>,
    /// Who gets processors alone: none, or static (containers of Guaranteed pods that ask for whole ones) [default: none]
    #[arg(long, global = true, value_name = "POLICY")]
    pub(crate) cpu_manager_policy: Option<String>,
    /// Processors for the machine's own programs, like 0-1: not promised to pods
    #[arg(long, global = true, value_name = "LIST")]
    pub(crate) reserved_cpus: Option<String>,
    /// Who gets memory of NUMA nodes alone: None, or Static (containers of Guaranteed pods) [default: None]
    #[arg(long, global = true, value_name = "POLICY")]
    pub(crate) memory_manager_policy: Option<String>,
    /// Which memory is not promised to pods, by NUMA node: 0:memory=100Mi; in all what eviction-hard keeps free
    #[arg(long, global = true, value_name = "NODE:memory=BYTES,…")]
    pub(crate) reserved_memory: Option<String>,
    /// What becomes of pods that cannot have processors, memory and devices of the same NUMA nodes: none (nobody asks), best-effort (they
    /// run), restricted (they are rejected) or single-numa-node (they are rejected unless it is one) [default: none]
    #[arg(long, global = true, value_name = "POLICY")]
    pub(crate) topology_manager_policy: Option<String>,
    /// What is to be on the same NUMA nodes: container, or pod (all containers of a pod) [default: container]
    #[arg(long, global = true, value_name = "SCOPE")]
    pub(crate) topology_manager_scope: Option<String>,
    /// prefer-closest-numa-nodes=true, max-allowable-numa-nodes=8 to 16
    #[arg(long, global = true, value_name = "OPTION=VALUE,…")]
    pub(crate) topology_manager_policy_options: Option<String>,
    /// Who may use the machine's swap: NoSwap (nobody), or LimitedSwap (containers of Burstable pods, as much of it as they ask for of
    /// the memory) [default: NoSwap]
    #[arg(long, global = true, value_name = "BEHAVIOR")]
    pub(crate) memory_swap_behavior: Option<String>,
    /// How long a shutdown of the machine waits for pods to end [default: 0, not at all]; needs systemd-logind
    #[arg(long, global = true, value_name = "TIME")]
    pub(crate) shutdown_grace_period: Option<String>,
    /// How much of it is for critical pods, which end last [default: 0]
    #[arg(long, global = true, value_name = "TIME")]
    pub(crate) shutdown_grace_period_critical_pods: Option<String>,
    /// Instead of these, how many seconds pods have from which priority on: 0=30,2000000000=10
    #[arg(long, global = true, value_name = "PRIORITY=SECONDS,…")]
    pub(crate) shutdown_grace_period_by_pod_priority: Option<String>,
    /// Programs that know logins for registries: a CredentialProviderConfig of kubelet.config.k8s.io/v1
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) image_credential_provider_config: Option<PathBuf>,
    /// Where these programs are
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) image_credential_provider_bin_dir: Option<PathBuf>,
    /// What is noted in the audit log: a Policy of audit.k8s.io/v1 [default: everything but the system's own reading, at level Metadata]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) audit_policy: Option<PathBuf>,
    /// Where traces of requests go: a TracingConfiguration of apiserver.config.k8s.io [default: nowhere]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) tracing_config_file: Option<PathBuf>,
    /// Admission plugins to be used beside the default ones: OwnerReferencesPermissionEnforcement
    #[arg(long, global = true, value_name = "NAME,…")]
    pub(crate) enable_admission_plugins: Option<String>,
    /// Admission plugins not to be used though they are by default
    #[arg(long, global = true, value_name = "NAME,…")]
    pub(crate) disable_admission_plugins: Option<String>,
    /// Leave out the controllers, for a kube-controller-manager beside this server
    #[arg(long, global = true)]
    pub(crate) disable_controllers: bool,
    /// Leave out the scheduler, for a kube-scheduler beside this server
    #[arg(long, global = true)]
    pub(crate) disable_scheduler: bool,
    /// Settings of admission plugins: an AdmissionConfiguration of apiserver.config.k8s.io (PodSecurity, ResourceQuota)
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) admission_control_config_file: Option<PathBuf>,
    /// Whose tokens are good: an AuthenticationConfiguration of apiserver.config.k8s.io; read again when it changes
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) authentication_config: Option<PathBuf>,
    /// URL of an OpenID Connect issuer whose tokens are good (instead of --authentication-config)
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) oidc_issuer_url: Option<String>,
    /// Audience that its tokens must have
    #[arg(long, global = true, value_name = "ID")]
    pub(crate) oidc_client_id: Option<String>,
    /// CA of the issuer [default: the system's]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) oidc_ca_file: Option<PathBuf>,
    /// Claim that is the user's name [default: sub]
    #[arg(long, global = true, value_name = "CLAIM")]
    pub(crate) oidc_username_claim: Option<String>,
    /// What is set before it; - for nothing [default: the issuer's URL and #, nothing with the claim email]
    #[arg(long, global = true, value_name = "PREFIX")]
    pub(crate) oidc_username_prefix: Option<String>,
    /// Claim with the user's groups
    #[arg(long, global = true, value_name = "CLAIM")]
    pub(crate) oidc_groups_claim: Option<String>,
    /// What is set before each of them
    #[arg(long, global = true, value_name = "PREFIX")]
    pub(crate) oidc_groups_prefix: Option<String>,
    /// How tokens may be signed [default: RS256]
    #[arg(long, global = true, value_name = "NAME,…")]
    pub(crate) oidc_signing_algs: Option<String>,
    /// Claims that tokens must have
    #[arg(long, global = true, value_name = "CLAIM=VALUE,…")]
    pub(crate) oidc_required_claim: Option<String>,
    /// kubeconfig of a webhook that knows tokens
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) authentication_token_webhook_config_file: Option<PathBuf>,
    /// How long its answers are kept [default: 2m]
    #[arg(long, global = true, value_name = "DURATION")]
    pub(crate) authentication_token_webhook_cache_ttl: Option<String>,
    /// Version of its TokenReviews: v1 or v1beta1 [default: v1beta1]
    #[arg(long, global = true, value_name = "VERSION")]
    pub(crate) authentication_token_webhook_version: Option<String>,
    /// Who decides what is allowed: an AuthorizationConfiguration of apiserver.config.k8s.io, with Node and RBAC in it; read again
    /// when it changes
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) authorization_config: Option<PathBuf>,
}

/// What it means: plain data, nothing left to look up.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// What was said, by the names of flags; empty texts for defaults.
    pub(crate) flags: BTreeMap<String, String>,
    pub(crate) data_dir: PathBuf,
    pub(crate) run_dir: PathBuf,
    pub(crate) kubelet_dir: PathBuf,
    pub(crate) kubeconfig: PathBuf,
    pub(crate) merge_kubeconfig: bool,
    pub(crate) listen: SocketAddr,
    pub(crate) node_name: String,
    /// `None`: ask the routing table.
    pub(crate) node_ip: Option<IpAddr>,
    pub(crate) agent_port: u16,
    pub(crate) cluster_cidr: IpNet,
    pub(crate) service_cidr: IpNet,
    pub(crate) cluster_dns: IpAddr,
    pub(crate) cluster_domain: String,
    pub(crate) bridge: String,
    pub(crate) overlay: Mode,
    /// Empty, or `/path`.
    pub(crate) cgroup_root: String,
    /// Addresses of runtime and images; `None`: our own engine.
    pub(crate) foreign_runtime: Option<(String, String)>,
    pub(crate) registries: PathBuf,
    pub(crate) eviction: Policy,
    pub(crate) managers: managers::Settings,
    pub(crate) swap: swap::Behavior,
    pub(crate) shutdown: shutdown::Settings,
    /// Configuration and directory of the programs.
    pub(crate) credential_providers: Option<(PathBuf, PathBuf)>,
    /// `None`: the default policy.
    pub(crate) audit_policy: Option<PathBuf>,
    /// `None`: nobody collects traces.
    pub(crate) tracing_config: Option<PathBuf>,
    pub(crate) admission_plugins: Switches,
    /// Whether our controllers run.
    pub(crate) controllers: bool,
    /// Whether our scheduler runs.
    pub(crate) scheduler: bool,
    pub(crate) admission_config: Option<PathBuf>,
    pub(crate) access: Access,
    /// `None`: objects are kept in the data directory.
    pub(crate) etcd: Option<Etcd>,
}

/// Whose credentials are good beside the cluster's own, and who else decides what is allowed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Access {
    /// AuthenticationConfiguration.
    pub(crate) authentication: Option<PathBuf>,
    pub(crate) oidc: Option<Oidc>,
    pub(crate) token_webhook: Option<TokenWebhook>,
    /// AuthorizationConfiguration.
    pub(crate) authorization: Option<PathBuf>,
}

/// An OpenID Connect issuer, the old way.
#[derive(Debug, Clone)]
pub(crate) struct Oidc {
    pub(crate) issuer_url: String,
    pub(crate) client_id: String,
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) username_claim: String,
    pub(crate) username_prefix: String,
    /// Claim and prefix.
    pub(crate) groups: Option<(String, String)>,
    pub(crate) signing_algs: Vec<String>,
    pub(crate) required_claims: Vec<(String, String)>,
}

/// A webhook that knows tokens.
#[derive(Debug, Clone)]
pub(crate) struct TokenWebhook {
    pub(crate) kubeconfig: PathBuf,
    pub(crate) ttl: Duration,
    pub(crate) version: String,
}

/// How etcd is reached.
#[derive(Debug, Clone)]
pub(crate) struct Etcd {
    pub(crate) servers: Vec<String>,
    pub(crate) ca_file: Option<PathBuf>,
    /// Certificate and key.
    pub(crate) identity: Option<(PathBuf, PathBuf)>,
    pub(crate) prefix: String,
}

/// All mistakes of a configuration.
#[derive(Debug, Error)]
pub(crate) struct ConfigErrors(pub(crate) Vec<String>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [one] => write!(f, "{one}"),
            many => {
                write!(f, "the configuration has {} mistakes:", many.len())?;
                many.iter().try_for_each(|m| write!(f, "\n  - {m}"))
            }
        }
    }
}

impl Settings {
    /// Reads the file (if any), lets flags win, and checks everything.
    pub(crate) fn resolve(self) -> Result<Config, ConfigErrors> {
        let file = self.read_file().map_err(|e| ConfigErrors(vec![e]))?;
        self.over(file).check(&host_name())
    }

    fn read_file(&self) -> Result<Settings, String> {
        let path = self.config.clone().unwrap_or_else(|| CONFIG_FILE.into());
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && self.config.is_none() => {
                return Ok(Settings::default());
            }
            Err(e) => return Err(format!("failed to read {}: {e}", path.display())),
        };
        if text.trim().is_empty() {
            return Ok(Settings::default());
        }
        serde_saphyr::from_str(&text).map_err(|e| format!("{} is not a valid configuration: {e}", path.display()))
    }

    /// Flags win.
    fn over(self, file: Settings) -> Settings {
        Settings {
            config: self.config,
            data_dir: self.data_dir.or(file.data_dir),
            run_dir: self.run_dir.or(file.run_dir),
            kubelet_dir: self.kubelet_dir.or(file.kubelet_dir),
            kubeconfig: self.kubeconfig.or(file.kubeconfig),
            no_merge_kubeconfig: self.no_merge_kubeconfig || file.no_merge_kubeconfig,
            listen: self.listen.or(file.listen),
            node_name: self.node_name.or(file.node_name),
            node_ip: self.node_ip.or(file.node_ip),
            agent_port: self.agent_port.or(file.agent_port),
            cluster_cidr: self.cluster_cidr.or(file.cluster_cidr),
            service_cidr: self.service_cidr.or(file.service_cidr),
            cluster_dns: self.cluster_dns.or(file.cluster_dns),
            cluster_domain: self.cluster_domain.or(file.cluster_domain),
            bridge: self.bridge.or(file.bridge),
            overlay: self.overlay.or(file.overlay),
            cgroup_root: self.cgroup_root.or(file.cgroup_root),
            container_runtime_endpoint: self.container_runtime_endpoint.or(file.container_runtime_endpoint),
            image_service_endpoint: self.image_service_endpoint.or(file.image_service_endpoint),
            registries: self.registries.or(file.registries),
            etcd_servers: self.etcd_servers.or(file.etcd_servers),
            etcd_cafile: self.etcd_cafile.or(file.etcd_cafile),
            etcd_certfile: self.etcd_certfile.or(file.etcd_certfile),
            etcd_keyfile: self.etcd_keyfile.or(file.etcd_keyfile),
            etcd_prefix: self.etcd_prefix.or(file.etcd_prefix),
            eviction_hard: self.eviction_hard.or(file.eviction_hard),
            eviction_soft: self.eviction_soft.or(file.eviction_soft),
            eviction_soft_grace_period: self.eviction_soft_grace_period.or(file.eviction_soft_grace_period),
            eviction_max_pod_grace_period: self.eviction_max_pod_grace_period.or(file.eviction_max_pod_grace_period),
            eviction_minimum_reclaim: self.eviction_minimum_reclaim.or(file.eviction_minimum_reclaim),
            eviction_pressure_transition_period: self
                .eviction_pressure_transition_period
                .or(file.eviction_pressure_transition_period),
            cpu_manager_policy: self.cpu_manager_policy.or(file.cpu_manager_policy),
            reserved_cpus: self.reserved_cpus.or(file.reserved_cpus),
            memory_manager_policy: self.memory_manager_policy.or(file.memory_manager_policy),
            reserved_memory: self.reserved_memory.or(file.reserved_memory),
            topology_manager_policy: self.topology_manager_policy.or(file.topology_manager_policy),
            topology_manager_scope: self.topology_manager_scope.or(file.topology_manager_scope),
            topology_manager_policy_options: self
                .topology_manager_policy_options
                .or(file.topology_manager_policy_options),
            memory_swap_behavior: self.memory_swap_behavior.or(file.memory_swap_behavior),
            shutdown_grace_period: self.shutdown_grace_period.or(file.shutdown_grace_period),
            shutdown_grace_period_critical_pods: self
                .shutdown_grace_period_critical_pods
                .or(file.shutdown_grace_period_critical_pods),
            shutdown_grace_period_by_pod_priority: self
                .shutdown_grace_period_by_pod_priority
                .or(file.shutdown_grace_period_by_pod_priority),
            image_credential_provider_config: self
                .image_credential_provider_config
                .or(file.image_credential_provider_config),
            image_credential_provider_bin_dir: self
                .image_credential_provider_bin_dir
                .or(file.image_credential_provider_bin_dir),
            audit_policy: self.audit_policy.or(file.audit_policy),
            tracing_config_file: self.tracing_config_file.or(file.tracing_config_file),
            enable_admission_plugins: self.enable_admission_plugins.or(file.enable_admission_plugins),
            disable_admission_plugins: self.disable_admission_plugins.or(file.disable_admission_plugins),
            disable_controllers: self.disable_controllers || file.disable_controllers,
            disable_scheduler: self.disable_scheduler || file.disable_scheduler,
            admission_control_config_file: self.admission_control_config_file.or(file.admission_control_config_file),
            authentication_config: self.authentication_config.or(file.authentication_config),
            oidc_issuer_url: self.oidc_issuer_url.or(file.oidc_issuer_url),
            oidc_client_id: self.oidc_client_id.or(file.oidc_client_id),
            oidc_ca_file: self.oidc_ca_file.or(file.oidc_ca_file),
            oidc_username_claim: self.oidc_username_claim.or(file.oidc_username_claim),
            oidc_username_prefix: self.oidc_username_prefix.or(file.oidc_username_prefix),
            oidc_groups_claim: self.oidc_groups_claim.or(file.oidc_groups_claim),
            oidc_groups_prefix: self.oidc_groups_prefix.or(file.oidc_groups_prefix),
            oidc_signing_algs: self.oidc_signing_algs.or(file.oidc_signing_algs),
            oidc_required_claim: self.oidc_required_claim.or(file.oidc_required_claim),
            authentication_token_webhook_config_file: self
                .authentication_token_webhook_config_file
                .or(file.authentication_token_webhook_config_file),
            authentication_token_webhook_cache_ttl: self
                .authentication_token_webhook_cache_ttl
                .or(file.authentication_token_webhook_cache_ttl),
            authentication_token_webhook_version: self
                .authentication_token_webhook_version
                .or(file.authentication_token_webhook_version),
            authorization_config: self.authorization_config.or(file.authorization_config),
        }
    }

    fn check(self, host_name: &str) -> Result<Config, ConfigErrors> {
        let mut mistakes = Vec::new();
        let flags = self.flags();
        let etcd = self.check_etcd(&mut mistakes);
        let programs = (&self.image_credential_provider_config, &self.image_credential_provider_bin_dir);
        let credential_providers = match programs {
            (Some(file), Some(dir)) => Some((file.clone(), dir.clone())),
            (None, None) => None,
            _ => {
                let names = "image-credential-provider-config and image-credential-provider-bin-dir";
                mistakes.push(format!("{names} belong together; give both or none"));
                None
            }
        };
        let managers = managers::Settings::read(&self.managers()).unwrap_or_else(|errors| {
            mistakes.extend(errors);
            managers::Settings::default()
        });
        let swap = self.swap().unwrap_or_else(|error| {
            mistakes.push(error);
            swap::Behavior::default()
        });
        let shutdown = self.shutdown().unwrap_or_else(|error| {
            mistakes.push(error);
            shutdown::Settings::default()
        });
        let eviction = self.eviction().read().unwrap_or_else(|errors| {
            mistakes.extend(errors);
            Policy::default()
        });
        let access = self.check_access(&mut mistakes);
        let listen =
            parse(&self.listen, "0.0.0.0:6443", "listen", "an address and port like 0.0.0.0:6443", &mut mistakes);
        let node_ip = self.node_ip.as_ref().and_then(|_| {
            parse::<IpAddr>(&self.node_ip, "", "node-ip", "an IP address like 192.168.1.10", &mut mistakes)
        });
        mistakes.extend(node_ip.and_then(check_node_ip));
        let cluster = parse::<IpNet>(&self.cluster_cidr, "10.42.0.0/16", "cluster-cidr", CIDR, &mut mistakes);
        let service = parse::<IpNet>(&self.service_cidr, "10.43.0.0/16", "service-cidr", CIDR, &mut mistakes);
        let dns_default = service.and_then(|s| s.hosts().nth(9)).map(|ip| ip.to_string()).unwrap_or_default();
        let dns = parse::<IpAddr>(&self.cluster_dns, &dns_default, "cluster-dns", "an IP address", &mut mistakes);
        if let (Some(cluster), Some(service)) = (cluster, service) {
            mistakes.extend(check_ranges(cluster, service, dns));
        }
        let node_name = self.node_name.unwrap_or_else(|| host_name.to_ascii_lowercase());
        mistakes.extend(check_name("node-name", &node_name));
        let cluster_domain = self.cluster_domain.unwrap_or_else(|| "cluster.local".into());
        mistakes.extend(check_name("cluster-domain", &cluster_domain));
        let bridge = self.bridge.unwrap_or_else(|| "dhow0".into());
        if bridge.is_empty() || bridge.len() > 15 || bridge.contains(['/', ' ']) {
            mistakes
                .push(format!("bridge {bridge:?} is not an interface name: 1 to 15 characters without '/' or space"));
        }
        let overlay = parse::<Mode>(&self.overlay, "auto", "overlay", "auto, routes or vxlan", &mut mistakes);
        let (runtime, images) = (self.container_runtime_endpoint, self.image_service_endpoint);
        let places = [("container-runtime-endpoint", &runtime), ("image-service-endpoint", &images)];
        for (name, place) in places {
            if let Some(place) = place.as_ref().filter(|p| !p.starts_with("unix:///")) {
                mistakes.push(format!("{name} {place:?} is not like unix:///run/containerd/containerd.sock"));
            }
        }
        if runtime.is_none() && images.is_some() {
            mistakes.push("image-service-endpoint needs container-runtime-endpoint".into());
        }
        let cgroup_root = self.cgroup_root.unwrap_or_default();
        let cgroup_root = cgroup_root.trim_end_matches('/');
        if !(cgroup_root.is_empty() || cgroup_root.starts_with('/')) || cgroup_root.split('/').any(|p| p == "..") {
            mistakes.push(format!("cgroup-root {cgroup_root:?} is not a path like /dhow-a"));
        }
        match (listen, cluster, service, dns, overlay) {
            (Some(listen), Some(cluster_cidr), Some(service_cidr), Some(cluster_dns), Some(overlay))
                if mistakes.is_empty() =>
            {
                // Manifests of CSI drivers name upstream's directory. Where somebody chose another place for our data,
                // nothing is to be written elsewhere.
                let kubelet_dir = match &self.data_dir {
                    Some(dir) if dir != Path::new(DATA_DIR) => dir.join("kubelet"),
                    _ => "/var/lib/kubelet".into(),
                };
                Ok(Config {
                    flags,
                    data_dir: self.data_dir.unwrap_or_else(|| DATA_DIR.into()),
                    kubelet_dir: self.kubelet_dir.unwrap_or(kubelet_dir),
                    run_dir: self.run_dir.unwrap_or_else(|| "/run/dhow".into()),
                    kubeconfig: self.kubeconfig.unwrap_or_else(|| "/etc/dhow/kubeconfig".into()),
                    merge_kubeconfig: !self.no_merge_kubeconfig,
                    listen,
                    node_name,
                    node_ip,
                    agent_port: self.agent_port.unwrap_or(10250),
                    cluster_cidr,
                    service_cidr,
                    cluster_dns,
                    cluster_domain,
                    bridge,
                    overlay,
                    cgroup_root: cgroup_root.to_owned(),
                    foreign_runtime: runtime.map(|runtime| (runtime.clone(), images.unwrap_or(runtime))),
                    registries: self.registries.unwrap_or_else(|| "/etc/dhow/registries.yaml".into()),
                    eviction,
                    managers,
                    swap,
                    shutdown,
                    credential_providers,
                    audit_policy: self.audit_policy,
                    tracing_config: self.tracing_config_file,
                    admission_plugins: Switches {
                        on: names(self.enable_admission_plugins.as_deref()),
                        off: names(self.disable_admission_plugins.as_deref()),
                    },
                    controllers: !self.disable_controllers,
                    scheduler: !self.disable_scheduler,
                    admission_config: self.admission_control_config_file,
                    access,
                    etcd,
                })
            }
            _ => Err(ConfigErrors(mistakes)),
        }
    }
}

impl Settings {
    fn flags(&self) -> BTreeMap<String, String> {
        let Ok(Value::Object(said)) = serde_json::to_value(self) else { return BTreeMap::new() };
        let text = |value: Value| match value {
            Value::Null => String::new(),
            Value::String(text) => text,
            other => other.to_string(),
        };
        said.into_iter().map(|(name, value)| (kebab(&name), text(value))).collect()
    }

    fn managers(&self) -> managers::Written<'_> {
        managers::Written {
            cpu_policy: self.cpu_manager_policy.as_deref(),
            reserved_cpus: self.reserved_cpus.as_deref(),
            memory_policy: self.memory_manager_policy.as_deref(),
            reserved_memory: self.reserved_memory.as_deref(),
            topology_policy: self.topology_manager_policy.as_deref(),
            topology_scope: self.topology_manager_scope.as_deref(),
            topology_options: self.topology_manager_policy_options.as_deref(),
        }
    }

    fn swap(&self) -> Result<swap::Behavior, String> {
        match self.memory_swap_behavior.as_deref() {
            None | Some("NoSwap" | "") => Ok(swap::Behavior::NoSwap),
            Some("LimitedSwap") => Ok(swap::Behavior::LimitedSwap),
            Some(other) => Err(format!("memory-swap-behavior {other:?} is not NoSwap or LimitedSwap")),
        }
    }

    fn shutdown(&self) -> Result<shutdown::Settings, String> {
        let time = |name: &str, text: &Option<String>| {
            let nanos = machinery::schema::parse_go_duration(text.as_deref().unwrap_or("0s"));
            let time = nanos.and_then(|nanos| u64::try_from(nanos).ok()).map(Duration::from_nanos);
            time.ok_or_else(|| format!("{name} is not a duration like 30s"))
        };
        let all = time("shutdown-grace-period", &self.shutdown_grace_period)?;
        let critical = time("shutdown-grace-period-critical-pods", &self.shutdown_grace_period_critical_pods)?;
        let by_priority = self.shutdown_grace_period_by_pod_priority.as_deref();
        shutdown::Settings::new(all, critical, by_priority).map_err(|e| e.to_string())
    }

    fn eviction(&self) -> PolicyTexts<'_> {
        PolicyTexts {
            hard: self.eviction_hard.as_deref(),
            soft: self.eviction_soft.as_deref(),
            soft_grace: self.eviction_soft_grace_period.as_deref(),
            max_pod_grace: self.eviction_max_pod_grace_period,
            minimum_reclaim: self.eviction_minimum_reclaim.as_deref(),
            transition: self.eviction_pressure_transition_period.as_deref(),
        }
    }

    fn check_etcd(&self, mistakes: &mut Vec<String>) -> Option<Etcd> {
        let identity = match (&self.etcd_certfile, &self.etcd_keyfile) {
            (Some(cert), Some(key)) => Some((cert.clone(), key.clone())),
            (None, None) => None,
            _ => {
                mistakes.push("etcd-certfile and etcd-keyfile belong together; give both or none".into());
                None
            }
        };
        let others = [&self.etcd_cafile, &self.etcd_certfile, &self.etcd_keyfile];
        let Some(servers) = &self.etcd_servers else {
            if others.iter().any(|o| o.is_some()) || self.etcd_prefix.is_some() {
                mistakes.push("etcd-cafile, etcd-certfile, etcd-keyfile and etcd-prefix need etcd-servers".into());
            }
            return None;
        };
        let servers: Vec<String> = servers.split(',').map(|s| s.trim().to_owned()).collect();
        for server in servers.iter().filter(|s| !s.starts_with("http://") && !s.starts_with("https://")) {
            mistakes.push(format!("etcd-servers: {server:?} is not a URL like https://10.0.0.1:2379"));
        }
        if self.etcd_cafile.is_none() && servers.iter().any(|s| s.starts_with("https://")) {
            mistakes.push("etcd-servers with https:// need etcd-cafile, the CA that signed their certificates".into());
        }
        let prefix = self.etcd_prefix.clone().unwrap_or_else(|| "/dhow".into());
        if !prefix.starts_with('/') || prefix.ends_with('/') {
            mistakes.push(format!("etcd-prefix {prefix:?} is not a prefix like /dhow"));
        }
        Some(Etcd { servers, ca_file: self.etcd_cafile.clone(), identity, prefix })
    }
}

impl Settings {
    fn check_access(&self, mistakes: &mut Vec<String>) -> Access {
        let oidc = self.check_oidc(mistakes);
        if oidc.is_some() && self.authentication_config.is_some() {
            mistakes.push("authentication-config and oidc-* exclude each other; give one of them".into());
        }
        let ttl = self.authentication_token_webhook_cache_ttl.as_deref().unwrap_or("2m");
        let ttl = machinery::schema::parse_go_duration(ttl).and_then(|nanos| u64::try_from(nanos).ok());
        if ttl.is_none() {
            mistakes.push("authentication-token-webhook-cache-ttl is not a duration like 2m".into());
        }
        let version = self.authentication_token_webhook_version.clone().unwrap_or_else(|| "v1beta1".into());
        let token_webhook = self.authentication_token_webhook_config_file.clone().map(|kubeconfig| TokenWebhook {
            kubeconfig,
            ttl: Duration::from_nanos(ttl.unwrap_or_default()),
            version,
        });
        Access {
            authentication: self.authentication_config.clone(),
            oidc,
            token_webhook,
            authorization: self.authorization_config.clone(),
        }
    }

    /// As `pkg/kubeapiserver/options/authentication.go` reads them.
    fn check_oidc(&self, mistakes: &mut Vec<String>) -> Option<Oidc> {
        let (issuer_url, client_id) = match (&self.oidc_issuer_url, &self.oidc_client_id) {
            (Some(url), Some(id)) => (url.clone(), id.clone()),
            (None, None) => {
                let others = [&self.oidc_username_claim, &self.oidc_groups_claim, &self.oidc_required_claim];
                if others.iter().any(|o| o.is_some()) || self.oidc_ca_file.is_some() {
                    mistakes.push("oidc-* need oidc-issuer-url and oidc-client-id".into());
                }
                return None;
            }
            _ => {
                mistakes.push("oidc-issuer-url and oidc-client-id must be specified together".into());
                return None;
            }
        };
        let username_claim = self.oidc_username_claim.clone().unwrap_or_else(|| "sub".into());
        let username_prefix = match self.oidc_username_prefix.as_deref() {
            Some("-") => String::new(),
            None | Some("") if username_claim == "email" => String::new(),
            None | Some("") => format!("{issuer_url}#"),
            Some(prefix) => prefix.to_owned(),
        };
        let mut required_claims = Vec::new();
        for pair in names(self.oidc_required_claim.as_deref()) {
            match pair.split_once('=') {
                Some((claim, value)) => required_claims.push((claim.to_owned(), value.to_owned())),
                None => mistakes.push(format!("oidc-required-claim: {pair:?} is not claim=value")),
            }
        }
        let algs = names(self.oidc_signing_algs.as_deref());
        Some(Oidc {
            issuer_url,
            client_id,
            ca_file: self.oidc_ca_file.clone(),
            username_claim,
            username_prefix,
            groups: self.oidc_groups_claim.clone().map(|c| (c, self.oidc_groups_prefix.clone().unwrap_or_default())),
            signing_algs: if algs.is_empty() { vec!["RS256".into()] } else { algs },
            required_claims,
        })
    }
}

/// `camelCase` as flags are written.
fn kebab(name: &str) -> String {
    let mut out = String::with_capacity(name.len() + 4);
    for letter in name.chars() {
        if letter.is_ascii_uppercase() {
            out.push('-');
        }
        out.push(letter.to_ascii_lowercase());
    }
    out
}

/// Names with commas between.
fn names(said: Option<&str>) -> Vec<String> {
    said.unwrap_or_default().split(',').map(str::trim).filter(|n| !n.is_empty()).map(str::to_owned).collect()
}

const CIDR: &str = "an address range like 10.42.0.0/16";

fn parse<T: std::str::FromStr>(
    said: &Option<String>,
    default: &str,
    name: &str,
    wanted: &str,
    mistakes: &mut Vec<String>,
) -> Option<T> {
    let text = said.as_deref().unwrap_or(default);
    match text.parse() {
        Ok(value) => Some(value),
        Err(_) => {
            mistakes.push(format!("{name} {text:?} is not {wanted}"));
            None
        }
    }
}

/// Others must reach the machine there (`validateNodeIP` in `pkg/kubelet/kubelet_node_status.go`).
fn check_node_ip(ip: IpAddr) -> Option<String> {
    let IpAddr::V4(v4) = ip else {
        return Some(format!("node-ip {ip} must be IPv4: IPv6 and dual stack are not built yet"));
    };
    let why = match v4 {
        _ if v4.is_loopback() => "a loopback address",
        _ if v4.is_multicast() => "a multicast address",
        _ if v4.is_link_local() => "a link-local address",
        _ if v4.is_unspecified() => "no address",
        _ => return None,
    };
    Some(format!("node-ip {ip} is {why}: give one by which pods and other machines reach this one"))
}

/// A node gets a /24 of the cluster's range.
pub(crate) const NODE_PREFIX: u8 = 24;

fn check_ranges(cluster: IpNet, service: IpNet, dns: Option<IpAddr>) -> Vec<String> {
    let mut mistakes = Vec::new();
    if !matches!(cluster, IpNet::V4(_)) || !matches!(service, IpNet::V4(_)) {
        mistakes.push("cluster-cidr and service-cidr must be IPv4: IPv6 and dual stack are not built yet".into());
        return mistakes;
    }
    if cluster.trunc() != cluster {
        mistakes.push(format!("cluster-cidr {cluster} has host bits set; did you mean {}?", cluster.trunc()));
    }
    if service.trunc() != service {
        mistakes.push(format!("service-cidr {service} has host bits set; did you mean {}?", service.trunc()));
    }
    if cluster.prefix_len() > NODE_PREFIX {
        mistakes.push(format!("cluster-cidr {cluster} is too small: every node needs a /{NODE_PREFIX} of it"));
    }
    if !(12..=28).contains(&service.prefix_len()) {
        mistakes.push(format!("service-cidr {service} must be between a /12 and a /28"));
    }
    if cluster.contains(&service) || service.contains(&cluster) {
        mistakes.push(format!("cluster-cidr {cluster} and service-cidr {service} overlap; choose ranges apart"));
    }
    if let Some(dns) = dns
        && !service.contains(&dns)
    {
        mistakes.push(format!("cluster-dns {dns} is not in service-cidr {service}"));
    }
    mistakes
}

/// RFC 1123 subdomain.
fn check_name(what: &str, name: &str) -> Option<String> {
    let label_ok = |l: &str| {
        (1..=63).contains(&l.len())
            && l.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    (name.len() > 253 || !name.split('.').all(label_ok))
        .then(|| format!("{what} {name:?} is not a DNS name: lower-case letters, digits, '-' and '.'"))
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").map(|n| n.trim().to_owned()).unwrap_or_default()
}

/// The home directory of the user who called us (also through sudo), for ~/.kube/config.
#[expect(clippy::disallowed_methods, reason = "configuration enters here")]
pub(crate) fn invoking_home() -> Option<PathBuf> {
    let home = std::env::var("HOME").ok().map(PathBuf::from);
    match std::env::var("SUDO_USER") {
        Ok(user) if user != "root" => home_of(&user).or(home),
        _ => home,
    }
    .filter(|h| h != Path::new("/"))
}

/// Colours and progress only for people who can see them.
#[expect(clippy::disallowed_methods, reason = "configuration enters here")]
pub(crate) fn log_filter() -> String {
    std::env::var("DHOW_LOG").unwrap_or_else(|_| "info".into())
}

fn home_of(user: &str) -> Option<PathBuf> {
    let passwd = std::fs::read_to_string("/etc/passwd").ok()?;
    passwd
        .lines()
        .map(|l| l.split(':').collect::<Vec<_>>())
        .find(|f| f.first() == Some(&user))
        .and_then(|f| f.get(5).map(PathBuf::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_the_documented_ones() {
        let config = Settings::default().check("Box-1").expect("defaults are valid");
        assert_eq!(config.listen.to_string(), "0.0.0.0:6443");
        assert_eq!(config.cluster_cidr.to_string(), "10.42.0.0/16");
        assert_eq!(config.cluster_dns.to_string(), "10.43.0.10");
        assert_eq!(config.node_name, "box-1");
    }

    #[test]
    fn all_mistakes_are_reported_together() {
        let settings = Settings {
            listen: Some("here".into()),
            cluster_cidr: Some("10.43.5.0/16".into()),
            node_name: Some("Not_Valid".into()),
            ..Settings::default()
        };
        let errors = settings.check("box").expect_err("is wrong");
        let text = errors.to_string();
        assert!(text.starts_with("the configuration has 4 mistakes:"), "{text}");
        for part in ["listen \"here\"", "did you mean 10.43.0.0/16?", "overlap", "node-name \"Not_Valid\""] {
            assert!(text.contains(part), "{part} not in {text}");
        }
    }

    #[test]
    fn a_node_has_an_address_that_others_can_use() {
        let check = |ip: &str| {
            let settings = Settings { node_ip: Some(ip.into()), ..Settings::default() };
            settings.check("box").map(|config| config.node_ip).map_err(|e| e.to_string())
        };
        assert_eq!(check("10.0.0.1"), Ok(Some(IpAddr::from([10, 0, 0, 1]))));
        for bad in ["127.0.0.1", "224.0.0.1", "169.254.1.1", "0.0.0.0", "fd00::1", "box"] {
            let text = check(bad).expect_err(bad);
            assert!(text.contains("node-ip") && text.contains(bad), "{text}");
        }
    }

    /// Every flag is in the file, too, and both are shown under one name.
    #[test]
    fn flags_are_shown_as_they_are_written() {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            settings: Settings,
        }
        let line = <Line as clap::Parser>::parse_from(["dhow", "--node-ip", "10.0.0.1", "--agent-port", "7"]);
        let flags = line.settings.check("box").expect("valid").flags;
        assert_eq!((&*flags["node-ip"], &*flags["agent-port"], &*flags["listen"]), ("10.0.0.1", "7", ""));
        let command = <Line as clap::CommandFactory>::command();
        let known = command.get_arguments().filter_map(|a| a.get_long()).filter(|name| *name != "config");
        let missing: Vec<&str> = known.filter(|name| !flags.contains_key(*name)).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }

    #[test]
    fn flags_win_over_the_file() {
        let file = Settings { agent_port: Some(1), bridge: Some("br".into()), ..Settings::default() };
        let flags = Settings { agent_port: Some(2), ..Settings::default() };
        let config = flags.over(file).check("box").expect("valid");
        assert_eq!((config.agent_port, config.bridge.as_str()), (2, "br"));
    }
}
