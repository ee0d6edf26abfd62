//! ResourceQuota: counts what a namespace uses (`pkg/controller/resourcequota`, `pkg/quota/v1/evaluator/core`).
//!
//! Watches   ResourceQuota (self), every kind that is counted (appearing, going, and changes of what it uses).
//! Writes    ResourceQuota/status.
//! Invariant `used` has exactly the resources of `hard`.
//! Differs   from upstream: `count/…` of kinds that are not compiled in (custom resources) is unsupported and keeps its last
//!           value; ResourceClaims are not measured by device class.

use crate::plan::{Key, Plan, Write};
use crate::pods;
use crate::run::{Context, Controller, Watches};
use api::k8s::api::core::v1::{
    PodAffinityTerm, ResourceQuota, ResourceQuotaStatus, ResourceRequirements, ScopedResourceSelectorRequirement,
};
use api::k8s::api::networking::v1::Ingress;
use api::k8s::apimachinery::pkg::api::resource::Quantity as Text;
use api::prelude::*;
use client::Change;
use jiff::{SignedDuration, Timestamp};
use machinery::quantity::{Format, Quantity};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// How much of what.
type Usage = BTreeMap<String, Quantity>;

pub(crate) struct ResourceQuotas;

pub(crate) struct View {
    quota: Arc<ResourceQuota>,
    pods: Vec<Arc<Pod>>,
    services: Vec<Arc<Service>>,
    claims: Vec<Arc<PersistentVolumeClaim>>,
    /// `count/…` and older names of other kinds.
    objects: BTreeMap<String, usize>,
}

/// Calls a macro with the kinds of which only the number counts, their `count/` names and older names.
macro_rules! counted {
    ($do:ident) => {
        $do! {
            ConfigMap "count/configmaps" "configmaps",
            Secret "count/secrets" "secrets",
            ReplicationController "count/replicationcontrollers" "replicationcontrollers",
            ResourceQuota "count/resourcequotas" "resourcequotas",
            ServiceAccount "count/serviceaccounts" "",
            Endpoints "count/endpoints" "",
            Deployment "count/deployments.apps" "",
            ReplicaSet "count/replicasets.apps" "",
            StatefulSet "count/statefulsets.apps" "",
            DaemonSet "count/daemonsets.apps" "",
            Job "count/jobs.batch" "",
            CronJob "count/cronjobs.batch" "",
            Ingress "count/ingresses.networking.k8s.io" ""
        }
    };
}

impl Controller for ResourceQuotas {
    const NAME: &'static str = "resourcequota-controller";
    type View = View;

    fn watches(watches: &mut Watches<'_>) {
        watches.own::<ResourceQuota>();
        watches.map::<Pod>(|ctx, change| {
            quotas(ctx, change, |p| (pods::is_terminal(p), p.is_deleting(), resources_of(p)))
        });
        watches.map::<Service>(|ctx, change| quotas(ctx, change, |s| s.spec.clone()));
        watches.map::<PersistentVolumeClaim>(|ctx, change| quotas(ctx, change, |c| c.spec.clone()));
        macro_rules! watch {
            ($($kind:ident $name:literal $old:literal),*) => {
                $(watches.map::<$kind>(|ctx, change| quotas(ctx, change, |_| ()));)*
            };
        }
        counted!(watch);
    }

    fn view(key: &Key, ctx: &Context) -> Option<View> {
        let quota = ctx.cache::<ResourceQuota>().get(&key.namespace, &key.name)?;
        let hard = quota.spec.as_ref().and_then(|s| s.hard.clone()).unwrap_or_default();
        let mut objects = BTreeMap::new();
        macro_rules! count {
            ($($kind:ident $name:literal $old:literal),*) => {
                $(if hard.contains_key($name) || hard.contains_key($old) {
                    let number = ctx.cache::<$kind>().list_in(&key.namespace).len();
                    objects.insert($name.to_owned(), number);
                    objects.insert($old.to_owned(), number);
                })*
            };
        }
        counted!(count);
        Some(View {
            quota,
            pods: ctx.cache::<Pod>().list_in(&key.namespace),
            services: ctx.cache::<Service>().list_in(&key.namespace),
            claims: ctx.cache::<PersistentVolumeClaim>().list_in(&key.namespace),
            objects,
        })
    }

