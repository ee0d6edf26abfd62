//! [`PodInfo`]: what the scheduler asks of a pod, computed once (`framework.PodInfo`, `component-helpers/resource`).

use api::k8s::api::core::v1::{Affinity, Container, PodSpec, Toleration};
use api::k8s::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use api::meta::MetaExt;
use api::prelude::Pod;
use machinery::quantity::Quantity;
use machinery::selector::{PreferredTerms, RequiredNodeAffinity};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What pods without requests are counted as when nodes are compared (`DefaultMilliCPURequest`, `DefaultMemoryRequest`).
const DEFAULT_MILLI_CPU: i64 = 100;
const DEFAULT_MEMORY: i64 = 200 * 1024 * 1024;

/// Amounts: CPU in thousandths, everything else in its own unit (bytes, pieces).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources {
    /// Thousandths of a CPU.
    pub milli_cpu: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes of `ephemeral-storage`.
    pub ephemeral: i64,
    /// Huge pages and extended resources.
    pub scalar: BTreeMap<String, i64>,
}

impl Resources {
    /// Reads a resource list; unknown text counts as nothing (validation refuses such).
    pub fn of(list: Option<&BTreeMap<String, ApiQuantity>>) -> Self {
        let mut all = Resources::default();
        for (name, amount) in list.into_iter().flatten() {
            let Ok(q) = Quantity::parse(&amount.0) else { continue };
            match name.as_str() {
                "cpu" => all.milli_cpu = q.milli_value(),
                "memory" => all.memory = q.value(),
                "ephemeral-storage" => all.ephemeral = q.value(),
                "pods" => {}
                other => {
                    all.scalar.insert(other.to_owned(), q.value());
                }
            }
        }
        all
    }

    /// Adds (or with `sign` -1 takes away).
    pub fn add(&mut self, other: &Resources, sign: i64) {
        self.milli_cpu += sign * other.milli_cpu;
        self.memory += sign * other.memory;
        self.ephemeral += sign * other.ephemeral;
        for (name, amount) in &other.scalar {
            *self.scalar.entry(name.clone()).or_default() += sign * amount;
        }
    }

    fn max(&mut self, other: &Resources) {
        self.milli_cpu = self.milli_cpu.max(other.milli_cpu);
        self.memory = self.memory.max(other.memory);
        self.ephemeral = self.ephemeral.max(other.ephemeral);
        for (name, amount) in &other.scalar {
            let slot = self.scalar.entry(name.clone()).or_default();
            *slot = (*slot).max(*amount);
        }
    }
}

/// A port a pod wants on its node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    /// `0.0.0.0` = all addresses.
    pub ip: String,
    /// `TCP`, `UDP`, `SCTP`.
    pub protocol: String,
    /// Number.
    pub port: i32,
}

impl HostPort {
    /// Same protocol and port, and one address or all.
    pub fn conflicts(&self, other: &HostPort) -> bool {
        const ALL: &str = "0.0.0.0";
        self.protocol == other.protocol
            && self.port == other.port
            && (self.ip == other.ip || self.ip == ALL || other.ip == ALL)
    }
}

/// See the file's head.
#[derive(Debug, Clone)]
pub struct PodInfo {
    /// The pod itself.
    pub pod: Arc<Pod>,
    /// What must fit.
    pub requests: Resources,
    /// CPU and memory as counted for comparing nodes.
    pub nonzero: (i64, i64),
    /// Ports on the node.
    pub host_ports: Vec<HostPort>,
    /// nodeSelector and required node affinity.
    pub node_affinity: RequiredNodeAffinity,
    /// Preferred node affinity.
    pub preferred: PreferredTerms,
    /// Tolerations.
    pub tolerations: Vec<Toleration>,
    /// Images of all containers.
    pub images: Vec<String>,
    /// UID of the controller; its pods are spread.
    pub owner: Option<String>,
    /// Something it needs that is not built yet.
    pub unsupported: Option<&'static str>,
}

