//! [`Managers`]: who of the pods gets what of the machine for itself (`pkg/kubelet/cm`).
//!
//! ```text
//!   a pod comes ─▶ hints of devices, processors and memory ─▶ hints.rs ─▶ which NUMA nodes ─▶ each manager gives ─▶ book.rs
//! ```
//!
//! Always holds: what is given is on disk before the pod is taken. Differs: one policy with options (of the topology); what a pod
//! asks for as a whole, and not by container, is nobody's own.

mod book;
pub mod cpus;
pub mod hints;
pub mod memories;
pub mod topology;

use crate::counters::{self, Counter, Counters};
use crate::devices::Devices;
use crate::pod::admission::Rejection;
use crate::pod::spec::resources::{Qos, qos_class};
use crate::pod::view;
use api::k8s::api::core::v1::{Container, Pod};
use api::k8s::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use cpus::Cpus;
use hints::{Hint, Hints, Merger, Scope};
use machinery::quantity::Quantity;
use memories::Memories;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use topology::{CpuSet, Topology};

/// Who gets processors or memory alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Policy {
    /// Nobody.
    #[default]
    None,
    /// Containers of Guaranteed pods.
    Static,
}

/// What the administrator says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// `--cpu-manager-policy`
    pub cpus: Policy,
    /// `--reserved-cpus`: never given to one container alone, and not promised to pods.
    pub reserved_cpus: CpuSet,
    /// `--memory-manager-policy`
    pub memory: Policy,
    /// `--reserved-memory`: bytes that are not promised, by NUMA node.
    pub reserved_memory: BTreeMap<u32, u64>,
    /// `--topology-manager-policy` and its like.
    pub topology: hints::Settings,
}

/// What the administrator wrote, by the names of the kubelet's flags.
#[derive(Debug, Clone, Copy, Default)]
pub struct Written<'a> {
    /// `cpu-manager-policy`: `none` or `static`.
    pub cpu_policy: Option<&'a str>,
    /// `reserved-cpus`: a list like `0-3,8`.
    pub reserved_cpus: Option<&'a str>,
    /// `memory-manager-policy`: `None` or `Static`.
    pub memory_policy: Option<&'a str>,
    /// `reserved-memory`: a list like `0:memory=100Mi,1:memory=1Gi`.
    pub reserved_memory: Option<&'a str>,
    /// `topology-manager-policy`
    pub topology_policy: Option<&'a str>,
    /// `topology-manager-scope`
    pub topology_scope: Option<&'a str>,
    /// `topology-manager-policy-options`
    pub topology_options: Option<&'a str>,
}

impl Settings {
    /// What that means, or all that is wrong with it.
    pub fn read(written: &Written<'_>) -> Result<Self, Vec<String>> {
        let mut wrong = Vec::new();
        let cpus = policy("cpu-manager-policy", written.cpu_policy, ["none", "static"]);
        let reserved_cpus =
            written.reserved_cpus.unwrap_or_default().parse().map_err(|e| format!("reserved-cpus: {e}"));
        let memory = policy("memory-manager-policy", written.memory_policy, ["None", "Static"]);
        let Written { topology_policy, topology_scope, topology_options, .. } = *written;
        let topology = hints::Settings::read(topology_policy, topology_scope, topology_options);
        let settings = Settings {
            cpus: or_complain(cpus, &mut wrong),
            reserved_cpus: or_complain(reserved_cpus, &mut wrong),
            memory: or_complain(memory, &mut wrong),
            reserved_memory: or_complain(reserved_memory(written.reserved_memory.unwrap_or_default()), &mut wrong),
            topology: or_complain(topology, &mut wrong),
        };
        if wrong.is_empty() { Ok(settings) } else { Err(wrong) }
    }
}

fn or_complain<T: Default>(read: Result<T, String>, wrong: &mut Vec<String>) -> T {
    read.unwrap_or_else(|error| {
        wrong.push(error);
        T::default()
    })
}

fn policy(flag: &str, written: Option<&str>, [none, fixed]: [&str; 2]) -> Result<Policy, String> {
    match written {
        None => Ok(Policy::None),
        Some(name) if name == none => Ok(Policy::None),
        Some(name) if name == fixed => Ok(Policy::Static),
        Some(other) => Err(format!("{flag} {other:?} is not {none} or {fixed}")),
    }
}

fn reserved_memory(list: &str) -> Result<BTreeMap<u32, u64>, String> {
    let one = |part: &str| {
        let (node, amount) = part.trim().split_once(":memory=")?;
        let amount = u64::try_from(Quantity::parse(amount).ok()?.value()).ok()?;
        Some((node.parse().ok()?, amount))
    };
    let parts = list.split(',').filter(|p| !p.trim().is_empty());
    parts.map(|p| one(p).ok_or_else(|| format!("reserved-memory: {p:?} is not like 0:memory=100Mi"))).collect()
}

/// See the file's head.
#[derive(Debug, Default)]
pub struct Managers {
    /// Processors.
    pub cpus: Cpus,
    /// Memory.
    pub memories: Memories,
    /// On which NUMA nodes; `None` if nobody asks.
    merger: Option<Merger>,
    scope: Scope,
    nodes: topology::Nodes,
}

