//! What objects use of a ResourceQuota: one [`Evaluator`] per counted resource (`pkg/quota/v1/evaluator/core`,
//! `apiserver/pkg/quota/v1/{resources,generic/evaluator}.go`). Admission charges and the controller recounts by it.
//!
//! Differs from upstream: devices that a pod asks for as extended resources are not counted against their DeviceClass.

use crate::kinds;
use crate::quantity::{Format, Quantity};
use api::AnyObject;
use api::any::downcast_ref;
use api::k8s::api::core::v1::{
    Container, PodAffinityTerm, ResourceQuota, ResourceRequirements, ScopedResourceSelectorRequirement,
};
use api::k8s::api::resource::v1::ResourceClaim;
use api::k8s::apimachinery::pkg::api::resource::Quantity as Text;
use api::prelude::*;
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

/// How much of what.
pub type Usage = BTreeMap<String, Quantity>;
/// The same, as objects have it.
pub type ResourceList = BTreeMap<String, Text>;

/// Resources that pods use, beside those with a prefix (`podResources`).
const POD_NAMES: [&str; 11] = [
    "count/pods",
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
];
/// What every container must say if a quota limits it (`validationSet`).
const COMPULSORY: [&str; 6] = ["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];
const SERVICE_NAMES: [&str; 4] = ["count/services", "services", "services.nodeports", "services.loadbalancers"];
const CLAIM_NAMES: [&str; 3] = ["count/persistentvolumeclaims", "persistentvolumeclaims", "requests.storage"];
const OF_STORAGE_CLASS: [&str; 2] =
    [".storageclass.storage.k8s.io/persistentvolumeclaims", ".storageclass.storage.k8s.io/requests.storage"];
const DEVICE_CLAIM_COUNT: &str = "count/resourceclaims.resource.k8s.io";
const OF_DEVICE_CLASS: &str = ".deviceclass.resource.k8s.io/devices";
const DEVICE_CLASS_PREFIX: &str = "deviceclass.resource.kubernetes.io/";
/// The most devices one request can get (`AllocationResultsMaxSize`).
const MAX_DEVICES: i64 = 32;
/// Kinds that had a name of their own before `count/` (`legacyObjectCountAliases`).
const OLD_COUNTS: [&str; 4] = ["configmaps", "replicationcontrollers", "resourcequotas", "secrets"];
/// What quotas do not count (`pkg/quota/v1/install/registry.go`), by group and plural.
const IGNORED: [(&str, &str); 10] = [
    ("", "bindings"),
    ("", "componentstatuses"),
    ("", "events"),
    ("events.k8s.io", "events"),
    ("authentication.k8s.io", "tokenreviews"),
    ("authentication.k8s.io", "selfsubjectreviews"),
    ("authorization.k8s.io", "subjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectaccessreviews"),
    ("authorization.k8s.io", "localsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectrulesreviews"),
];

/// Measures the objects of one resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Evaluator {
    /// Pods, by what their containers ask for.
    Pods,
    /// Services, by node ports and load balancers.
    Services,
    /// PersistentVolumeClaims, by storage and storage class.
    Claims,
    /// ResourceClaims, by device class.
    DeviceClaims,
    /// Anything else, by number.
    Count {
        /// `count/…`
        name: String,
        /// The name from before there was `count/…`.
        old_name: Option<&'static str>,
    },
}

impl Evaluator {
    /// Those that do more than counting.
    pub const MEASURING: [Evaluator; 4] =
        [Evaluator::Pods, Evaluator::Services, Evaluator::Claims, Evaluator::DeviceClaims];

