//! What a pod has been granted of the node, and what a resize of it has to change (`pkg/kubelet/allocation`, and
//! `computePodResizeAction` and `doPodResizeAction` of `kuberuntime_manager.go`). Pure.
//!
//! ```text
//!   spec (wanted) ──ask the node──▶ allocation (granted) ──write cgroups or restart──▶ actuated
//! ```
//!
//! Whatever runs is made from the allocation, never from the spec. Differs: pending resizes are asked again when another
//! pod gives something back, in no particular order.

use super::spec::resources::{self, Amounts, Qos, qos_class};
use super::view;
use crate::engine::Resources;
use crate::managers::{self, Policy};
use crate::swap::Swap;
use api::k8s::api::core::v1::{Container, Pod, ResourceRequirements};
use api::k8s::apimachinery::pkg::api::resource::Quantity;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::collections::BTreeMap;
use tokio::sync::Notify;

/// Resources of a pod: its own and those of its containers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Allocation {
    /// `spec.resources`
    pub pod: Option<ResourceRequirements>,
    /// By container name.
    pub containers: BTreeMap<String, ResourceRequirements>,
}

impl Allocation {
    /// What the spec asks for.
    pub fn wanted(pod: &Pod) -> Self {
        let all = view::init_containers(pod).iter().chain(view::app_containers(pod));
        Allocation {
            pod: view::spec(pod).resources.clone(),
            containers: all.map(|c| (c.name.clone(), c.resources.clone().unwrap_or_default())).collect(),
        }
    }

    /// The pod with these resources in its spec; the same pod if they are there already.
    pub fn apply<'a>(&self, pod: &'a Pod) -> Cow<'a, Pod> {
        if *self == Allocation::wanted(pod) {
            return Cow::Borrowed(pod);
        }
        let mut out = pod.clone();
        if let Some(spec) = &mut out.spec {
            spec.resources = self.pod.clone();
            for c in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
                if let Some(granted) = self.containers.get(&c.name) {
                    c.resources = Some(granted.clone());
                }
            }
        }
        Cow::Owned(out)
    }

    /// A container's share.
    pub fn of(&self, container: &str) -> ResourceRequirements {
        self.containers.get(container).cloned().unwrap_or_default()
    }

    fn effective(&self, container: &str) -> Effective {
        let pod = Amounts::of(self.pod.as_ref().and_then(|r| r.limits.as_ref()));
        let own = self.containers.get(container);
        let limits = Amounts::of(own.and_then(|r| r.limits.as_ref()));
        let or = |own: i64, pod: i64| if own > 0 { own } else { pod };
        Effective {
            requests: Amounts::of(own.and_then(|r| r.requests.as_ref())),
            limits: Amounts { cpu_milli: or(limits.cpu_milli, pod.cpu_milli), memory: or(limits.memory, pod.memory) },
        }
    }
}

/// What counts for a container: its requests, and its limits or else the pod's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Effective {
    requests: Amounts,
    limits: Amounts,
}

/// Whether a running container must be started again to go from one allocation to another (`resizePolicy`).
pub fn needs_restart(c: &Container, from: &Allocation, to: &Allocation) -> bool {
    let (old, new) = (from.effective(&c.name), to.effective(&c.name));
    let changed = |name: &str| match name {
        "cpu" => old.requests.cpu_milli != new.requests.cpu_milli || old.limits.cpu_milli != new.limits.cpu_milli,
        "memory" => old.requests.memory != new.requests.memory || old.limits.memory != new.limits.memory,
        _ => false,
    };
    c.resize_policy.iter().flatten().any(|p| p.restart_policy == "RestartContainer" && changed(&p.resource_name))
}

// === cgroups ===

/// A cgroup whose limits go from one to another.
#[derive(Debug, Clone, PartialEq)]
pub struct CgroupChange {
    /// Below the cgroup root.
    pub path: String,
    /// The container, or `None` for the pod's own.
    pub container: Option<String>,
    /// Its limits.
    pub from: Resources,
    /// Its limits to be.
    pub to: Resources,
}

