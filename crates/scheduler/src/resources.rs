//! [`Resources`]: amounts, and what a pod takes (`component-helpers/resource/helpers.go`).

use api::k8s::api::core::v1::{Container, ContainerStatus, PodSpec};
use api::k8s::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use api::prelude::Pod;
use machinery::quantity::Quantity;
use std::collections::BTreeMap;

/// What containers without requests are counted as when nodes are compared (`DefaultMilliCPURequest`,
/// `DefaultMemoryRequest`).
const DEFAULT_MILLI_CPU: i64 = 100;
const DEFAULT_MEMORY: i64 = 200 * 1024 * 1024;

/// Amounts: CPU in thousandths, everything else in its own unit (bytes, pieces). Sums stop at the largest number.
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

type List = BTreeMap<String, ApiQuantity>;

impl Resources {
    /// Reads a resource list; unknown text counts as nothing (validation refuses such).
    pub fn of(list: Option<&List>) -> Self {
        let mut all = Resources::default();
        list.into_iter().flatten().for_each(|(name, amount)| all.set(name, amount));
        all
    }

    fn set(&mut self, name: &str, amount: &ApiQuantity) {
        let Ok(q) = Quantity::parse(&amount.0) else { return };
        match name {
            "cpu" => self.milli_cpu = q.milli_value(),
            "memory" => self.memory = q.value(),
            "ephemeral-storage" => self.ephemeral = q.value(),
            "pods" => {}
            other => {
                self.scalar.insert(other.to_owned(), q.value());
            }
        }
    }

    /// Adds (or with `sign` -1 takes away).
    pub fn add(&mut self, other: &Resources, sign: i64) {
        let sum = |a: &mut i64, b: i64| *a = a.saturating_add(b.saturating_mul(sign));
        sum(&mut self.milli_cpu, other.milli_cpu);
        sum(&mut self.memory, other.memory);
        sum(&mut self.ephemeral, other.ephemeral);
        for (name, amount) in &other.scalar {
            sum(self.scalar.entry(name.clone()).or_default(), *amount);
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

    /// Whether some amount is smaller than in `other`.
    pub fn is_less_somewhere(&self, other: &Resources) -> bool {
        let scalar = |name: &String| self.scalar.get(name).copied().unwrap_or(0);
        self.milli_cpu < other.milli_cpu
            || self.memory < other.memory
            || self.ephemeral < other.ephemeral
            || other.scalar.iter().any(|(name, amount)| scalar(name) < *amount)
    }
}

/// What must fit on a node, and CPU and memory as counted for comparing nodes.
pub(crate) fn of_pod(pod: &Pod) -> (Resources, (i64, i64)) {
    let Some(spec) = &pod.spec else { return (Resources::default(), (0, 0)) };
    let asked = sum(pod, spec, |container| container);
    let counted = sum(pod, spec, |mut container| {
        // Zero that is asked for stays zero.
        if container.0.milli_cpu == 0 && !container.1.contains(&"cpu") {
            container.0.milli_cpu = DEFAULT_MILLI_CPU;
        }
        if container.0.memory == 0 && !container.1.contains(&"memory") {
            container.0.memory = DEFAULT_MEMORY;
        }
        container
    });
    (asked, (counted.milli_cpu, counted.memory))
}

/// A container's amounts, and which of them it names.
type Asked<'a> = (Resources, Vec<&'a str>);

/// Containers and sidecars together, or the largest moment of the init containers; then what the pod as a whole asks for,
/// and its overhead (`PodRequests`).
fn sum<'a>(pod: &'a Pod, spec: &'a PodSpec, fill: impl Fn(Asked<'a>) -> Asked<'a>) -> Resources {
    let mut running = Resources::default();
    let mut sidecars = Resources::default();
    let mut peak = Resources::default();
    let status = pod.status.as_ref();
    for c in spec.init_containers.iter().flatten() {
        let sidecar = c.restart_policy.as_deref() == Some("Always");
        let seen = status.filter(|_| sidecar).and_then(|s| s.init_container_statuses.as_deref());
        let own = fill(of_container(pod, c, seen)).0;
        let mut moment = sidecars.clone();
        moment.add(&own, 1);
        peak.max(&moment);
        if sidecar {
            sidecars.add(&own, 1);
        }
    }
    for c in &spec.containers {
        running.add(&fill(of_container(pod, c, status.and_then(|s| s.container_statuses.as_deref()))).0, 1);
    }
    running.add(&sidecars, 1);
    running.max(&peak);
    for (name, amount) in spec.resources.iter().flat_map(|r| r.requests.iter().flatten()) {
        if name == "cpu" || name == "memory" || name.starts_with("hugepages-") {
            running.set(name, amount);
        }
    }
    running.add(&Resources::of(spec.overhead.as_ref()), 1);
    running
}

/// What is asked for, or what the node still gives while it is being resized (`determineContainerReqs`).
fn of_container<'a>(pod: &Pod, container: &'a Container, statuses: Option<&'a [ContainerStatus]>) -> Asked<'a> {
    let asked = container.resources.as_ref().and_then(|r| r.requests.as_ref());
    let mut amounts = Resources::of(asked);
    let mut named: Vec<&str> = asked.into_iter().flatten().map(|(name, _)| name.as_str()).collect();
    let status = statuses.and_then(|all| all.iter().find(|s| s.name == container.name));
    let given = status.and_then(|s| s.resources.as_ref()?.requests.as_ref());
    let allocated = status.and_then(|s| s.allocated_resources.as_ref());
    if given.is_some() || allocated.is_some() {
        if is_resize_infeasible(pod) {
            amounts = Resources::default();
        }
        amounts.max(&Resources::of(given));
        amounts.max(&Resources::of(allocated));
        named.extend([given, allocated].into_iter().flatten().flatten().map(|(name, _)| name.as_str()));
    }
    (amounts, named)
}

/// `IsPodResizeInfeasible`
fn is_resize_infeasible(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|c| c.type_ == "PodResizePending" && c.reason.as_deref() == Some("Infeasible"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::Codec;

    #[track_caller]
    fn check(spec: &str, want: (i64, i64)) {
        let pod = Pod::decode(format!(r#"{{"metadata":{{"name":"p"}},"spec":{spec}}}"#).as_bytes()).expect("test pod");
        let (asked, counted) = of_pod(&pod);
        assert_eq!((asked.milli_cpu, counted.0), want);
    }

    #[test]
    fn init_containers_count_by_their_peak_and_sidecars_add_up() {
        let c = |name: &str, cpu: &str, more: &str| {
            format!(r#"{{"name":"{name}","resources":{{"requests":{{"cpu":"{cpu}"}}}}{more}}}"#)
        };
        let always = r#","restartPolicy":"Always""#;
        check(
            &format!(r#"{{"containers":[{}],"initContainers":[{}]}}"#, c("a", "1", ""), c("i", "3", "")),
            (3000, 3000),
        );
        let inits = format!("{},{}", c("s", "1", always), c("i", "1", ""));
        check(&format!(r#"{{"containers":[{}],"initContainers":[{inits}]}}"#, c("a", "2", "")), (3000, 3000));
    }

    #[test]
    fn overhead_adds_and_pod_level_requests_replace() {
        check(r#"{"containers":[{"name":"a"}],"overhead":{"cpu":"250m"}}"#, (250, 350));
        check(r#"{"containers":[{"name":"a"}],"resources":{"requests":{"cpu":"2"}}}"#, (2000, 2000));
    }
}
