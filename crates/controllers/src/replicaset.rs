//! ReplicaSet: keeps exactly `spec.replicas` matching Pods alive.
//!
//! Watches   ReplicaSet (self), Pod (by controller; orphans by selector).
//! Writes    Pod create/delete, Pod ownerReferences (adopt, release), ReplicaSet/status.
//! Invariant never deletes a Pod it does not control.
//! Differs   from upstream (`pkg/controller/replicaset/replica_set.go`): no expectations (see `run.rs`, read your
//!           writes), creates go out together instead of in slow-start batches; a failed one ends the round.

use crate::plan::{Key, Plan, Write};
use crate::pods;
use crate::run::{Context, Controller, Watches};
use api::k8s::api::apps::v1::ReplicaSetCondition;
use api::meta::MetaExt;
use api::prelude::*;
use client::Patch;
use jiff::Timestamp;
use machinery::selector::LabelSelector;
use serde_json::json;
use std::cmp::{Ordering, Reverse};
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::Arc;

/// At most this many creates or deletes a round (upstream `BurstReplicas`).
const BURST: usize = 500;

/// The controller of a kind that keeps a number of equal pods.
pub(crate) struct Replicas<K>(PhantomData<fn() -> K>);

/// `replicaset-controller`
pub(crate) type ReplicaSets = Replicas<ReplicaSet>;

/// A kind that keeps a number of equal pods: ReplicaSet, and ReplicationController (`replication_controller.rs`).
pub(crate) trait Replicated: Object {
    /// [`Controller::NAME`]
    const CONTROLLER: &'static str;
    /// `spec.replicas`
    fn replicas(&self) -> Option<i32>;
    /// `None` for a selector that selects nothing or is invalid (validation refuses such).
    fn selector(&self) -> Option<LabelSelector>;
    /// `spec.template`
    fn template(&self) -> PodTemplateSpec;
    /// `spec.minReadySeconds`
    fn min_ready_seconds(&self) -> i32;
    /// Reason and message of the condition `ReplicaFailure`, if it is true.
    fn failure(&self) -> Option<(String, String)>;
    /// The object with this status; `failure` as above.
    fn with_status(&self, counts: &Counts, failure: Option<(String, String)>, now: Timestamp) -> Self;
    /// Whether `other` has another status.
    fn differs(&self, other: &Self) -> bool;
}

/// What the status counts.
#[derive(Debug, Clone)]
pub(crate) struct Counts {
    pub(crate) replicas: i32,
    pub(crate) fully_labeled: i32,
    pub(crate) ready: i32,
    pub(crate) available: i32,
    pub(crate) terminating: i32,
}

pub(crate) struct View<K> {
    rs: Arc<K>,
    /// All pods of the namespace that it controls or that match its selector and have no controller.
    pods: Vec<Arc<Pod>>,
    /// Active pods per node of all ReplicaSets with the same owner: crowded nodes give up pods first.
    related_on_node: BTreeMap<String, usize>,
}

impl<K: Replicated> Controller for Replicas<K> {
    const NAME: &'static str = K::CONTROLLER;
    type View = View<K>;

    fn watches(watches: &mut Watches<'_>) {
        watches.own::<K>();
        watches.owned::<Pod, K>();
        watches.map::<Pod>(|ctx, change| orphan_keys::<K>(ctx, change.latest()));
    }

    fn view(key: &Key, ctx: &Context) -> Option<View<K>> {
        let rs = ctx.cache::<K>().get(&key.namespace, &key.name)?;
        let selector = rs.selector()?;
        let cache = ctx.cache::<Pod>();
        let mut seen = cache.controlled_by(rs.uid());
        seen.extend(
            cache.list_in(&key.namespace).into_iter().filter(|p| p.controller().is_none() && matches(&selector, p)),
        );
        let siblings = match rs.controller() {
            Some(owner) => ctx.cache::<K>().controlled_by(&owner.uid),
            None => vec![rs.clone()],
        };
        let mut related_on_node = BTreeMap::new();
        for pod in siblings.iter().flat_map(|s| cache.controlled_by(s.uid())).filter(|p| pods::is_active(p)) {
            if let Some(node) = node_of(&pod) {
                *related_on_node.entry(node.to_owned()).or_insert(0) += 1;
            }
        }
        Some(View { rs, pods: seen, related_on_node })
    }