    /// Who measures the objects of this resource; `None`: quotas do not count them.
    pub fn of(group: &str, plural: &str) -> Option<Evaluator> {
        match (group, plural) {
            ("", "pods") => Some(Evaluator::Pods),
            ("", "services") => Some(Evaluator::Services),
            ("", "persistentvolumeclaims") => Some(Evaluator::Claims),
            ("resource.k8s.io", "resourceclaims") => Some(Evaluator::DeviceClaims),
            known if IGNORED.contains(&known) => None,
            ("", plural) => {
                let old_name = OLD_COUNTS.into_iter().find(|old| *old == plural);
                Some(Evaluator::Count { name: format!("count/{plural}"), old_name })
            }
            (group, plural) => Some(Evaluator::Count { name: format!("count/{plural}.{group}"), old_name: None }),
        }
    }

    /// The plural and group whose objects are counted under `name`, if it is the name of a mere count.
    pub fn counted(name: &str) -> Option<(&str, &str)> {
        if OLD_COUNTS.contains(&name) {
            return Some((name, ""));
        }
        let rest = name.strip_prefix("count/")?;
        let (plural, group) = rest.split_once('.').unwrap_or((rest, ""));
        matches!(Self::of(group, plural), Some(Evaluator::Count { .. })).then_some((plural, group))
    }

    /// Whether the quota resource `name` is measured here (`MatchingResources`).
    pub fn counts(&self, name: &str) -> bool {
        match self {
            Evaluator::Pods => {
                POD_NAMES.contains(&name)
                    || name.starts_with("hugepages-")
                    || name.starts_with("requests.hugepages-")
                    || name.strip_prefix("requests.").is_some_and(|rest| {
                        rest.starts_with(DEVICE_CLASS_PREFIX) || rest.contains('/') && !rest.contains("kubernetes.io/")
                    })
            }
            Evaluator::Services => SERVICE_NAMES.contains(&name),
            Evaluator::Claims => {
                CLAIM_NAMES.contains(&name) || OF_STORAGE_CLASS.iter().any(|suffix| name.ends_with(suffix))
            }
            Evaluator::DeviceClaims => name == DEVICE_CLAIM_COUNT || name.ends_with(OF_DEVICE_CLASS),
            Evaluator::Count { name: own, old_name } => name == own || old_name.is_some_and(|old| old == name),
        }
    }

    /// Whether `object` is in all of these scopes (`Matches`).
    pub fn is_in(&self, object: &dyn AnyObject, scopes: &[ScopedResourceSelectorRequirement]) -> bool {
        scopes.iter().all(|scope| match self {
            Evaluator::Pods => downcast_ref(object).is_some_and(|pod| pod_is_in(pod, scope)),
            Evaluator::Claims => downcast_ref(object).is_some_and(|claim| claim_is_in(claim, scope)),
            // Other things have no scopes, so a quota with scopes does not count them.
            _ => false,
        })
    }

    /// What `object` uses.
    pub fn usage(&self, object: &dyn AnyObject, now: Timestamp) -> Usage {
        let mut usage = Usage::new();
        match self {
            Evaluator::Pods => downcast_ref(object).into_iter().for_each(|pod| add_pod(&mut usage, pod, now)),
            Evaluator::Services => downcast_ref(object).into_iter().for_each(|s| add_service(&mut usage, s)),
            Evaluator::Claims => downcast_ref(object).into_iter().for_each(|c| add_claim(&mut usage, c)),
            Evaluator::DeviceClaims => downcast_ref(object).into_iter().for_each(|c| add_device_claim(&mut usage, c)),
            Evaluator::Count { .. } => usage = self.count(1),
        }
        usage
    }

    /// What so many objects use that are merely counted.
    pub fn count(&self, objects: usize) -> Usage {
        let Evaluator::Count { name, old_name } = self else { return Usage::new() };
        let names = [Some(name.as_str()), *old_name];
        names.into_iter().flatten().map(|name| (name.to_owned(), number_of(objects))).collect()
    }

