//! NodeLifecycle: notices silent nodes, taints nodes by their conditions, evicts pods by NoExecute taints.
//!
//! Watches   Node (self), Lease of `kube-node-lease` (recorded only), Pod (of tainted nodes).
//! Writes    Node/status (conditions Unknown), Node taints and the beta labels, Pod/status (Ready False,
//!           DisruptionTarget), Pod delete.
//! Invariant if no node is ready, nobody is tainted NoExecute: rather the network to us is down than all nodes.
//! Differs   from upstream (`pkg/controller/nodelifecycle`, `pkg/controller/tainteviction`): one controller for both;
//!           by events and one timer per node; zones are not told apart, so tainting is not slowed down in a zone that is
//!           partly down; pods lose Ready when their node turns Unknown, not when a living kubelet says NotReady.

use crate::plan::{Key, Plan, PlannedEvent, Write};
use crate::pods::{self, Eviction};
use crate::run::{Context, Controller, Watches};
use api::Time;
use api::k8s::api::core::v1::{NodeCondition, Taint};
use api::prelude::*;
use client::{EventKind, Patch};
use jiff::Timestamp;
use machinery::selector::tolerates;
use parking_lot::Mutex;
use serde_json::json;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Silence after which a node's conditions become Unknown (`--node-monitor-grace-period`).
const GRACE: Duration = Duration::from_secs(50);
/// The same for a node that never told its status (`--node-startup-grace-period`).
const STARTUP_GRACE: Duration = Duration::from_secs(60);
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Condition, its status, and the taint that it means.
const TAINTS: [(&str, &str, &str); 6] = [
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
];

pub(crate) struct NodeLifecycle;

/// When things were seen last, by our own clock: nodes' clocks may be wrong, and after a restart all leases look old.
#[derive(Default)]
pub(crate) struct Seen {
    /// Node → its last sign of life.
    alive: HashMap<String, Instant>,
    /// Node → its NoExecute taints and since when they are seen.
    tainted: HashMap<String, Vec<(Taint, Instant)>>,
}

pub(crate) enum View {
    Node {
        node: Arc<Node>,
        /// Since its last sign of life.
        silent: Duration,
        /// No node of the cluster is ready.
        all_down: bool,
        /// Its pods that say they are ready; looked for only if the node is Unknown.
        ready_pods: Vec<Arc<Pod>>,
    },
    /// A pod, and the NoExecute taints of its node with the time they are seen.
    Pod(Arc<Pod>, Vec<(Taint, Duration)>),
}

impl Controller for NodeLifecycle {
    const NAME: &'static str = "node-controller";
    type View = View;

    fn watches(watches: &mut Watches<'_>) {
        watches.map::<Lease>(|ctx, change| {
            if let Some(lease) = change.new.as_ref().filter(|l| l.namespace() == "kube-node-lease") {
                ctx.shared::<Mutex<Seen>>().lock().alive.insert(lease.name().to_owned(), Instant::now());
            }
            Vec::new()
        });
        watches.map::<Node>(|ctx, change| node_keys(ctx, change.old.as_deref(), change.new.as_deref()));
        watches.map::<Pod>(|ctx, change| {
            let tainted = |p: &Arc<Pod>| ctx.shared::<Mutex<Seen>>().lock().tainted.contains_key(node_of(p));
            change.new.iter().filter(|p| tainted(p)).map(|p| Key::of(p.as_ref())).collect()
        });
    }