    fn plan(view: &View<K>, now: Timestamp) -> Plan {
        let mut plan = Plan::done();
        let Some(selector) = view.rs.selector() else { return plan };
        let owned = claim(view, &selector, &mut plan);
        let active: Vec<&Arc<Pod>> = owned.iter().copied().filter(|p| pods::is_active(p)).collect();
        let counts = count(view, &owned, &active, now, &mut plan);
        let settled = view.rs.is_deleting() || scale(view, &active, &counts, now, &mut plan);
        let failure = view.rs.failure().filter(|_| !settled);
        let next = view.rs.with_status(&counts, failure, now);
        if next.differs(&view.rs) {
            plan.writes.push(Write::status(next));
        }
        plan
    }
}

// === deciding ===

/// The pods it controls, after adopting matching orphans and releasing pods that match no more (`ClaimPods`).
fn claim<'a, K: Replicated>(view: &'a View<K>, selector: &LabelSelector, plan: &mut Plan) -> Vec<&'a Arc<Pod>> {
    let rs = &view.rs;
    let mut owned = Vec::new();
    for pod in &view.pods {
        match (pod.is_controlled_by(rs.uid()), matches(selector, pod)) {
            (true, true) => owned.push(pod),
            (true, false) if !rs.is_deleting() && !pod.is_deleting() => plan.writes.push(release(pod, rs.as_ref())),
            (true, false) => {}
            (false, true) if !rs.is_deleting() && pods::is_active(pod) && pod.controller().is_none() => {
                plan.writes.push(adopt(pod, rs.as_ref()));
                owned.push(pod);
            }
            (false, _) => {}
        }
    }
    owned
}

pub(crate) fn adopt<K: Object>(pod: &Pod, rs: &K) -> Write {
    let owner = serde_json::to_value(pods::controller_ref(rs)).unwrap_or_default();
    let patch = json!({"metadata": {"uid": pod.uid(), "ownerReferences": [owner]}});
    Write::patch(pod, "", Patch::Strategic(patch))
}

pub(crate) fn release<K: Object>(pod: &Pod, rs: &K) -> Write {
    let patch = json!({"metadata": {"uid": pod.uid(), "ownerReferences": [{"$patch": "delete", "uid": rs.uid()}]}});
    Write::patch(pod, "", Patch::Strategic(patch))
}

/// Creates what is missing, deletes what is too much. True: there is nothing to do.
fn scale<K: Replicated>(
    view: &View<K>,
    active: &[&Arc<Pod>],
    counts: &Counts,
    now: Timestamp,
    plan: &mut Plan,
) -> bool {
    let rs = &view.rs;
    let wanted = usize::try_from(rs.replicas().unwrap_or(1)).unwrap_or(0);
    if active.len() < wanted {
        let template = rs.template();
        for _ in 0..(wanted - active.len()).min(BURST) {
            let pod = pods::from_template(&template, rs.as_ref());
            let (rs, counts) = (rs.clone(), counts.clone());
            let telling = Write::create(pod).telling(
                rs.as_ref(),
                ("SuccessfulCreate", "Created pod: {name}"),
                ("FailedCreate", "Error creating: {error}"),
            );
            plan.writes.push(telling.otherwise(move |error| {
                // One that stands there stays (`calculateStatus`): each error names another pod, and a status that
                // changes with every try would be the reason for the next.
                let failure = rs.failure().unwrap_or_else(|| ("FailedCreate".into(), error.to_owned()));
                let next = rs.with_status(&counts, Some(failure), now);
                next.differs(&rs).then(|| Write::status(next))
            }));
        }
    }
    if active.len() > wanted {
        let mut ranked: Vec<&Arc<Pod>> = active.to_vec();
        ranked.sort_by(|a, b| deletion_order(a, b, &view.related_on_node));
        for pod in ranked.into_iter().take((active.len() - wanted).min(BURST)) {
            let deleted = format!("Deleted pod: {}", pod.name());
            plan.writes.push(Write::delete(pod.as_ref()).telling(
                rs.as_ref(),
                ("SuccessfulDelete", &deleted),
                ("FailedDelete", "Error deleting: {error}"),
            ));
        }
    }
    active.len() == wanted
}