    fn plan(view: &View, now: Timestamp) -> Plan {
        let mut plan = Plan::done();
        let hard = view.quota.spec.as_ref().and_then(|s| s.hard.clone()).unwrap_or_default();
        let old = view.quota.status.clone().unwrap_or_default();
        let usage = usage(view, now);
        let old_used = old.used.clone().unwrap_or_default();
        let mut used: BTreeMap<String, Text> = BTreeMap::new();
        for name in hard.keys() {
            let zero = || Text("0".to_owned());
            let known = is_known(name) || view.objects.contains_key(name);
            let value = match usage.get(name) {
                Some(value) => Text(value.to_string()),
                None if known => zero(),
                None => old_used.get(name).cloned().unwrap_or_else(zero),
            };
            used.insert(name.clone(), value);
        }
        if !same(&hard, &old.hard.clone().unwrap_or_default()) || !same(&used, &old_used) || old.used.is_none() {
            let status = ResourceQuotaStatus { hard: Some(hard), used: Some(used) };
            plan.writes.push(Write::status(ResourceQuota { status: Some(status), ..view.quota.as_ref().clone() }));
        }
        plan
    }
}

// === measuring ===

fn usage(view: &View, now: Timestamp) -> Usage {
    let scopes = scopes(&view.quota);
    let mut total = Usage::new();
    for pod in view.pods.iter().filter(|p| scopes.iter().all(|s| pod_is_in(p, s))) {
        add_pod(&mut total, pod, now);
    }
    if !scopes.is_empty() {
        // Other things have no scopes, so a quota with scopes does not count them.
        return total;
    }
    view.services.iter().for_each(|s| add_service(&mut total, s));
    view.claims.iter().for_each(|c| add_claim(&mut total, c));
    for (name, number) in view.objects.iter().filter(|(name, _)| !name.is_empty()) {
        add(&mut total, name, &number_of(*number));
    }
    total
}

fn add(total: &mut Usage, name: &str, value: &Quantity) {
    match total.get_mut(name) {
        Some(sum) => sum.add(value),
        None => drop(total.insert(name.to_owned(), value.clone())),
    }
}

fn number_of(n: usize) -> Quantity {
    Quantity::new(i64::try_from(n).unwrap_or(i64::MAX), Format::default())
}

/// `PodUsageFunc`
fn add_pod(total: &mut Usage, pod: &Pod, now: Timestamp) {
    let one = number_of(1);
    add(total, "count/pods", &one);
    let grace = pod.metadata.deletion_grace_period_seconds.map(SignedDuration::from_secs);
    let over = pod.metadata.deletion_timestamp.as_ref().zip(grace).is_some_and(|(at, grace)| at.0 + grace < now);
    if pods::is_terminal(pod) || over {
        return;
    }
    add(total, "pods", &one);
    for (name, value) in resources(pod, |r| r.requests.as_ref()) {
        match name.as_str() {
            "cpu" | "memory" | "ephemeral-storage" => {
                add(total, &name, &value);
                add(total, &format!("requests.{name}"), &value);
            }
            huge if huge.starts_with("hugepages-") => {
                add(total, huge, &value);
                add(total, &format!("requests.{huge}"), &value);
            }
            extended => add(total, &format!("requests.{extended}"), &value),
        }
    }
    for (name, value) in resources(pod, |r| r.limits.as_ref()) {
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") {
            add(total, &format!("limits.{name}"), &value);
        }
    }
}