/// The cgroups of a pod that change; `running` are names and run ids.
pub fn cgroup_changes(
    pod: &Pod,
    from: &Allocation,
    to: &Allocation,
    running: &[(String, String)],
    swap: &Swap,
) -> Vec<CgroupChange> {
    let (old, new) = (from.apply(pod), to.apply(pod));
    let path = resources::pod_cgroup_path(&new);
    let mut out = vec![CgroupChange {
        path: path.clone(),
        container: None,
        from: resources::pod_cgroup(&old),
        to: resources::pod_cgroup(&new),
    }];
    for (name, id) in running {
        let limits =
            |pod: &Pod| view::find_container(pod, name).map(|(_, c)| resources::container_cgroup(pod, &c, swap));
        if let (Some(from), Some(to)) = (limits(&old), limits(&new)) {
            out.push(CgroupChange { path: format!("{path}/{id}"), container: Some(name.clone()), from, to });
        }
    }
    out.retain(|c| c.from != c.to);
    out
}

/// What to write, in order: at no moment may a cgroup be allowed more than the one above it, which the kernel refuses.
pub fn cgroup_steps(changes: &[CgroupChange]) -> Vec<(String, Resources)> {
    let memory = |r: &Resources| Resources {
        memory_bytes: r.memory_bytes,
        swap_bytes: r.swap_bytes.filter(|_| r.memory_bytes.is_some()),
        ..Resources::default()
    };
    let cpu = |r: &Resources| Resources { memory_bytes: None, swap_bytes: None, pids: None, ..r.clone() };
    let kinds: [(fn(&Resources) -> Option<i64>, &dyn Fn(&Resources) -> Resources); 2] =
        [(|r| r.memory_bytes, &memory), (|r| r.cpu_quota_us, &cpu)];
    let mut out = Vec::new();
    for (limit, pick) in kinds {
        let unlimited = |r: &Resources| limit(r).unwrap_or(i64::MAX);
        let grows = |c: &&CgroupChange| unlimited(&c.to) > unlimited(&c.from);
        let (pods, mut containers): (Vec<&CgroupChange>, Vec<&CgroupChange>) =
            changes.iter().partition(|c| c.container.is_none());
        // Decreases first.
        containers.sort_by_key(|c| grows(c));
        let first = pods.iter().filter(|c| grows(c));
        let last = pods.iter().filter(|c| !grows(c));
        let differs = |c: &&&CgroupChange| pick(&c.from) != pick(&c.to);
        out.extend(first.chain(&containers).chain(last).filter(differs).map(|c| (c.path.clone(), pick(&c.to))));
    }
    out.retain(|(_, r)| *r != Resources::default());
    out
}

/// A memory limit below what is used would kill (`validateMemoryResizeAction`). `usage` tells a cgroup's bytes.
pub fn check_memory(changes: &[CgroupChange], usage: impl Fn(&str) -> u64) -> Result<(), String> {
    let mut errors = Vec::new();
    for change in changes {
        let Some(limit) = change.to.memory_bytes.filter(|to| *to < change.from.memory_bytes.unwrap_or(i64::MAX)) else {
            continue;
        };
        let used = usage(&change.path);
        if used >= limit.unsigned_abs() {
            let what = match &change.container {
                None => "pod".to_owned(),
                Some(name) => format!("container {name:?}"),
            };
            errors.push(format!("attempting to set {what} memory limit ({limit}) below current usage ({used})"));
        }
    }
    match errors.len() {
        0 => Ok(()),
        1 => Err(errors.remove(0)),
        _ => Err(format!("[{}]", errors.join(", "))),
    }
}

/// Containers that run as long as the pod does.
fn resizable(pod: &Pod) -> impl Iterator<Item = &Container> {
    view::app_containers(pod).iter().chain(view::init_containers(pod).iter().filter(|c| view::is_sidecar(c)))
}