    fn view(key: &Key, ctx: &Context) -> Option<View> {
        let seen = ctx.shared::<Mutex<Seen>>();
        if !key.namespace.is_empty() {
            let pod = ctx.cache::<Pod>().get(&key.namespace, &key.name)?;
            let taints = seen.lock().tainted.get(node_of(&pod)).cloned().unwrap_or_default();
            return Some(View::Pod(pod, taints.into_iter().map(|(t, since)| (t, since.elapsed())).collect()));
        }
        let node = ctx.cache::<Node>().get("", &key.name)?;
        let silent = seen.lock().alive.entry(key.name.clone()).or_insert_with(Instant::now).elapsed();
        let all_down = !ctx.cache::<Node>().list().iter().any(|n| ready(n) == Some("True"));
        let ready_pods = match ready(&node) {
            Some("Unknown") => {
                let mut pods = ctx.cache::<Pod>().list();
                pods.retain(|p| node_of(p) == key.name && pods::is_ready(p));
                pods
            }
            _ => Vec::new(),
        };
        Some(View::Node { node, silent, all_down, ready_pods })
    }

    fn plan(view: &View, now: Timestamp) -> Plan {
        let mut plan = Plan::done();
        match view {
            View::Node { node, silent, all_down, ready_pods } => {
                let silenced = silence(node, *silent, now, &mut plan);
                let node = silenced.as_ref().unwrap_or(node);
                if silenced.is_none() {
                    taint(node, *all_down, now, &mut plan);
                    label(node, &mut plan);
                    ready_pods.iter().for_each(|p| mark_not_ready(p, now, &mut plan));
                }
            }
            View::Pod(pod, taints) => evict(pod, taints, now, &mut plan),
        }
        plan
    }
}

// === health ===

/// `tryUpdateNodeHealth`: the node as it is now if it has been silent for too long; otherwise asks to look again then.
fn silence(node: &Node, silent: Duration, now: Timestamp, plan: &mut Plan) -> Option<Arc<Node>> {
    let grace = if ready(node).is_some() { GRACE } else { STARTUP_GRACE };
    if let Some(left) = grace.checked_sub(silent).filter(|l| !l.is_zero()) {
        plan.again(left);
        return None;
    }
    let mut next = node.clone();
    let created = node.metadata.creation_timestamp.clone();
    let conditions = next.status.get_or_insert_default().conditions.get_or_insert_default();
    for kind in ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"] {
        match conditions.iter_mut().find(|c| c.type_ == kind) {
            None => conditions.push(NodeCondition {
                type_: kind.into(),
                status: "Unknown".into(),
                reason: Some("NodeStatusNeverUpdated".into()),
                message: Some("Kubelet never posted node status.".into()),
                last_heartbeat_time: created.clone(),
                last_transition_time: Some(Time(now)),
            }),
            Some(c) if c.status != "Unknown" => {
                c.status = "Unknown".into();
                c.reason = Some("NodeStatusUnknown".into());
                c.message = Some("Kubelet stopped posting node status.".into());
                c.last_transition_time = Some(Time(now));
            }
            Some(_) => {}
        }
    }
    if next == *node {
        return None;
    }
    let mut write = Write::status(next.clone());
    if ready(node) == Some("True") {
        let message = format!("Node {} status is now: NodeNotReady", node.name());
        write.on_success = Some(PlannedEvent::new(node, EventKind::Normal, "NodeNotReady", &message));
    }
    plan.writes.push(write);
    Some(Arc::new(next))
}

/// `MarkPodsNotReady`
fn mark_not_ready(pod: &Pod, now: Timestamp, plan: &mut Plan) {
    let condition = json!({"type": "Ready", "status": "False", "lastTransitionTime": Time(now)});
    let patch = json!({"metadata": {"uid": pod.uid()}, "status": {"conditions": [condition]}});
    let mut write = Write::patch(pod, "status", Patch::Strategic(patch));
    write.on_success = Some(PlannedEvent::new(pod, EventKind::Warning, "NodeNotReady", "Node is not ready"));
    plan.writes.push(write);
}

// === taints ===