/// Which of two pods goes first (`ActivePodsWithRanks.Less`): unassigned, pending, not ready, cheap, crowded, younger.
pub(crate) fn deletion_order(a: &Pod, b: &Pod, related_on_node: &BTreeMap<String, usize>) -> Ordering {
    let phase_rank = |p: &Pod| match pods::phase(p) {
        "Running" => 2,
        "Unknown" => 1,
        _ => 0,
    };
    let cost = |p: &Pod| {
        p.annotation("controller.kubernetes.io/pod-deletion-cost").and_then(|c| c.parse::<i32>().ok()).unwrap_or(0)
    };
    let crowd = |p: &Pod| node_of(p).and_then(|n| related_on_node.get(n)).copied().unwrap_or(0);
    // Absent times sort as "just now": such a pod goes first.
    let ready = |p: &Pod| Reverse(pods::ready_since(p).map_or(i64::MAX, logarithmic_age_key));
    let created =
        |p: &Pod| Reverse(p.metadata.creation_timestamp.as_ref().map_or(i64::MAX, |t| logarithmic_age_key(t.0)));
    node_of(a)
        .is_some()
        .cmp(&node_of(b).is_some())
        .then_with(|| phase_rank(a).cmp(&phase_rank(b)))
        .then_with(|| pods::is_ready(a).cmp(&pods::is_ready(b)))
        .then_with(|| cost(a).cmp(&cost(b)))
        .then_with(|| crowd(b).cmp(&crowd(a)))
        .then_with(|| if pods::is_ready(a) { ready(a).cmp(&ready(b)) } else { Ordering::Equal })
        .then_with(|| pods::max_restarts(b).cmp(&pods::max_restarts(a)))
        .then_with(|| created(a).cmp(&created(b)))
        .then_with(|| a.uid().cmp(b.uid()))
}

/// Seconds; upstream compares ages on a logarithmic scale (`LogarithmicScaleDown`), which needs the time of day. Plain
/// age gives the same order wherever the logarithms differ.
fn logarithmic_age_key(at: Timestamp) -> i64 {
    at.as_second()
}

/// `calculateStatus`
fn count<K: Replicated>(
    view: &View<K>,
    owned: &[&Arc<Pod>],
    active: &[&Arc<Pod>],
    now: Timestamp,
    plan: &mut Plan,
) -> Counts {
    let template_labels = view.rs.template().metadata.and_then(|m| m.labels).unwrap_or_default();
    let number = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    let labeled = active.iter().filter(|p| template_labels.iter().all(|(k, v)| p.label(k) == Some(v))).count();
    let mut available = 0;
    for pod in active {
        match pods::available(pod, view.rs.min_ready_seconds(), now) {
            Ok(()) => available += 1,
            Err(Some(wait)) => plan.again(wait),
            Err(None) => {}
        }
    }
    Counts {
        replicas: number(active.len()),
        fully_labeled: number(labeled),
        ready: number(active.iter().filter(|p| pods::is_ready(p)).count()),
        available,
        terminating: number(owned.iter().filter(|p| p.is_deleting() && !pods::is_terminal(p)).count()),
    }
}

// === impl Replicated for ReplicaSet ===

const FAILURE: &str = "ReplicaFailure";

impl Replicated for ReplicaSet {
    const CONTROLLER: &'static str = "replicaset-controller";

    fn replicas(&self) -> Option<i32> {
        self.spec.as_ref()?.replicas
    }
    fn selector(&self) -> Option<LabelSelector> {
        LabelSelector::from_api(Some(&self.spec.as_ref()?.selector)).ok()
    }
    fn template(&self) -> PodTemplateSpec {
        self.spec.as_ref().and_then(|s| s.template.clone()).unwrap_or_default()
    }
    fn min_ready_seconds(&self) -> i32 {
        self.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0)
    }
    fn failure(&self) -> Option<(String, String)> {
        let conditions = self.status.iter().flat_map(|s| s.conditions.iter().flatten());
        let found = conditions.into_iter().find(|c| c.type_ == FAILURE && c.status == "True")?;
        Some((found.reason.clone()?, found.message.clone()?))
    }
    fn with_status(&self, counts: &Counts, failure: Option<(String, String)>, now: Timestamp) -> Self {
        let changed = failure != self.failure();
        let mut next = self.clone();
        let status = next.status.get_or_insert_default();
        let some = |n: i32| Some(n).filter(|n| *n > 0);
        status.replicas = counts.replicas;
        status.fully_labeled_replicas = some(counts.fully_labeled);
        status.ready_replicas = some(counts.ready);
        status.available_replicas = some(counts.available);
        status.terminating_replicas = Some(counts.terminating);
        status.observed_generation = self.metadata.generation;
        if changed {
            let conditions = status.conditions.get_or_insert_default();
            conditions.retain(|c| c.type_ != FAILURE);
            conditions.extend(failure.map(|(reason, message)| ReplicaSetCondition {
                type_: FAILURE.into(),
                status: "True".into(),
                reason: Some(reason),
                message: Some(message),
                last_transition_time: Some(api::Time(now)),
            }));
            status.conditions = status.conditions.take().filter(|c| !c.is_empty());
        }
        next
    }
    fn differs(&self, other: &Self) -> bool {
        self.status != other.status
    }
}

// === helpers ===