/// What a new spec wants changed of what containers have: resource, requirement and operation, for `/metrics`
/// (`recordContainerResizeOperations`).
pub fn requested_changes(old: &Pod, new: &Pod) -> Vec<[&'static str; 3]> {
    let mut out = Vec::new();
    for before in resizable(old) {
        let Some(after) = resizable(new).find(|c| c.name == before.name && c.resources != before.resources) else {
            continue;
        };
        for resource in ["memory", "cpu"] {
            for requirement in ["requests", "limits"] {
                let of = |c: &Container| {
                    let own = c.resources.as_ref();
                    let list =
                        own.and_then(|r| if requirement == "limits" { r.limits.as_ref() } else { r.requests.as_ref() });
                    resources::amount(list, resource, resource == "cpu")
                };
                let operation = match (of(before), of(after)) {
                    (old, new) if old == new => continue,
                    (_, 0) => "remove",
                    (0, _) => "add",
                    (old, new) if new > old => "increase",
                    _ => "decrease",
                };
                out.push([resource, requirement, operation]);
            }
        }
    }
    out
}

// === the node's book ===

/// What a pod takes of the node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Demand {
    /// Thousandths of a CPU.
    pub cpu_milli: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes of disk.
    pub storage: i64,
}

impl Demand {
    /// The pod's requests, with its overhead (`PodRequests`).
    pub fn of(pod: &Pod) -> Self {
        let main = resources::pod_requests(pod);
        Demand { cpu_milli: main.cpu_milli, memory: main.memory, storage: resources::storage_request(pod) }
    }
}

/// Something that the node has not enough of.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, capacity: {capacity}")]
pub struct Shortage {
    /// `cpu`, `memory`, …
    pub resource: &'static str,
    /// By this pod.
    pub requested: i64,
    /// By the others.
    pub used: i64,
    /// Of the node.
    pub capacity: i64,
}

/// What all pods of the node have been granted.
#[derive(Debug, Default)]
pub struct Ledger {
    book: Mutex<BTreeMap<String, Demand>>,
    room: Notify,
}

impl Ledger {
    /// Grants `demand` to a pod, instead of what it had, if the node has it.
    pub fn grant(&self, uid: &str, demand: Demand, allocatable: &BTreeMap<String, Quantity>) -> Result<(), Shortage> {
        let mut book = self.book.lock();
        if let Some(shortage) = shortages(uid, demand, &book, allocatable).next() {
            return Err(shortage);
        }
        let before = book.insert(uid.to_owned(), demand).unwrap_or_default();
        let gave_back = demand.cpu_milli < before.cpu_milli || demand.memory < before.memory;
        drop(book);
        if gave_back {
            self.room.notify_one();
        }
        Ok(())
    }

    /// Everything that is too little for a pod.
    pub fn shortages(&self, uid: &str, demand: Demand, allocatable: &BTreeMap<String, Quantity>) -> Vec<Shortage> {
        shortages(uid, demand, &self.book.lock(), allocatable).collect()
    }

    /// Writes down what a pod has already, or gets whatever the others have.
    pub fn record(&self, uid: &str, demand: Demand) {
        self.book.lock().insert(uid.to_owned(), demand);
    }

    /// The pod needs nothing any more.
    pub fn release(&self, uid: &str) {
        if self.book.lock().remove(uid).is_some() {
            self.room.notify_one();
        }
    }

    /// Waits until something has been given back. One caller.
    pub async fn room_made(&self) {
        self.room.notified().await;
    }
}

/// `fitsRequest` of the scheduler's NodeResourcesFit, which the kubelet uses, too: what is too little. A resource that the
/// node has not told yet is not limited.
fn shortages(
    uid: &str,
    demand: Demand,
    book: &BTreeMap<String, Demand>,
    allocatable: &BTreeMap<String, Quantity>,
) -> impl Iterator<Item = Shortage> {
    let others: Vec<&Demand> = book.iter().filter(|(other, _)| *other != uid).map(|(_, d)| d).collect();
    let sum = |pick: fn(&Demand) -> i64| others.iter().map(|d| pick(d)).fold(0i64, i64::saturating_add);
    let checks: [(&'static str, i64, i64, bool); 4] = [
        ("pods", 1, i64::try_from(others.len()).unwrap_or(i64::MAX), false),
        ("cpu", demand.cpu_milli, sum(|d| d.cpu_milli), true),
        ("memory", demand.memory, sum(|d| d.memory), false),
        ("ephemeral-storage", demand.storage, sum(|d| d.storage), false),
    ];
    let asked =
        checks.into_iter().filter(|(resource, requested, ..)| allocatable.contains_key(*resource) && *requested != 0);
    asked.filter_map(|(resource, requested, used, milli)| {
        let capacity = resources::amount(Some(allocatable), resource, milli);
        (requested > capacity.saturating_sub(used)).then_some(Shortage { resource, requested, used, capacity })
    })
}

// === what the API is told ===

/// How far a resize is, for the pod's conditions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resize {
    /// The node is being asked. Not kept: after a restart it is asked again.
    #[serde(skip)]
    pub asking: bool,
    /// The node had no room (`PodResizePending`).
    pub pending: Option<Pending>,
    /// Granted but not yet done (`PodResizeInProgress`).
    pub progress: Option<Progress>,
    /// Cgroups are being written.
    #[serde(skip)]
    pub acting: bool,
}