/// `doNoScheduleTaintingPass` and `doNoExecuteTaintingPass`: our taints as the conditions say, others kept.
fn taint(node: &Node, all_down: bool, now: Timestamp, plan: &mut Plan) {
    let spec = node.spec.clone().unwrap_or_default();
    let conditions = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    for c in conditions {
        let found = TAINTS.iter().find(|(kind, status, _)| *kind == c.type_ && *status == c.status);
        wanted.extend(found.map(|(_, _, key)| (*key, "NoSchedule")));
    }
    if spec.unschedulable == Some(true) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    match ready(node) {
        Some("False") if !all_down => wanted.push((NOT_READY, "NoExecute")),
        Some("Unknown") if !all_down => wanted.push((UNREACHABLE, "NoExecute")),
        _ => {}
    }
    let old = spec.taints.unwrap_or_default();
    let mut next: Vec<Taint> =
        old.iter().filter(|t| !is_ours(t) || wanted.contains(&(t.key.as_str(), t.effect.as_str()))).cloned().collect();
    for (key, effect) in wanted {
        if !next.iter().any(|t| t.key == key && t.effect == effect) {
            let (key, effect) = (key.to_owned(), effect.to_owned());
            next.push(Taint { key, effect, time_added: Some(Time(now)), value: None });
        }
    }
    if next != old {
        let metadata = json!({"uid": node.uid(), "resourceVersion": node.metadata.resource_version});
        let patch = json!({"metadata": metadata, "spec": {"taints": next}});
        plan.writes.push(Write::patch(node, "", Patch::Merge(patch)));
    }
}

fn is_ours(taint: &Taint) -> bool {
    match taint.effect.as_str() {
        "NoSchedule" => taint.key == UNSCHEDULABLE || TAINTS.iter().any(|(_, _, key)| *key == taint.key),
        "NoExecute" => taint.key == NOT_READY || taint.key == UNREACHABLE,
        _ => false,
    }
}

/// `reconcileNodeLabels`: the beta labels follow the stable ones.
fn label(node: &Node, plan: &mut Plan) {
    let pairs = [("kubernetes.io/os", "beta.kubernetes.io/os"), ("kubernetes.io/arch", "beta.kubernetes.io/arch")];
    let missing: BTreeMap<&str, &str> = pairs
        .into_iter()
        .filter_map(|(stable, beta)| Some((beta, node.label(stable)?)))
        .filter(|(beta, value)| node.label(beta) != Some(value))
        .collect();
    if !missing.is_empty() {
        let patch = json!({"metadata": {"uid": node.uid(), "labels": missing}});
        plan.writes.push(Write::patch(node, "", Patch::Merge(patch)));
    }
}

// === eviction ===

/// `processPodOnNode`: deletes the pod when its tolerations of the node's NoExecute taints have run out.
fn evict(pod: &Pod, taints: &[(Taint, Duration)], now: Timestamp, plan: &mut Plan) {
    if taints.is_empty() || pod.is_deleting() || pods::is_terminal(pod) {
        return;
    }
    let tolerations = pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or_default();
    // A pod that came later has waited no longer than it is here.
    let here = pods::condition(pod, "PodScheduled").and_then(|c| c.last_transition_time.as_ref());
    let here = here.or(pod.metadata.creation_timestamp.as_ref()).map(|t| t.0);
    let here = here.and_then(|t| Duration::try_from(now.duration_since(t)).ok());
    for (taint, seen) in taints {
        let Some(toleration) = tolerations.iter().find(|t| tolerates(*t, taint)) else {
            delete(pod, now, plan);
            return;
        };
        let Some(seconds) = toleration.toleration_seconds else { continue };
        let limit = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        let passed = here.map_or(*seen, |h| h.min(*seen));
        match limit.checked_sub(passed).filter(|l| !l.is_zero()) {
            Some(left) => plan.again(left),
            None => {
                delete(pod, now, plan);
                return;
            }
        }
    }
}

fn delete(pod: &Pod, now: Timestamp, plan: &mut Plan) {
    plan.again_after = None;
    let text = format!("Marking for deletion Pod {}/{}", pod.namespace(), pod.name());
    let eviction = Eviction {
        event: "TaintManagerEviction",
        text: &text,
        reason: "DeletionByTaintManager",
        message: "Taint manager: deleting due to NoExecute taint",
    };
    pods::evict(pod, &eviction, now, plan);
}