impl Managers {
    /// Reads the machine, and what an earlier run gave. `kept_free` tells how much of its memory pods are not promised.
    pub fn load(settings: &Settings, kept_free: impl Fn(u64) -> u64, data_dir: &Path) -> Result<Self, String> {
        let idle = (Policy::None, Policy::None, hints::Policy::None);
        if (settings.cpus, settings.memory, settings.topology.policy) == idle {
            return Ok(Managers::default());
        }
        let topology = Topology::read(Path::new("/sys/devices/system"), Path::new("/proc/meminfo"));
        let topology =
            topology.map_err(|e| format!("failed to read which processors and NUMA nodes there are: {e}"))?;
        Managers::new(settings, Arc::new(topology), kept_free, data_dir)
    }

    fn new(
        settings: &Settings,
        topology: Arc<Topology>,
        kept_free: impl Fn(u64) -> u64,
        data_dir: &Path,
    ) -> Result<Self, String> {
        let merges = settings.topology.policy != hints::Policy::None;
        let merger = merges.then(|| Merger::new(&settings.topology, &topology)).transpose()?;
        let (scope, nodes) = (settings.topology.scope, topology.all_nodes());
        let Settings { cpus, reserved_cpus, memory, reserved_memory, .. } = settings;
        let memories = Memories::load(*memory, reserved_memory, &topology, kept_free, data_dir)?;
        Ok(Managers { cpus: Cpus::load(*cpus, reserved_cpus, topology, data_dir)?, memories, merger, scope, nodes })
    }

    /// Gives a pod's containers what they are to have for themselves, or tells why not. One caller at a time.
    pub async fn allocate(&self, pod: &Pod, devices: &Devices, counters: &Counters) -> Result<(), Rejection> {
        counters.count(&counters::TOPOLOGY_ASKED, &[]);
        let begun = Instant::now();
        let done = self.allocate_all(pod, devices, counters).await;
        counters.observe(&counters::TOPOLOGY_TIME, &[], begun.elapsed().as_secs_f64() * 1000.0);
        if done.is_err() && self.merger.is_some() {
            counters.count(&counters::TOPOLOGY_FAILED, &[]);
        }
        done
    }

    async fn allocate_all(&self, pod: &Pod, devices: &Devices, counters: &Counters) -> Result<(), Rejection> {
        let of_pod = match self.scope {
            Scope::Pod => Some(self.merge(counters, || {
                let hints = [self.cpus.pod_hints(pod), self.memories.pod_hints(pod)];
                hints.into_iter().flatten().chain(devices.pod_hints(pod, self.nodes)).collect()
            })?),
            Scope::Container => None,
        };
        for c in view::containers_in_order(pod) {
            let affinity = match of_pod {
                Some(affinity) => affinity,
                None => self.merge(counters, || {
                    let hints = [self.cpus.hints(pod, c), self.memories.hints(pod, c)];
                    hints.into_iter().flatten().chain(devices.hints(pod, c, self.nodes)).collect()
                })?,
            };
            devices.allocate(pod, c, affinity).await.map_err(Rejection::unexpected)?;
            self.cpus.allocate(pod, c, affinity, counters).map_err(Rejection::unexpected)?;
            self.memories.allocate(pod, c, affinity, counters).map_err(Rejection::unexpected)?;
            if of_pod.is_none() {
                self.count_aligned(&counters::CONTAINERS_ALIGNED, counters);
            }
        }
        if of_pod.is_some() {
            self.count_aligned(&counters::CONTAINERS_ALIGNED, counters);
        }
        Ok(())
    }

    /// Only where one node is asked for it is known that all is there (`IsAlignmentGuaranteed`).
    fn count_aligned(&self, counter: &Counter, counters: &Counters) {
        if self.merger.as_ref().is_some_and(Merger::wants_one_node) {
            let scope = if self.scope == Scope::Pod { "pod" } else { "container" };
            counters.count(counter, &[scope, "numa_node"]);
        }
    }

    fn merge(&self, counters: &Counters, hints: impl Fn() -> Hints) -> Result<Hint, Rejection> {
        let Some(merger) = &self.merger else { return Ok(Hint::default()) };
        merger.merge(hints()).ok_or_else(|| {
            self.count_aligned(&counters::CONTAINERS_NOT_ALIGNED, counters);
            Rejection::topology()
        })
    }

    /// Only these pods have something for themselves.
    pub fn retain(&self, pods: impl Fn(&str) -> bool) {
        self.cpus.retain(&pods);
        self.memories.retain(&pods);
    }
}

/// Whether containers of the pod can have something for themselves. With resources of the pod as a whole, it is not known what is whose.
fn for_itself(pod: &Pod) -> bool {
    let whole = view::spec(pod).resources.as_ref();
    let whole = whole.is_some_and(|r| r.requests.is_some() || r.limits.is_some());
    !whole && qos_class(pod) == Qos::Guaranteed
}

/// What became of a wish, for `/metrics`: `given` tells whether the container has it only now.
fn count_allocation(counters: &Counters, resource: &str, failed: &Counter, given: &Result<bool, String>) {
    match given {
        Ok(true) => {
            counters.count(&counters::ALLOCATIONS, &[resource, "node"]);
            counters.count(&counters::ASSIGNMENTS, &[resource, "node_exclusive"]);
        }
        Ok(false) => {}
        Err(_) => {
            counters.count(failed, &[]);
            counters.count(&counters::ALLOCATIONS_FAILED, &[resource, "node"]);
        }
    }
}

fn requests(c: &Container) -> Option<&BTreeMap<String, ApiQuantity>> {
    let own = c.resources.as_ref()?;
    own.requests.as_ref().or(own.limits.as_ref())
}

#[cfg(test)]
mod tests;