/// Why the node does not do a resize.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// It never will, unless the pod asks for something else.
    pub infeasible: bool,
    /// For the pod's condition.
    pub message: String,
}

/// Why a resize can never be done on this node, and how `/metrics` names that (`podResizesAdmitHandler`). What containers have for
/// themselves stays as it is, and so does what they may swap.
pub fn infeasible(
    wanted: &Pod,
    granted: &Pod,
    managers: &managers::Settings,
    swap: &Swap,
) -> Option<(&'static str, &'static str)> {
    let pairs: Vec<(&Container, &Container)> = resizable(wanted)
        .filter_map(|c| Some((c, view::containers_in_order(granted).find(|g| g.name == c.name)?)))
        .collect();
    let differs = |(new, old): &(&Container, &Container), resource: &str| {
        let of = |c: &Container| resources::amount(resources::requests(c), resource, resource == "cpu");
        of(new) != of(old)
    };
    let restarts = |c: &Container| {
        c.resize_policy.iter().flatten().any(|p| p.resource_name == "memory" && p.restart_policy == "RestartContainer")
    };
    let swaps = |(new, old): &(&Container, &Container)| {
        !restarts(old) && (swap.may_swap(wanted, new) || swap.may_swap(granted, old))
    };
    if pairs.iter().any(|pair| differs(pair, "memory") && swaps(pair)) {
        return Some(("swap_limitation", "In-place resize of containers with swap is not supported."));
    }
    if qos_class(wanted) != Qos::Guaranteed {
        return None;
    }
    let any = |resource| pairs.iter().any(|pair| differs(pair, resource));
    if managers.cpus == Policy::Static && any("cpu") {
        return Some((
            "guaranteed_pod_cpu_manager_static_policy",
            "Resize is infeasible for Guaranteed Pods alongside CPU Manager policy \"static\"",
        ));
    }
    (managers.memory == Policy::Static && any("memory")).then_some((
        "guaranteed_pod_memory_manager_static_policy",
        "Resize is infeasible for Guaranteed Pods alongside Memory Manager policy \"Static\"",
    ))
}

/// A resize that waits for room, or for ever.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// Why.
    pub message: String,
    /// `metadata.generation` that asked.
    pub generation: Option<i64>,
    /// Something was given back: ask again.
    #[serde(skip)]
    pub again: bool,
    /// No room would help.
    #[serde(default)]
    pub infeasible: bool,
}

impl Pending {
    /// `reason` of its condition.
    pub fn reason(&self) -> &'static str {
        if self.infeasible { "Infeasible" } else { "Deferred" }
    }
}

/// A resize that is being done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// `metadata.generation` that asked.
    pub generation: Option<i64>,
    /// Why it did not work the last time.
    pub error: Option<String>,
    /// When to try again after an error.
    pub retry_at: Option<jiff::Timestamp>,
}