// === watching ===

/// Records signs of life and taints; wakes the node, its pods if taints came, and other nodes if readiness changed.
fn node_keys(ctx: &Context, old: Option<&Node>, new: Option<&Node>) -> Vec<Key> {
    let seen = ctx.shared::<Mutex<Seen>>();
    let Some(node) = new else {
        let name = old.map(|n| n.name().to_owned()).unwrap_or_default();
        let mut seen = seen.lock();
        seen.alive.remove(&name);
        seen.tainted.remove(&name);
        return Vec::new();
    };
    let mut keys = vec![Key::of(node)];
    let name = node.name();
    if heartbeat(node) != old.and_then(heartbeat) || old.is_none() {
        seen.lock().alive.insert(name.to_owned(), Instant::now());
    }
    if note_taints(&mut seen.lock(), node) {
        let pods = ctx.cache::<Pod>().list();
        keys.extend(pods.iter().filter(|p| node_of(p) == name).map(|p| Key::of(p.as_ref())));
    }
    if old.is_some_and(|o| ready(o) != ready(node)) {
        let others = ctx.cache::<Node>().list();
        keys.extend(others.iter().filter(|n| ready(n) != Some("True")).map(|n| Key::of(n.as_ref())));
    }
    keys
}

/// Keeps the times of NoExecute taints; true if there are new ones.
fn note_taints(seen: &mut Seen, node: &Node) -> bool {
    let old = seen.tainted.remove(node.name()).unwrap_or_default();
    let same = |a: &Taint, b: &Taint| a.key == b.key && a.value == b.value;
    let current = node.spec.iter().flat_map(|s| s.taints.iter().flatten()).filter(|t| t.effect == "NoExecute");
    let mut news = false;
    let noted: Vec<(Taint, Instant)> = current
        .map(|taint| match old.iter().find(|(t, _)| same(t, taint)) {
            Some((_, since)) => (taint.clone(), *since),
            None => {
                news = true;
                (taint.clone(), Instant::now())
            }
        })
        .collect();
    if !noted.is_empty() {
        seen.tainted.insert(node.name().to_owned(), noted);
    }
    news
}

fn ready(node: &Node) -> Option<&str> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|c| c.type_ == "Ready").map(|c| c.status.as_str())
}

fn heartbeat(node: &Node) -> Option<Timestamp> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|c| c.type_ == "Ready")?.last_heartbeat_time.as_ref().map(|t| t.0)
}