/// What a pod needs: its containers and sidecars together, or its hungriest init container; and the overhead. What is
/// said for the whole pod goes before (`PodRequests`, `PodLimits`).
fn resources(pod: &Pod, of: impl Fn(&ResourceRequirements) -> Option<&BTreeMap<String, Text>>) -> Usage {
    let mut total = Usage::new();
    let Some(spec) = &pod.spec else { return total };
    let parse = |list: Option<&BTreeMap<String, Text>>| -> Usage {
        list.into_iter().flatten().filter_map(|(k, v)| Some((k.clone(), Quantity::parse(&v.0).ok()?))).collect()
    };
    let merge = |into: &mut Usage, from: &Usage| from.iter().for_each(|(k, v)| add(into, k, v));
    for container in &spec.containers {
        merge(&mut total, &parse(container.resources.as_ref().and_then(&of)));
    }
    let (mut sidecars, mut peak) = (Usage::new(), Usage::new());
    for container in spec.init_containers.iter().flatten() {
        let own = parse(container.resources.as_ref().and_then(&of));
        if container.restart_policy.as_deref() == Some("Always") {
            merge(&mut sidecars, &own);
            merge(&mut total, &own);
            raise(&mut peak, &sidecars);
        } else {
            let mut now = sidecars.clone();
            merge(&mut now, &own);
            raise(&mut peak, &now);
        }
    }
    raise(&mut total, &peak);
    total.extend(parse(spec.resources.as_ref().and_then(&of)));
    merge(&mut total, &parse(spec.overhead.as_ref()));
    total
}

fn raise(total: &mut Usage, to: &Usage) {
    for (name, value) in to {
        if total.get(name).is_none_or(|v| v < value) {
            total.insert(name.clone(), value.clone());
        }
    }
}

fn add_service(total: &mut Usage, service: &Service) {
    let one = number_of(1);
    add(total, "count/services", &one);
    add(total, "services", &one);
    let Some(spec) = &service.spec else { return };
    let ports = spec.ports.as_deref().unwrap_or_default();
    match spec.type_.as_deref() {
        Some("NodePort") => add(total, "services.nodeports", &number_of(ports.len())),
        Some("LoadBalancer") => {
            let explicit = ports.iter().filter(|p| p.node_port.is_some_and(|n| n != 0)).count();
            let wanted = if spec.allocate_load_balancer_node_ports == Some(false) { explicit } else { ports.len() };
            add(total, "services.nodeports", &number_of(wanted));
            add(total, "services.loadbalancers", &one);
        }
        _ => {}
    }
}

fn add_claim(total: &mut Usage, claim: &PersistentVolumeClaim) {
    let one = number_of(1);
    add(total, "count/persistentvolumeclaims", &one);
    let spec = claim.spec.as_ref();
    let beta = claim.annotation("volume.beta.kubernetes.io/storage-class");
    let class = beta.or_else(|| spec.and_then(|s| s.storage_class_name.as_deref())).filter(|c| !c.is_empty());
    let requested = spec.and_then(|s| s.resources.as_ref()?.requests.as_ref()?.get("storage"));
    let storage = requested.and_then(|t| Quantity::parse(&t.0).ok()).map(|mut q| {
        // Whole bytes; the result says whether that changed anything, which does not matter.
        q.round_up(0);
        q
    });
    let mut charge = |name: &str, value: &Quantity| {
        add(total, name, value);
        if let Some(class) = class {
            add(total, &format!("{class}.storageclass.storage.k8s.io/{name}"), value);
        }
    };
    charge("persistentvolumeclaims", &one);
    if let Some(storage) = &storage {
        charge("requests.storage", storage);
    }
}