/// The message of an event about a resize (`pkg/kubelet/events/resize.go`).
pub fn event_text(prefix: &str, pod: &Pod, generation: Option<i64>, error: &str) -> String {
    let list = |all: &[Container]| -> Vec<Value> {
        all.iter().map(|c| json!({"name": c.name, "resources": c.resources.clone().unwrap_or_default()})).collect()
    };
    // Written by hand because upstream's order of keys is not alphabetical.
    let mut parts = Vec::new();
    for (key, containers) in [("initContainers", view::init_containers(pod)), ("containers", view::app_containers(pod))]
    {
        if !containers.is_empty() {
            parts.push(format!("{:?}:{}", key, Value::Array(list(containers))));
        }
    }
    parts.push(format!("\"generation\":{}", generation.unwrap_or(0)));
    if !error.is_empty() {
        parts.push(format!("\"error\":{}", Value::String(error.to_owned())));
    }
    format!("{prefix}: {{{}}}", parts.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::fixture::pod;
    use expect_test::{Expect, expect};

    fn two(a: &str, b: &str) -> Pod {
        let one = |name: &str, cpu_memory: &str| {
            let (cpu, memory) = cpu_memory.split_once('/').expect("cpu/memory");
            let amounts = format!(r#"{{"cpu":"{cpu}","memory":"{memory}"}}"#);
            format!(r#"{{"name":"{name}","image":"i","resources":{{"requests":{amounts},"limits":{amounts}}}}}"#)
        };
        pod(&format!(r#"{{"containers":[{},{}]}}"#, one("a", a), one("b", b)))
    }

    fn check_steps(from: &Pod, to: &Pod, want: Expect) {
        let running = [("a".to_owned(), "A".to_owned()), ("b".to_owned(), "B".to_owned())];
        let changes =
            cgroup_changes(to, &Allocation::wanted(from), &Allocation::wanted(to), &running, &Swap::default());
        let line = |(path, r): &(String, Resources)| {
            let values = [
                r.memory_bytes.map(|n| format!(" memory={n}")),
                r.cpu_shares.map(|n| format!(" shares={n}")),
                r.cpu_quota_us.map(|n| format!(" quota={n}")),
            ];
            format!("{path}{}\n", values.into_iter().flatten().collect::<String>())
        };
        want.assert_eq(&cgroup_steps(&changes).iter().map(line).collect::<String>());
    }

    #[test]
    fn a_growing_pod_grows_before_its_containers() {
        check_steps(
            &two("100m/10Mi", "100m/20Mi"),
            &two("300m/30Mi", "50m/10Mi"),
            expect![[r#"
                kubepods/pod1-2-3 memory=41943040
                kubepods/pod1-2-3/B memory=10485760
                kubepods/pod1-2-3/A memory=31457280
                kubepods/pod1-2-3 shares=358 quota=35000
                kubepods/pod1-2-3/B shares=51 quota=5000
                kubepods/pod1-2-3/A shares=307 quota=30000
            "#]],
        );
    }

    #[test]
    fn a_shrinking_pod_shrinks_after_its_containers() {
        check_steps(
            &two("300m/30Mi", "50m/10Mi"),
            &two("100m/30Mi", "50m/10Mi"),
            expect![[r#"
                kubepods/pod1-2-3/A shares=102 quota=10000
                kubepods/pod1-2-3 shares=153 quota=15000
            "#]],
        );
    }

    #[test]
    fn memory_in_use_is_not_taken_away() {
        let changes = cgroup_changes(
            &two("1/20Mi", "1/20Mi"),
            &Allocation::wanted(&two("1/20Mi", "1/20Mi")),
            &Allocation::wanted(&two("1/5Mi", "1/20Mi")),
            &[("a".to_owned(), "A".to_owned())],
            &Swap::default(),
        );
        assert_eq!(check_memory(&changes, |_| 1 << 20), Ok(()));
        assert_eq!(
            check_memory(&changes, |path| if path.ends_with('A') { 6 << 20 } else { 7 << 20 }),
            Err("attempting to set container \"a\" memory limit (5242880) below current usage (6291456)".into())
        );
    }

    #[test]
    fn only_the_resource_with_the_policy_restarts() {
        let mut to = two("1/20Mi", "1/20Mi");
        let from = Allocation::wanted(&two("1/10Mi", "1/20Mi"));
        let containers = &mut to.spec.as_mut().expect("there is one").containers;
        let policy = |name: &str| api::k8s::api::core::v1::ContainerResizePolicy {
            resource_name: name.into(),
            restart_policy: "RestartContainer".into(),
        };
        containers[0].resize_policy = Some(vec![policy("cpu")]);
        let wanted = |pod: &Pod| Allocation::wanted(pod);
        assert!(!needs_restart(&view::app_containers(&to)[0], &from, &wanted(&to)));
        to.spec.as_mut().expect("there is one").containers[0].resize_policy = Some(vec![policy("memory")]);
        assert!(needs_restart(&view::app_containers(&to)[0], &from, &wanted(&to)));
    }

    #[test]
    fn a_resize_of_what_a_container_has_for_itself_is_infeasible() {
        let was = two("1/20Mi", "1/20Mi");
        let check = |to: &Pod, settings: &managers::Settings, want: &str| {
            let got = infeasible(to, &was, settings, &Swap::default()).map(|(name, _)| name).unwrap_or_default();
            assert_eq!(got, want);
        };
        let fixed = managers::Settings { cpus: Policy::Static, memory: Policy::Static, ..Default::default() };
        let (cpu, memory) = (two("2/20Mi", "1/20Mi"), two("1/20Mi", "1/30Mi"));
        check(&cpu, &managers::Settings::default(), "");
        check(&cpu, &fixed, "guaranteed_pod_cpu_manager_static_policy");
        check(&memory, &fixed, "guaranteed_pod_memory_manager_static_policy");
        check(&was, &fixed, "");
        let burstable = |memory: &str| {
            let amounts = format!(r#"{{"requests":{{"memory":"{memory}"}},"limits":{{"memory":"1Gi"}}}}"#);
            pod(&format!(r#"{{"containers":[{{"name":"a","image":"i","resources":{amounts}}}]}}"#))
        };
        let swap = Swap { behavior: crate::swap::Behavior::LimitedSwap, counted: true, ..Swap::default() };
        let swapping = |to: &str, swap: &Swap| infeasible(&burstable(to), &burstable("1Mi"), &fixed, swap);
        assert_eq!(swapping("2Mi", &swap).map(|(name, _)| name), Some("swap_limitation"));
        assert_eq!(swapping("1Mi", &swap), None);
        assert_eq!(swapping("2Mi", &Swap::default()), None);
    }

    #[test]
    fn what_a_resize_wants_is_told() {
        let changes = requested_changes(&two("1/20Mi", "1/20Mi"), &two("2/20Mi", "1/10Mi"));
        let cpu = [["cpu", "requests", "increase"], ["cpu", "limits", "increase"]];
        let memory = [["memory", "requests", "decrease"], ["memory", "limits", "decrease"]];
        assert_eq!(changes, [cpu, memory].concat());
        assert_eq!(requested_changes(&two("1/20Mi", "1/20Mi"), &two("1/20Mi", "1/20Mi")), [["", "", ""]; 0]);
    }

    #[test]
    fn the_node_grants_what_it_has() {
        let allocatable: BTreeMap<String, Quantity> =
            [("cpu", "1"), ("memory", "100"), ("pods", "2")].map(|(k, v)| (k.to_owned(), Quantity(v.into()))).into();
        let ledger = Ledger::default();
        let demand = |cpu_milli, memory| Demand { cpu_milli, memory, storage: 0 };
        assert_eq!(ledger.grant("a", demand(600, 10), &allocatable), Ok(()));
        let refused = ledger.grant("b", demand(500, 10), &allocatable).expect_err("too much").to_string();
        assert_eq!(refused, "Node didn't have enough resource: cpu, requested: 500, used: 600, capacity: 1000");
        assert_eq!(ledger.grant("a", demand(400, 10), &allocatable), Ok(()));
        assert_eq!(ledger.grant("b", demand(500, 90), &allocatable), Ok(()));
        let refused = ledger.grant("c", demand(0, 0), &allocatable).expect_err("too many").to_string();
        assert_eq!(refused, "Node didn't have enough resource: pods, requested: 1, used: 2, capacity: 2");
        ledger.release("b");
        assert_eq!(ledger.grant("c", demand(0, 0), &allocatable), Ok(()));
    }

    #[test]
    fn events_show_what_was_granted() {
        let text = event_text("Pod resize completed", &two("1/10Mi", "1/20Mi"), Some(2), "");
        expect![[r#"Pod resize completed: {"containers":[{"name":"a","resources":{"limits":{"cpu":"1","memory":"10Mi"},"requests":{"cpu":"1","memory":"10Mi"}}},{"name":"b","resources":{"limits":{"cpu":"1","memory":"20Mi"},"requests":{"cpu":"1","memory":"20Mi"}}}],"generation":2}"#]].assert_eq(&text);
    }
}