fn matches(selector: &LabelSelector, pod: &Pod) -> bool {
    let empty = BTreeMap::new();
    selector.matches(pod.metadata.labels.as_ref().unwrap_or(&empty))
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|n| !n.is_empty())
}

/// Those that may want to adopt a pod without a controller.
fn orphan_keys<K: Replicated>(ctx: &Context, pod: &Pod) -> Vec<Key> {
    if pod.controller().is_some() || pod.metadata.labels.is_none() {
        return Vec::new();
    }
    let sets = ctx.cache::<K>().list_in(pod.namespace());
    sets.iter().filter(|rs| rs.selector().is_some_and(|s| matches(&s, pod))).map(|rs| Key::of(rs.as_ref())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, object, pod, show};
    use expect_test::{Expect, expect};
    use serde_json::Value;

    fn set(replicas: i32, status: Value) -> Arc<ReplicaSet> {
        object(json!({
            "metadata": {"name": "rs", "namespace": "ns", "uid": "uid-rs"},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"a": "b"}},
                     "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": []}}},
            "status": status,
        }))
    }

    fn owned(name: &str, phase: &str) -> Arc<Pod> {
        let owner =
            json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "rs", "uid": "uid-rs", "controller": true});
        pod(name, json!({"metadata": {"labels": {"a": "b"}, "ownerReferences": [owner]}, "status": {"phase": phase}}))
    }

    fn check_plan(rs: Arc<ReplicaSet>, pods: Vec<Arc<Pod>>, expected: Expect) {
        let view = View { rs, pods, related_on_node: BTreeMap::new() };
        expected.assert_eq(&show(&ReplicaSets::plan(&view, at(0))));
    }

    #[test]
    fn missing_pods_are_created_and_ended_ones_replaced() {
        check_plan(
            set(2, json!({})),
            vec![owned("x", "Running"), owned("y", "Failed")],
            expect![[r#"
            create Pod ns/rs- -> SuccessfulCreate Created pod: {name}
            status ReplicaSet ns/rs {"fullyLabeledReplicas":1,"replicas":1,"terminatingReplicas":0}
        "#]],
        );
    }

    #[test]
    fn pending_pods_go_before_running_ones() {
        check_plan(
            set(1, json!({})),
            vec![owned("x", "Running"), owned("y", "Pending")],
            expect![[r#"
            delete Pod ns/y -> SuccessfulDelete Deleted pod: y
            status ReplicaSet ns/rs {"fullyLabeledReplicas":2,"replicas":2,"terminatingReplicas":0}
        "#]],
        );
    }

    #[test]
    fn orphans_are_adopted_and_strangers_released() {
        let orphan = pod("o", json!({"metadata": {"labels": {"a": "b"}}}));
        let mut stranger = owned("s", "Running").as_ref().clone();
        stranger.metadata.labels = None;
        check_plan(
            set(1, json!({"replicas": 1, "fullyLabeledReplicas": 1, "terminatingReplicas": 0})),
            vec![orphan, Arc::new(stranger)],
            expect![[r#"
            patch Pod ns/o {"metadata":{"ownerReferences":[{"apiVersion":"apps/v1","blockOwnerDeletion":true,"controller":true,"kind":"ReplicaSet","name":"rs","uid":"uid-rs"}],"uid":"uid-o"}}
            patch Pod ns/s {"metadata":{"ownerReferences":[{"$patch":"delete","uid":"uid-rs"}],"uid":"uid-s"}}
        "#]],
        );
    }

    #[test]
    fn a_failure_stays_in_the_status_until_all_is_well() {
        let failed = json!({"replicas": 0, "terminatingReplicas": 0,
            "conditions": [{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "no"}]});
        check_plan(
            set(1, failed.clone()),
            Vec::new(),
            expect![[r#"
            create Pod ns/rs- -> SuccessfulCreate Created pod: {name}
        "#]],
        );
        check_plan(
            set(0, failed.clone()),
            Vec::new(),
            expect![[r#"
            status ReplicaSet ns/rs {"replicas":0,"terminatingReplicas":0}
        "#]],
        );
        let instead = |status: serde_json::Value| {
            let view = View { rs: set(1, status), pods: Vec::new(), related_on_node: BTreeMap::new() };
            let plan = ReplicaSets::plan(&view, at(0));
            plan.writes[0].otherwise.as_ref().and_then(|o| o("pod rs-x: quota")).map(|w| w.to_string())
        };
        assert_eq!(instead(json!({})).as_deref(), Some("status ReplicaSet ns/rs"));
        assert_eq!(instead(failed), None, "a second failure must not change the status, or trying never pauses");
    }
}