/// Resources that are measured here, so that absence means zero.
fn is_known(name: &str) -> bool {
    const NAMES: [&str; 17] = [
        "pods",
        "count/pods",
        "cpu",
        "memory",
        "ephemeral-storage",
        "requests.storage",
        "services",
        "count/services",
        "services.nodeports",
        "services.loadbalancers",
        "persistentvolumeclaims",
        "count/persistentvolumeclaims",
        "limits.cpu",
        "limits.memory",
        "limits.ephemeral-storage",
        "requests.cpu",
        "requests.memory",
    ];
    NAMES.contains(&name)
        || name.starts_with("requests.")
        || name.starts_with("hugepages-")
        || name.contains(".storageclass.storage.k8s.io/")
}

// === scopes ===

fn scopes(quota: &ResourceQuota) -> Vec<ScopedResourceSelectorRequirement> {
    let spec = quota.spec.clone().unwrap_or_default();
    let named = spec.scopes.into_iter().flatten().map(|scope_name| ScopedResourceSelectorRequirement {
        operator: "Exists".into(),
        scope_name,
        values: None,
    });
    let selected = spec.scope_selector.and_then(|s| s.match_expressions).unwrap_or_default();
    named.chain(selected).collect()
}

/// `podMatchesScopeFunc`
fn pod_is_in(pod: &Pod, scope: &ScopedResourceSelectorRequirement) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let terminating = spec.active_deadline_seconds.is_some_and(|s| s >= 0);
    match scope.scope_name.as_str() {
        "Terminating" => terminating,
        "NotTerminating" => !terminating,
        "BestEffort" => is_best_effort(pod),
        "NotBestEffort" => !is_best_effort(pod),
        "PriorityClass" => {
            let class = spec.priority_class_name.as_deref().filter(|c| !c.is_empty());
            let values: BTreeSet<&str> = scope.values.iter().flatten().map(String::as_str).collect();
            match scope.operator.as_str() {
                "Exists" => class.is_some(),
                "DoesNotExist" => class.is_none(),
                "In" => class.is_some_and(|c| values.contains(c)),
                "NotIn" => class.is_none_or(|c| !values.contains(c)),
                _ => false,
            }
        }
        "CrossNamespacePodAffinity" => crosses_namespaces(pod),
        _ => false,
    }
}

