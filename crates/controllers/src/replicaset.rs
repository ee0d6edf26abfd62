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
use api::meta::MetaExt;
use api::prelude::*;
use client::Patch;
use jiff::Timestamp;
use machinery::selector::LabelSelector;
use serde_json::json;
use std::cmp::{Ordering, Reverse};
use std::collections::BTreeMap;
use std::sync::Arc;

/// At most this many creates or deletes a round (upstream `BurstReplicas`).
const BURST: usize = 500;

pub(crate) struct ReplicaSets;

pub(crate) struct View {
    rs: Arc<ReplicaSet>,
    /// All pods of the namespace that it controls or that match its selector and have no controller.
    pods: Vec<Arc<Pod>>,
    /// Active pods per node of all ReplicaSets with the same owner: crowded nodes give up pods first.
    related_on_node: BTreeMap<String, usize>,
}

impl Controller for ReplicaSets {
    const NAME: &'static str = "replicaset-controller";
    type View = View;

    fn watches(watches: &mut Watches<'_>) {
        watches.own::<ReplicaSet>();
        watches.owned::<Pod, ReplicaSet>();
        watches.map::<Pod>(|ctx, change| orphan_keys(ctx, change.latest()));
    }

    fn view(key: &Key, ctx: &Context) -> Option<View> {
        let rs = ctx.cache::<ReplicaSet>().get(&key.namespace, &key.name)?;
        let selector = selector(&rs)?;
        let cache = ctx.cache::<Pod>();
        let mut seen = cache.controlled_by(rs.uid());
        seen.extend(
            cache.list_in(&key.namespace).into_iter().filter(|p| p.controller().is_none() && matches(&selector, p)),
        );
        let siblings = match rs.controller() {
            Some(owner) => ctx.cache::<ReplicaSet>().controlled_by(&owner.uid),
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

    fn plan(view: &View, now: Timestamp) -> Plan {
        let mut plan = Plan::done();
        let Some(selector) = selector(&view.rs) else { return plan };
        let owned = claim(view, &selector, &mut plan);
        let active: Vec<&Arc<Pod>> = owned.iter().copied().filter(|p| pods::is_active(p)).collect();
        if !view.rs.is_deleting() {
            scale(view, &active, &mut plan);
        }
        status(view, &owned, &active, now, &mut plan);
        plan
    }
}

// === deciding ===

/// The pods it controls, after adopting matching orphans and releasing pods that match no more (`ClaimPods`).
fn claim<'a>(view: &'a View, selector: &LabelSelector, plan: &mut Plan) -> Vec<&'a Arc<Pod>> {
    let rs = &view.rs;
    let mut owned = Vec::new();
    for pod in &view.pods {
        match (pod.is_controlled_by(rs.uid()), matches(selector, pod)) {
            (true, true) => owned.push(pod),
            (true, false) if !rs.is_deleting() && !pod.is_deleting() => plan.writes.push(release(pod, rs)),
            (true, false) => {}
            (false, true) if !rs.is_deleting() && pods::is_active(pod) && pod.controller().is_none() => {
                plan.writes.push(adopt(pod, rs));
                owned.push(pod);
            }
            (false, _) => {}
        }
    }
    owned
}

fn adopt(pod: &Pod, rs: &ReplicaSet) -> Write {
    let owner = serde_json::to_value(pods::controller_ref(rs)).unwrap_or_default();
    let patch = json!({"metadata": {"uid": pod.uid(), "ownerReferences": [owner]}});
    Write::patch(pod, "", Patch::Strategic(patch))
}

fn release(pod: &Pod, rs: &ReplicaSet) -> Write {
    let patch = json!({"metadata": {"uid": pod.uid(), "ownerReferences": [{"$patch": "delete", "uid": rs.uid()}]}});
    Write::patch(pod, "", Patch::Strategic(patch))
}

/// Creates what is missing, deletes what is too much.
fn scale(view: &View, active: &[&Arc<Pod>], plan: &mut Plan) {
    let rs = &view.rs;
    let wanted = wanted(rs);
    if active.len() < wanted {
        let template = rs.spec.as_ref().and_then(|s| s.template.clone()).unwrap_or_default();
        for _ in 0..(wanted - active.len()).min(BURST) {
            let pod = pods::from_template(&template, rs.as_ref());
            plan.writes.push(Write::create(pod).telling(
                rs.as_ref(),
                ("SuccessfulCreate", "Created pod: {name}"),
                ("FailedCreate", "Error creating: {error}"),
            ));
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

/// `calculateStatus`; written only when something changed.
fn status(view: &View, owned: &[&Arc<Pod>], active: &[&Arc<Pod>], now: Timestamp, plan: &mut Plan) {
    let rs = &view.rs;
    let spec = rs.spec.clone().unwrap_or_default();
    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    let template_labels = spec.template.and_then(|t| t.metadata).and_then(|m| m.labels).unwrap_or_default();
    let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    let labeled = active.iter().filter(|p| template_labels.iter().all(|(k, v)| p.label(k) == Some(v))).count();
    let mut available = 0;
    for pod in active {
        match pods::available(pod, min_ready, now) {
            Ok(()) => available += 1,
            Err(Some(wait)) => plan.again(wait),
            Err(None) => {}
        }
    }
    let mut next = rs.as_ref().clone();
    let status = next.status.get_or_insert_default();
    status.replicas = count(active.len());
    status.fully_labeled_replicas = Some(count(labeled)).filter(|n| *n > 0);
    status.ready_replicas = Some(count(active.iter().filter(|p| pods::is_ready(p)).count())).filter(|n| *n > 0);
    status.available_replicas = Some(available).filter(|n| *n > 0);
    status.terminating_replicas =
        Some(count(owned.iter().filter(|p| p.is_deleting() && !pods::is_terminal(p)).count()));
    status.observed_generation = rs.metadata.generation;
    if next.status != rs.status {
        plan.writes.push(Write::status(next));
    }
}

// === helpers ===

fn wanted(rs: &ReplicaSet) -> usize {
    let replicas = rs.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1);
    usize::try_from(replicas).unwrap_or(0)
}

/// `None` for a selector that selects nothing or is invalid (validation refuses such).
fn selector(rs: &ReplicaSet) -> Option<LabelSelector> {
    LabelSelector::from_api(Some(&rs.spec.as_ref()?.selector)).ok()
}

fn matches(selector: &LabelSelector, pod: &Pod) -> bool {
    let empty = BTreeMap::new();
    selector.matches(pod.metadata.labels.as_ref().unwrap_or(&empty))
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|n| !n.is_empty())
}

/// ReplicaSets that may want to adopt a pod without a controller.
fn orphan_keys(ctx: &Context, pod: &Pod) -> Vec<Key> {
    if pod.controller().is_some() || pod.metadata.labels.is_none() {
        return Vec::new();
    }
    let sets = ctx.cache::<ReplicaSet>().list_in(pod.namespace());
    sets.iter().filter(|rs| selector(rs).is_some_and(|s| matches(&s, pod))).map(|rs| Key::of(rs.as_ref())).collect()
}