    /// What a pod's containers must say because a quota limits `required`; the text tells what is missing (`Constraints`).
    pub fn constraints<'a>(
        &self,
        required: impl Iterator<Item = &'a str>,
        object: &dyn AnyObject,
    ) -> Result<(), String> {
        let (Evaluator::Pods, Some(pod)) = (self, downcast_ref::<Pod>(object)) else { return Ok(()) };
        let spec = pod.spec.clone().unwrap_or_default();
        if spec.resources.as_ref().is_some_and(is_pod_level_set) {
            return Ok(());
        }
        let required: BTreeSet<&str> = required.filter(|name| COMPULSORY.contains(name)).collect();
        let mut missing: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
            let resources = container.resources.clone().unwrap_or_default();
            let mut said = Usage::new();
            add_compute(&mut said, &parse(resources.requests.as_ref()), &parse(resources.limits.as_ref()));
            for name in required.iter().filter(|name| !said.contains_key(**name)) {
                missing.entry(name).or_default().insert(&container.name);
            }
        }
        let texts: Vec<String> = missing
            .iter()
            .map(|(name, containers)| {
                format!("{name} for: {}", containers.iter().copied().collect::<Vec<_>>().join(","))
            })
            .collect();
        if texts.is_empty() { Ok(()) } else { Err(format!("must specify {}", texts.join("; "))) }
    }
}

/// The scopes of a quota in one form (`getScopeSelectorsFromQuota`).
pub fn scopes(quota: &ResourceQuota) -> Vec<ScopedResourceSelectorRequirement> {
    let spec = quota.spec.clone().unwrap_or_default();
    let named = spec.scopes.into_iter().flatten().map(|scope_name| ScopedResourceSelectorRequirement {
        operator: "Exists".into(),
        scope_name,
        values: None,
    });
    let selected = spec.scope_selector.and_then(|s| s.match_expressions).unwrap_or_default();
    named.chain(selected).collect()
}

/// Quantities that can be read.
pub fn parse(list: Option<&ResourceList>) -> Usage {
    list.into_iter().flatten().filter_map(|(k, v)| Some((k.clone(), Quantity::parse(&v.0).ok()?))).collect()
}

/// As text.
pub fn texts(usage: &Usage) -> ResourceList {
    usage.iter().map(|(name, value)| (name.clone(), Text(value.to_string()))).collect()
}

/// Sums up.
pub fn add(total: &mut Usage, more: &Usage) {
    more.iter().for_each(|(name, value)| add_one(total, name, value));
}

fn add_one(total: &mut Usage, name: &str, value: &Quantity) {
    match total.get_mut(name) {
        Some(sum) => sum.add(value),
        None => drop(total.insert(name.to_owned(), value.clone())),
    }
}

fn raise(total: &mut Usage, to: &Usage) {
    for (name, value) in to {
        if total.get(name).is_none_or(|v| v < value) {
            total.insert(name.clone(), value.clone());
        }
    }
}

fn number_of(n: usize) -> Quantity {
    Quantity::new(i64::try_from(n).unwrap_or(i64::MAX), Format::default())
}

// === pods ===

/// When a pod that is being deleted stops to count although it is still there (`QuotaV1Pod`).
pub fn pod_released_at(pod: &Pod) -> Option<Timestamp> {
    let grace = SignedDuration::from_secs(pod.metadata.deletion_grace_period_seconds?);
    pod.metadata.deletion_timestamp.as_ref()?.0.checked_add(grace).ok()
}

/// `PodUsageFunc`
fn add_pod(total: &mut Usage, pod: &Pod, now: Timestamp) {
    add_one(total, "count/pods", &number_of(1));
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default();
    if matches!(phase, "Succeeded" | "Failed") || pod_released_at(pod).is_some_and(|at| at < now) {
        return;
    }
    add_one(total, "pods", &number_of(1));
    add_compute(total, &pod_resources(pod, Side::Requests), &pod_resources(pod, Side::Limits));
}

/// `podComputeUsageHelper`
fn add_compute(total: &mut Usage, requests: &Usage, limits: &Usage) {
    for (name, value) in requests {
        match name.as_str() {
            "cpu" | "memory" | "ephemeral-storage" => {
                add_one(total, name, value);
                add_one(total, &format!("requests.{name}"), value);
            }
            huge if huge.starts_with("hugepages-") => {
                add_one(total, huge, value);
                add_one(total, &format!("requests.{huge}"), value);
            }
            extended if is_extended(extended) => add_one(total, &format!("requests.{extended}"), value),
            _ => {}
        }
    }
    for (name, value) in limits {
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") {
            add_one(total, &format!("limits.{name}"), value);
        }
    }
}