fn is_best_effort(pod: &Pod) -> bool {
    let has = |list: Usage| list.iter().any(|(k, v)| matches!(k.as_str(), "cpu" | "memory") && !v.is_zero());
    !has(resources(pod, |r| r.requests.as_ref())) && !has(resources(pod, |r| r.limits.as_ref()))
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

// === helpers ===

/// The quotas of a namespace, if something appeared, went or changed in what counts.
fn quotas<K: Object, P: PartialEq>(ctx: &Context, change: &Change<K>, what: impl Fn(&K) -> P) -> Vec<Key> {
    if let (Some(old), Some(new)) = (&change.old, &change.new)
        && what(old) == what(new)
    {
        return Vec::new();
    }
    let all = ctx.cache::<ResourceQuota>().list_in(change.latest().namespace());
    all.iter().map(|q| Key::of(q.as_ref())).collect()
}

fn resources_of(pod: &Pod) -> Vec<Option<ResourceRequirements>> {
    pod.spec.iter().flat_map(|s| s.containers.iter().map(|c| c.resources.clone())).collect()
}

/// Equal as quantities.
fn same(a: &BTreeMap<String, Text>, b: &BTreeMap<String, Text>) -> bool {
    let equal = |x: &Text, y: &Text| {
        x == y || matches!((Quantity::parse(&x.0), Quantity::parse(&y.0)), (Ok(x), Ok(y)) if x == y)
    };
    a.len() == b.len() && a.iter().all(|(k, v)| b.get(k).is_some_and(|w| equal(v, w)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, object, pod, show};
    use expect_test::{Expect, expect};
    use serde_json::{Value, json};

    fn check_used(spec: Value, pods: Vec<Arc<Pod>>, expected: Expect) {
        let mut view = View {
            quota: object(json!({"metadata": {"name": "q", "namespace": "ns"}, "spec": spec})),
            pods,
            services: vec![object(
                json!({"metadata": {}, "spec": {"type": "LoadBalancer", "ports": [{"port": 1}, {"port": 2}]}}),
            )],
            claims: vec![object(
                json!({"metadata": {}, "spec": {"storageClassName": "fast", "resources": {"requests": {"storage": "1Gi"}}}}),
            )],
            objects: BTreeMap::from([("count/configmaps".to_owned(), 3), ("configmaps".to_owned(), 3)]),
        };
        let plan = ResourceQuotas::plan(&view, at(0));
        expected.assert_eq(&show(&plan));
        if let [Write { verb: crate::plan::Verb::UpdateStatus(o), .. }] = plan.writes.as_slice() {
            view.quota = Arc::new(o.as_any().downcast_ref::<ResourceQuota>().expect("quotas are written").clone());
            assert_eq!(show(&ResourceQuotas::plan(&view, at(0))), "", "a second round has nothing to do");
        }
    }

    fn hungry(name: &str, phase: &str) -> Arc<Pod> {
        let of = |cpu: &str| json!({"requests": {"cpu": cpu, "memory": "1Gi", "example.com/gpu": "1"}, "limits": {"cpu": "2"}});
        pod(
            name,
            json!({
                "spec": {"containers": [{"name": "a", "resources": of("250m")}, {"name": "b", "resources": of("250m")}],
                         "initContainers": [{"name": "i", "resources": {"requests": {"cpu": "800m"}}}]},
                "status": {"phase": phase},
            }),
        )
    }

    #[test]
    fn everything_with_a_limit_is_counted() {
        let hard = json!({"hard": {"pods": "5", "requests.cpu": "4", "memory": "9Gi", "limits.cpu": "9", "requests.example.com/gpu": "9",
            "services.nodeports": "3", "services.loadbalancers": "1", "requests.storage": "5Gi",
            "fast.storageclass.storage.k8s.io/persistentvolumeclaims": "2", "configmaps": "9", "count/foos.ex.io": "1"}});
        check_used(
            hard,
            vec![hungry("x", "Running"), hungry("y", "Succeeded")],
            expect![[r#"
            status ResourceQuota ns/q {"hard":{"configmaps":"9","count/foos.ex.io":"1","fast.storageclass.storage.k8s.io/persistentvolumeclaims":"2","limits.cpu":"9","memory":"9Gi","pods":"5","requests.cpu":"4","requests.example.com/gpu":"9","requests.storage":"5Gi","services.loadbalancers":"1","services.nodeports":"3"},"used":{"configmaps":"3","count/foos.ex.io":"0","fast.storageclass.storage.k8s.io/persistentvolumeclaims":"1","limits.cpu":"4","memory":"2Gi","pods":"1","requests.cpu":"800m","requests.example.com/gpu":"2","requests.storage":"1Gi","services.loadbalancers":"1","services.nodeports":"2"}}
        "#]],
        );
    }

    #[test]
    fn scopes_choose_pods() {
        let quota = |scope: &str| json!({"hard": {"pods": "5"}, "scopes": [scope]});
        let pods = || vec![hungry("x", "Running"), pod("idle", json!({"spec": {"activeDeadlineSeconds": 5}}))];
        check_used(
            quota("BestEffort"),
            pods(),
            expect![[r#"
            status ResourceQuota ns/q {"hard":{"pods":"5"},"used":{"pods":"1"}}
        "#]],
        );
        check_used(
            quota("NotTerminating"),
            pods(),
            expect![[r#"
            status ResourceQuota ns/q {"hard":{"pods":"5"},"used":{"pods":"1"}}
        "#]],
        );
        check_used(
            quota("PriorityClass"),
            pods(),
            expect![[r#"
            status ResourceQuota ns/q {"hard":{"pods":"5"},"used":{"pods":"0"}}
        "#]],
        );
    }
}