fn node_of(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, object, pod, show};
    use expect_test::{Expect, expect};
    use serde_json::Value;

    fn node(ready: &str, spec: Value) -> Arc<Node> {
        let conditions = match ready {
            "" => json!([]),
            ready => json!([{"type": "Ready", "status": ready}]),
        };
        object(json!({
            "metadata": {"name": "n", "uid": "u", "resourceVersion": "3"},
            "spec": spec, "status": {"conditions": conditions},
        }))
    }

    fn check_node(node: Arc<Node>, silent: u64, all_down: bool, expected: Expect) {
        let view = View::Node { node, silent: Duration::from_secs(silent), all_down, ready_pods: Vec::new() };
        expected.assert_eq(&show(&NodeLifecycle::plan(&view, at(0))));
    }

    #[test]
    fn a_silent_node_becomes_unknown() {
        check_node(
            node("True", json!({})),
            20,
            false,
            expect![[r#"
            again in 30s
        "#]],
        );
        check_node(
            node("True", json!({})),
            50,
            false,
            expect![[r#"
            status Node n {"conditions":[{"lastTransitionTime":"2026-01-01T00:00:00Z","message":"Kubelet stopped posting node status.","reason":"NodeStatusUnknown","status":"Unknown","type":"Ready"},{"lastTransitionTime":"2026-01-01T00:00:00Z","message":"Kubelet never posted node status.","reason":"NodeStatusNeverUpdated","status":"Unknown","type":"MemoryPressure"},{"lastTransitionTime":"2026-01-01T00:00:00Z","message":"Kubelet never posted node status.","reason":"NodeStatusNeverUpdated","status":"Unknown","type":"DiskPressure"},{"lastTransitionTime":"2026-01-01T00:00:00Z","message":"Kubelet never posted node status.","reason":"NodeStatusNeverUpdated","status":"Unknown","type":"PIDPressure"}]} -> NodeNotReady Node n status is now: NodeNotReady
        "#]],
        );
        check_node(
            node("", json!({})),
            50,
            true,
            expect![[r#"
            again in 10s
        "#]],
        );
    }

    #[test]
    fn taints_follow_conditions() {
        check_node(
            node("False", json!({"unschedulable": true})),
            0,
            false,
            expect![[r#"
            patch Node n {"metadata":{"resourceVersion":"3","uid":"u"},"spec":{"taints":[{"effect":"NoSchedule","key":"node.kubernetes.io/not-ready","timeAdded":"2026-01-01T00:00:00Z"},{"effect":"NoSchedule","key":"node.kubernetes.io/unschedulable","timeAdded":"2026-01-01T00:00:00Z"},{"effect":"NoExecute","key":"node.kubernetes.io/not-ready","timeAdded":"2026-01-01T00:00:00Z"}]}}
            again in 50s
        "#]],
        );
        let tainted =
            json!({"taints": [{"key": "mine", "effect": "NoExecute"}, {"key": UNREACHABLE, "effect": "NoExecute"}]});
        check_node(
            node("True", tainted.clone()),
            0,
            false,
            expect![[r#"
            patch Node n {"metadata":{"resourceVersion":"3","uid":"u"},"spec":{"taints":[{"effect":"NoExecute","key":"mine"}]}}
            again in 50s
        "#]],
        );
    }

    #[test]
    fn if_all_are_down_nobody_is_evicted() {
        check_node(
            node("Unknown", json!({})),
            0,
            true,
            expect![[r#"
            patch Node n {"metadata":{"resourceVersion":"3","uid":"u"},"spec":{"taints":[{"effect":"NoSchedule","key":"node.kubernetes.io/unreachable","timeAdded":"2026-01-01T00:00:00Z"}]}}
            again in 50s
        "#]],
        );
    }

    fn check_eviction(tolerations: Value, seen: u64, expected: Expect) {
        let taint = Taint { key: "k".into(), effect: "NoExecute".into(), value: Some("v".into()), time_added: None };
        let pod = pod("a", json!({"spec": {"tolerations": tolerations}}));
        let view = View::Pod(pod, vec![(taint, Duration::from_secs(seen))]);
        let text = show(&NodeLifecycle::plan(&view, at(0)));
        expected.assert_eq(
            &text.lines().map(|l| format!("{}\n", l.split(" {").next().unwrap_or_default())).collect::<String>(),
        );
    }

    #[test]
    fn pods_go_when_their_toleration_runs_out() {
        let evicted = || {
            expect![[r#"
                event Normal TaintManagerEviction: Marking for deletion Pod ns/a
                patch Pod ns/a status
                delete Pod ns/a
            "#]]
        };
        check_eviction(json!([]), 0, evicted());
        check_eviction(json!([{"key": "k", "value": "other", "operator": "Equal"}]), 0, evicted());
        let brief = json!([{"key": "k", "operator": "Exists", "tolerationSeconds": 5}]);
        check_eviction(
            brief.clone(),
            2,
            expect![[r#"
            again in 3s
        "#]],
        );
        check_eviction(brief, 5, evicted());
        check_eviction(json!([{"operator": "Exists"}]), 99, expect![[""]]);
    }
}