/// `IsDRAExtendedResourceName`
fn is_extended(name: &str) -> bool {
    name.starts_with(DEVICE_CLASS_PREFIX)
        || name.contains('/') && !name.contains("kubernetes.io/") && !name.starts_with("requests.")
}

/// Which half of a container's resources.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// `requests`
    Requests,
    /// `limits`
    Limits,
}

impl Side {
    fn of(self, resources: Option<&ResourceRequirements>) -> Usage {
        let list = |r: &ResourceRequirements| match self {
            Side::Requests => parse(r.requests.as_ref()),
            Side::Limits => parse(r.limits.as_ref()),
        };
        resources.map(list).unwrap_or_default()
    }
}

/// What a pod needs: its containers and sidecars together, or its hungriest init container; and the overhead. What is
/// said for the whole pod goes before (`component-helpers/resource/helpers.go`, `PodRequests`, `PodLimits`). While a resize
/// is under way, the larger of what is wanted and what is given counts.
pub fn pod_resources(pod: &Pod, side: Side) -> Usage {
    let Some(spec) = &pod.spec else { return Usage::new() };
    let status = pod.status.clone().unwrap_or_default();
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let infeasible =
        conditions.iter().any(|c| c.type_ == "PodResizePending" && c.reason.as_deref() == Some("Infeasible"));
    let given = |container: &Container, wanted: Usage| {
        let all = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
        let status = all.into_iter().find(|s| s.name == container.name && s.resources.is_some());
        let Some(status) = status else { return wanted };
        let mut most = if infeasible { Usage::new() } else { wanted };
        raise(&mut most, &side.of(status.resources.as_ref()));
        if side == Side::Requests {
            raise(&mut most, &parse(status.allocated_resources.as_ref()));
        }
        most
    };
    with_overhead(together(spec, side, given), spec, side)
}

/// What a pod's spec says, with its overhead, whatever its status tells.
pub fn wanted_resources(spec: &PodSpec, side: Side) -> Usage {
    with_overhead(spec_resources(spec, side), spec, side)
}

fn with_overhead(mut total: Usage, spec: &PodSpec, side: Side) -> Usage {
    let overhead = parse(spec.overhead.as_ref());
    match side {
        Side::Requests => add(&mut total, &overhead),
        Side::Limits => {
            for (name, value) in overhead {
                if let Some(limit) = total.get_mut(&name).filter(|l| !l.is_zero()) {
                    limit.add(&value);
                }
            }
        }
    }
    total
}

/// What a pod's spec says, without overhead.
pub fn spec_resources(spec: &PodSpec, side: Side) -> Usage {
    together(spec, side, |_, wanted| wanted)
}

/// What the containers of a pod need together (`AggregateContainerRequests`, `AggregateContainerLimits`).
pub fn containers_resources(spec: &PodSpec, side: Side) -> Usage {
    of_containers(spec, side, |_, wanted| wanted)
}

/// `given` tells what counts of a container that runs as long as the pod, from what it wants.
fn together(spec: &PodSpec, side: Side, given: impl Fn(&Container, Usage) -> Usage) -> Usage {
    let mut total = of_containers(spec, side, given);
    total.extend(side.of(spec.resources.as_ref()).into_iter().filter(|(name, _)| is_pod_level(name)));
    total
}