impl PodInfo {
    /// Computes it.
    pub fn of(pod: Arc<Pod>) -> Self {
        let spec = pod.spec.clone().unwrap_or_default();
        let path = machinery::field::Path::new("spec");
        let preferred = spec
            .affinity
            .as_ref()
            .and_then(|a| a.node_affinity.as_ref()?.preferred_during_scheduling_ignored_during_execution.as_ref())
            .and_then(|terms| PreferredTerms::try_new(terms, &path).ok())
            .unwrap_or_default();
        PodInfo {
            requests: requests(&spec, Resources::of),
            nonzero: nonzero(&spec),
            host_ports: host_ports(&spec),
            node_affinity: RequiredNodeAffinity::of(&spec),
            preferred,
            images: all_containers(&spec).filter_map(|c| c.image.clone()).collect(),
            owner: pod.controller().map(|o| o.uid.clone()),
            unsupported: unsupported(&spec),
            tolerations: spec.tolerations.unwrap_or_default(),
            pod,
        }
    }

    /// `spec.priority`
    pub fn priority(&self) -> i32 {
        self.pod.spec.as_ref().and_then(|s| s.priority).unwrap_or(0)
    }
}

fn all_containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.init_containers.iter().flatten().chain(&spec.containers)
}

fn of_container(c: &Container) -> Option<&BTreeMap<String, ApiQuantity>> {
    c.resources.as_ref()?.requests.as_ref()
}

/// Containers and sidecars together, or the largest moment of the init containers, plus overhead (`PodRequests`).
fn requests(spec: &PodSpec, read: impl Fn(Option<&BTreeMap<String, ApiQuantity>>) -> Resources) -> Resources {
    let mut running = Resources::default();
    let mut sidecars = Resources::default();
    let mut peak = Resources::default();
    for c in spec.init_containers.iter().flatten() {
        let own = read(of_container(c));
        let mut moment = sidecars.clone();
        moment.add(&own, 1);
        peak.max(&moment);
        if c.restart_policy.as_deref() == Some("Always") {
            sidecars.add(&own, 1);
        }
    }
    for c in &spec.containers {
        running.add(&read(of_container(c)), 1);
    }
    running.add(&sidecars, 1);
    running.max(&peak);
    running.add(&Resources::of(spec.overhead.as_ref()), 1);
    running
}

fn nonzero(spec: &PodSpec) -> (i64, i64) {
    let with_defaults = |list: Option<&BTreeMap<String, ApiQuantity>>| {
        let mut own = Resources::of(list);
        let has = |name: &str| list.is_some_and(|l| l.contains_key(name));
        if !has("cpu") {
            own.milli_cpu = DEFAULT_MILLI_CPU;
        }
        if !has("memory") {
            own.memory = DEFAULT_MEMORY;
        }
        own
    };
    let all = requests(spec, with_defaults);
    (all.milli_cpu, all.memory)
}

fn host_ports(spec: &PodSpec) -> Vec<HostPort> {
    let sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
    ports
        .filter_map(|p| {
            let port = p.host_port.filter(|p| *p > 0)?;
            let ip = p.host_ip.clone().filter(|ip| !ip.is_empty()).unwrap_or_else(|| "0.0.0.0".into());
            Some(HostPort { ip, protocol: p.protocol.clone().unwrap_or_else(|| "TCP".into()), port })
        })
        .collect()
}

/// A check that cannot check says no.
fn unsupported(spec: &PodSpec) -> Option<&'static str> {
    let hard = |a: &Affinity| {
        let affinity =
            a.pod_affinity.as_ref().and_then(|p| p.required_during_scheduling_ignored_during_execution.as_ref());
        let anti =
            a.pod_anti_affinity.as_ref().and_then(|p| p.required_during_scheduling_ignored_during_execution.as_ref());
        affinity.is_some_and(|l| !l.is_empty()) || anti.is_some_and(|l| !l.is_empty())
    };
    if spec.affinity.as_ref().is_some_and(hard) {
        return Some("required inter-pod affinity is not supported by this scheduler yet");
    }
    let constraints = spec.topology_spread_constraints.iter().flatten();
    if constraints.into_iter().any(|c| c.when_unsatisfiable == "DoNotSchedule") {
        return Some("topologySpreadConstraints with DoNotSchedule are not supported by this scheduler yet");
    }
    None
}