fn of_containers(spec: &PodSpec, side: Side, given: impl Fn(&Container, Usage) -> Usage) -> Usage {
    let mut total = Usage::new();
    for container in &spec.containers {
        add(&mut total, &given(container, side.of(container.resources.as_ref())));
    }
    let (mut sidecars, mut peak) = (Usage::new(), Usage::new());
    for container in spec.init_containers.iter().flatten() {
        let own = side.of(container.resources.as_ref());
        if container.restart_policy.as_deref() == Some("Always") {
            let own = given(container, own);
            add(&mut sidecars, &own);
            add(&mut total, &own);
            raise(&mut peak, &sidecars);
        } else {
            let mut moment = sidecars.clone();
            add(&mut moment, &own);
            raise(&mut peak, &moment);
        }
    }
    raise(&mut total, &peak);
    total
}

fn is_pod_level(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || name.starts_with("hugepages-")
}

/// `IsPodLevelResourcesSet`
pub fn is_pod_level_set(resources: &ResourceRequirements) -> bool {
    [&resources.requests, &resources.limits].into_iter().flatten().flatten().any(|(name, _)| is_pod_level(name))
}

/// Whether the pod has a deadline (`IsTerminating`).
pub fn is_terminating(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|s| s.active_deadline_seconds).is_some_and(|s| s >= 0)
}

/// `podMatchesScopeFunc`
fn pod_is_in(pod: &Pod, scope: &ScopedResourceSelectorRequirement) -> bool {
    let Some(spec) = &pod.spec else { return false };
    match scope.scope_name.as_str() {
        "Terminating" => is_terminating(pod),
        "NotTerminating" => !is_terminating(pod),
        "BestEffort" => kinds::qos_class(pod) == "BestEffort",
        "NotBestEffort" => kinds::qos_class(pod) != "BestEffort",
        "PriorityClass" => {
            let class = spec.priority_class_name.as_deref().filter(|c| !c.is_empty());
            one_is_selected(class.as_slice(), scope)
        }
        "CrossNamespacePodAffinity" => crosses_namespaces(pod),
        _ => false,
    }
}

/// Whether a selector over names of classes chooses one of these, or their absence.
fn one_is_selected(classes: &[&str], scope: &ScopedResourceSelectorRequirement) -> bool {
    let values: BTreeSet<&str> = scope.values.iter().flatten().map(String::as_str).collect();
    match scope.operator.as_str() {
        "Exists" => !classes.is_empty(),
        "DoesNotExist" => classes.is_empty(),
        "In" => classes.iter().any(|c| values.contains(c)),
        "NotIn" => classes.is_empty() || classes.iter().any(|c| !values.contains(c)),
        _ => false,
    }
}

fn crosses_namespaces(pod: &Pod) -> bool {
    let Some(affinity) = pod.spec.as_ref().and_then(|s| s.affinity.as_ref()) else { return false };
    let crosses =
        |t: &PodAffinityTerm| t.namespaces.as_ref().is_some_and(|n| !n.is_empty()) || t.namespace_selector.is_some();
    let near = affinity.pod_affinity.as_ref();
    let far = affinity.pod_anti_affinity.as_ref();
    let required = near
        .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref())
        .into_iter()
        .chain(far.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref()))
        .flatten();
    let preferred = near
        .and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref())
        .into_iter()
        .chain(far.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref()))
        .flatten()
        .map(|w| &w.pod_affinity_term);
    required.chain(preferred).any(crosses)
}

// === services ===

fn add_service(total: &mut Usage, service: &Service) {
    let one = number_of(1);
    add_one(total, "count/services", &one);
    add_one(total, "services", &one);
    let Some(spec) = &service.spec else { return };
    let ports = spec.ports.as_deref().unwrap_or_default();
    match spec.type_.as_deref() {
        Some("NodePort") => add_one(total, "services.nodeports", &number_of(ports.len())),
        Some("LoadBalancer") => {
            let explicit = ports.iter().filter(|p| p.node_port.is_some_and(|n| n != 0)).count();
            let wanted = if spec.allocate_load_balancer_node_ports == Some(false) { explicit } else { ports.len() };
            add_one(total, "services.nodeports", &number_of(wanted));
            add_one(total, "services.loadbalancers", &one);
        }
        _ => {}
    }
}

// === claims ===

fn add_claim(total: &mut Usage, claim: &PersistentVolumeClaim) {
    let one = number_of(1);
    add_one(total, "count/persistentvolumeclaims", &one);
    let spec = claim.spec.as_ref();
    let beta = claim.annotation("volume.beta.kubernetes.io/storage-class");
    let class = beta.or_else(|| spec.and_then(|s| s.storage_class_name.as_deref())).filter(|c| !c.is_empty());
    let mut charge = |name: &str, value: &Quantity| {
        add_one(total, name, value);
        if let Some(class) = class {
            add_one(total, &format!("{class}.storageclass.storage.k8s.io/{name}"), value);
        }
    };
    charge("persistentvolumeclaims", &one);
    let storage = |list: Option<&ResourceList>| parse(list).remove("storage");
    let requested = storage(spec.and_then(|s| s.resources.as_ref()?.requests.as_ref()));
    if let Some(requested) = requested {
        // While a volume grows, the larger of what is wanted and what is given counts.
        let given = storage(claim.status.as_ref().and_then(|s| s.allocated_resources.as_ref()));
        let mut most = given.filter(|g| *g > requested).unwrap_or(requested);
        // Whole bytes; the result says whether that changed anything, which does not matter.
        most.round_up(0);
        charge("requests.storage", &most);
    }
}

/// The VolumeAttributesClasses a claim has, wants or moves to (`getReferencedVolumeAttributesClassNames`).
pub fn attributes_classes(claim: &PersistentVolumeClaim) -> BTreeSet<&str> {
    let status = claim.status.as_ref();
    let names = [
        claim.spec.as_ref().and_then(|s| s.volume_attributes_class_name.as_deref()),
        status.and_then(|s| s.current_volume_attributes_class_name.as_deref()),
        status.and_then(|s| s.modify_volume_status.as_ref()?.target_volume_attributes_class_name.as_deref()),
    ];
    names.into_iter().flatten().filter(|n| !n.is_empty()).collect()
}

/// `pvcMatchesScopeFunc`
fn claim_is_in(claim: &PersistentVolumeClaim, scope: &ScopedResourceSelectorRequirement) -> bool {
    let classes: Vec<&str> = attributes_classes(claim).into_iter().collect();
    scope.scope_name == "VolumeAttributesClass" && one_is_selected(&classes, scope)
}

/// `claimEvaluator.Usage`: of alternatives the worst one counts, by device class.
fn add_device_claim(total: &mut Usage, claim: &ResourceClaim) {
    add_one(total, DEVICE_CLAIM_COUNT, &number_of(1));
    let devices = |mode: Option<&str>, count: Option<i64>| match mode {
        Some("ExactCount") => count.unwrap_or(0),
        Some("All") => MAX_DEVICES,
        _ => 0,
    };
    let spec = claim.spec.devices.as_ref();
    for request in spec.and_then(|d| d.requests.as_deref()).unwrap_or_default() {
        let mut most: BTreeMap<&str, i64> = BTreeMap::new();
        for sub in request.first_available.iter().flatten() {
            let number = devices(sub.allocation_mode.as_deref(), sub.count);
            let entry = most.entry(&sub.device_class_name).or_default();
            *entry = number.max(*entry);
        }
        if let (true, Some(exact)) = (most.is_empty(), &request.exactly) {
            most.insert(&exact.device_class_name, devices(exact.allocation_mode.as_deref(), exact.count));
        }
        for (class, number) in most {
            add_one(total, &format!("{class}{OF_DEVICE_CLASS}"), &Quantity::new(number, Format::default()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::Codec;
    use expect_test::{Expect, expect};
    use serde_json::{Value, json};

    fn check_usage<K: Object>(evaluator: &Evaluator, object: Value, expected: Expect) {
        let object = K::decode(object.to_string().as_bytes()).expect("a literal");
        let usage = evaluator.usage(&object, Timestamp::UNIX_EPOCH);
        let lines: Vec<String> = usage.iter().map(|(name, value)| format!("{name}={value}")).collect();
        expected.assert_eq(&lines.join(" "));
    }

    #[test]
    fn a_resize_counts_the_larger_side_until_it_is_done() {
        let pod = |condition: &str| {
            json!({
                "spec": {"containers": [{"name": "a", "resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "2"}}}],
                         "overhead": {"cpu": "1"}},
                "status": {"conditions": [{"type": "PodResizePending", "status": "True", "reason": condition}],
                    "containerStatuses": [{"name": "a", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                        "allocatedResources": {"cpu": "1"}, "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "4"}}}]},
            })
        };
        check_usage::<Pod>(
            &Evaluator::Pods,
            pod("Deferred"),
            expect!["count/pods=1 cpu=3 limits.cpu=5 pods=1 requests.cpu=3"],
        );
        check_usage::<Pod>(
            &Evaluator::Pods,
            pod("Infeasible"),
            expect!["count/pods=1 cpu=2 limits.cpu=5 pods=1 requests.cpu=2"],
        );
    }

    #[test]
    fn claims_count_by_class() {
        check_usage::<PersistentVolumeClaim>(
            &Evaluator::Claims,
            json!({"metadata": {}, "spec": {"storageClassName": "gold", "resources": {"requests": {"storage": "1Gi"}}},
                   "status": {"allocatedResources": {"storage": "2Gi"}}}),
            expect![
                "count/persistentvolumeclaims=1 gold.storageclass.storage.k8s.io/persistentvolumeclaims=1 gold.storageclass.storage.k8s.io/requests.storage=2Gi persistentvolumeclaims=1 requests.storage=2Gi"
            ],
        );
        check_usage::<ResourceClaim>(
            &Evaluator::DeviceClaims,
            json!({"metadata": {}, "spec": {"devices": {"requests": [
                {"name": "a", "exactly": {"deviceClassName": "gpu", "allocationMode": "ExactCount", "count": 2}},
                {"name": "b", "firstAvailable": [{"name": "x", "deviceClassName": "gpu", "allocationMode": "All"},
                    {"name": "y", "deviceClassName": "gpu", "allocationMode": "ExactCount", "count": 1}]}]}}}),
            expect!["count/resourceclaims.resource.k8s.io=1 gpu.deviceclass.resource.k8s.io/devices=34"],
        );
    }

    #[test]
    fn names_belong_to_one_evaluator() {
        for (name, wanted) in [
            ("requests.example.com/gpu", Some(Evaluator::Pods)),
            ("requests.hugepages-2Mi", Some(Evaluator::Pods)),
            ("requests.storage", Some(Evaluator::Claims)),
            ("services.nodeports", Some(Evaluator::Services)),
            ("gold.storageclass.storage.k8s.io/requests.storage", Some(Evaluator::Claims)),
            ("configmaps", None),
        ] {
            let found: Vec<Evaluator> = Evaluator::MEASURING.into_iter().filter(|e| e.counts(name)).collect();
            assert_eq!(found, wanted.into_iter().collect::<Vec<_>>(), "{name}");
        }
        assert_eq!(Evaluator::counted("configmaps"), Some(("configmaps", "")));
        assert_eq!(Evaluator::counted("count/foos.ex.io"), Some(("foos", "ex.io")));
        assert_eq!(Evaluator::counted("count/pods"), None);
        assert_eq!(Evaluator::of("", "events"), None);
    }

    #[test]
    fn containers_must_say_what_a_quota_limits() {
        let pod = json!({"spec": {"containers": [
            {"name": "b", "resources": {"requests": {"cpu": "1"}}}, {"name": "a"}]}});
        let pod = Pod::decode(pod.to_string().as_bytes()).expect("a literal");
        let names = ["requests.cpu", "limits.memory", "pods", "requests.ephemeral-storage"];
        let text = Evaluator::Pods.constraints(names.into_iter(), &pod).expect_err("something is missing");
        assert_eq!(text, "must specify limits.memory for: a,b; requests.cpu for: a");
    }
}
