//! PodGc: removes pods that nobody else will (`pkg/controller/podgc/gc_controller.go`).
//!
//! Watches   Pod, Node. Keys: a node's name for its pods, a pod for itself, [`ENDED`] for all that have ended, [`UNSCHEDULED`]
//!           for all that terminate without a node.
//! Writes    Pod/status (phase Failed), Pod delete without grace.
//! Invariant pods of a missing node go only when the node has been missing for the quarantine and the API server confirms it.
//! Differs   from upstream: by events and timers instead of every 20 seconds. But terminating pods without node and finalizers
//!           are looked for as upstream does: whoever deletes such a pod is about to remove it.

use crate::plan::{Done, Key, Plan, Task, Write};
use crate::pods;
use crate::run::{Context, Controller, Watches};
use api::k8s::api::core::v1::PodCondition;
use api::prelude::*;
use async_trait::async_trait;
use client::{Client, ClientError, DeleteParams, Patch};
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How long a node must be missing (`quarantineTime`).
const QUARANTINE: Duration = Duration::from_secs(40);
/// So many ended pods may stay (`--terminated-pod-gc-threshold`).
const MAX_ENDED: usize = 12_500;
/// The key of all ended pods. No name begins with a slash.
const ENDED: &str = "/ended";
/// The key of all unscheduled pods that are terminating.
const UNSCHEDULED: &str = "/unscheduled";
/// How often these are looked for (`gcCheckPeriod`).
const PERIOD: Duration = Duration::from_secs(20);
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

pub(crate) struct PodGc;

/// Since when nodes that pods name are missing, and whether the API server confirmed it after the quarantine.
type Missing = Mutex<BTreeMap<String, (Timestamp, bool)>>;

pub(crate) enum View {
    /// Terminating pods without a node.
    Unscheduled(Vec<Arc<Pod>>),
    /// Terminating pods on a node that is out of service.
    OutOfService(Vec<Arc<Pod>>),
    /// Pods of a node that is not there.
    Orphaned { node: String, pods: Vec<Arc<Pod>>, missing: Arc<Missing> },
    /// All pods that have ended.
    Ended(Vec<Arc<Pod>>),
}

impl Controller for PodGc {
    const NAME: &'static str = "pod-garbage-collector";
    type View = View;

    fn watches(watches: &mut Watches<'_>) {
        watches.map::<Node>(|ctx, change| {
            let (old, new) = (&change.old, &change.new);
            if new.is_some() {
                ctx.shared::<Missing>().lock().remove(change.latest().name());
            }
            let out = |n: &Option<Arc<Node>>| n.as_ref().is_some_and(|n| is_out_of_service(n));
            let wakes = new.is_none() || (out(new) && !out(old));
            if wakes { vec![Key::new("", change.latest().name())] } else { Vec::new() }
        });
        watches.map::<Pod>(|ctx, change| change.new.as_ref().and_then(|pod| key(ctx, pod)).into_iter().collect());
        watches.once(Key::new("", UNSCHEDULED));
    }

    fn view(key: &Key, ctx: &Context) -> Option<View> {
        let cache = ctx.cache::<Pod>();
        if !key.namespace.is_empty() {
            let pod = cache.get(&key.namespace, &key.name).filter(|p| is_unscheduled(p))?;
            return Some(View::Unscheduled(vec![pod]));
        }
        let mut pods = cache.list();
        match key.name.as_str() {
            ENDED => {
                pods.retain(|p| pods::is_terminal(p));
                return Some(View::Ended(pods));
            }
            UNSCHEDULED => {
                pods.retain(|p| is_unscheduled(p));
                return Some(View::Unscheduled(pods));
            }
            _ => {}
        }
        pods.retain(|p| node_of(p) == key.name);
        match ctx.cache::<Node>().get("", &key.name) {
            None => {
                let missing = ctx.shared::<Missing>();
                Some(View::Orphaned { node: key.name.clone(), pods, missing })
            }
            Some(node) if is_out_of_service(&node) => {
                pods.retain(|p| p.is_deleting());
                Some(View::OutOfService(pods))
            }
            Some(_) => None,
        }
    }

    fn plan(view: &View, now: Timestamp) -> Plan {
        let mut plan = Plan::done();
        match view {
            View::Unscheduled(pods) => {
                pods.iter().for_each(|p| fail_and_delete(p, None, &mut plan));
                plan.again(PERIOD);
            }
            View::OutOfService(pods) => pods.iter().for_each(|p| fail_and_delete(p, None, &mut plan)),
            View::Orphaned { node, pods, missing } => {
                let known = missing.lock().get(node).copied();
                orphaned(node, pods, known, missing, now, &mut plan);
            }
            View::Ended(pods) => ended(pods, &mut plan),
        }
        plan
    }
}

// === deciding ===

fn orphaned(
    node: &str,
    pods: &[Arc<Pod>],
    known: Option<(Timestamp, bool)>,
    missing: &Arc<Missing>,
    now: Timestamp,
    plan: &mut Plan,
) {
    if pods.is_empty() {
        return;
    }
    let note = |confirm| Note { node: node.to_owned(), now, confirm, missing: missing.clone() };
    match known {
        None => plan.writes.push(Write::run(note(false))),
        Some((_, true)) => {
            let condition = PodCondition {
                type_: "DisruptionTarget".into(),
                status: "True".into(),
                reason: Some("DeletionByPodGC".into()),
                message: Some("PodGC: node no longer exists".into()),
                last_transition_time: Some(api::Time(now)),
                ..PodCondition::default()
            };
            pods.iter().for_each(|p| fail_and_delete(p, Some(&condition), plan));
        }
        Some((since, false)) => {
            let passed = Duration::try_from(now.duration_since(since)).unwrap_or_default();
            match QUARANTINE.checked_sub(passed).filter(|left| !left.is_zero()) {
                Some(left) => plan.again(left),
                None => plan.writes.push(Write::run(note(true))),
            }
        }
    }
}

/// Evicted ones first, then the oldest.
fn ended(pods: &[Arc<Pod>], plan: &mut Plan) {
    let mut sorted: Vec<&Arc<Pod>> = pods.iter().collect();
    let evicted =
        |p: &Pod| pods::phase(p) == "Failed" && p.status.as_ref().and_then(|s| s.reason.as_deref()) == Some("Evicted");
    let created = |p: &Pod| p.metadata.creation_timestamp.as_ref().map(|t| t.0);
    sorted.sort_by(|a, b| {
        evicted(b).cmp(&evicted(a)).then_with(|| created(a).cmp(&created(b))).then_with(|| a.name().cmp(b.name()))
    });
    for pod in sorted.into_iter().take(pods.len().saturating_sub(MAX_ENDED)) {
        fail_and_delete(pod, None, plan);
    }
}

/// `markFailedAndDeletePodWithCondition`
fn fail_and_delete(pod: &Pod, condition: Option<&PodCondition>, plan: &mut Plan) {
    if !pods::is_terminal(pod) {
        let mut status = json!({"phase": "Failed"});
        if let Some(condition) = condition {
            status["conditions"] = json!([condition]);
        }
        let patch = json!({"metadata": {"uid": pod.uid()}, "status": status});
        plan.writes.push(Write::patch(pod, "status", Patch::Strategic(patch)));
    }
    let params = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    plan.writes.push(Write::delete_with(pod, params));
}

// === doing ===

/// Remembers that a node is missing, or confirms it at the API server.
struct Note {
    node: String,
    now: Timestamp,
    confirm: bool,
    missing: Arc<Missing>,
}

#[async_trait]
impl Task for Note {
    fn title(&self) -> String {
        let what = if self.confirm { "confirm" } else { "note" };
        format!("{what} that Node {} is missing", self.node)
    }

    async fn run(&self, client: &Client) -> Result<Done, ClientError> {
        if !self.confirm {
            self.missing.lock().insert(self.node.clone(), (self.now, false));
            return Ok(Done::again(QUARANTINE));
        }
        // If it is back, the cache will say so.
        let is_back = client.api::<Node>().find("", &self.node).await?.is_some();
        let mut missing = self.missing.lock();
        match missing.get_mut(&self.node) {
            Some(known) if !is_back => known.1 = true,
            _ => _ = missing.remove(&self.node),
        }
        Ok(Done::again(Duration::ZERO))
    }
}

// === helpers ===

fn key(ctx: &Context, pod: &Pod) -> Option<Key> {
    let node = node_of(pod);
    if pods::is_terminal(pod) && ctx.cache::<Pod>().len() > MAX_ENDED {
        return Some(Key::new("", ENDED));
    }
    if node.is_empty() {
        let stays = is_unscheduled(pod) && pod.metadata.finalizers.as_ref().is_some_and(|f| !f.is_empty());
        return stays.then(|| Key::of(pod));
    }
    let concerned = match ctx.cache::<Node>().get("", node) {
        None => true,
        Some(found) => pod.is_deleting() && is_out_of_service(&found),
    };
    concerned.then(|| Key::new("", node))
}

fn node_of(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or_default()
}

/// Terminating without a node.
fn is_unscheduled(pod: &Pod) -> bool {
    pod.is_deleting() && node_of(pod).is_empty()
}

fn is_out_of_service(node: &Node) -> bool {
    let taints = node.spec.iter().flat_map(|s| s.taints.iter().flatten());
    let conditions = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
    let ready = conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True");
    !ready && taints.into_iter().any(|t| t.key == OUT_OF_SERVICE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, pod, show};
    use expect_test::{Expect, expect};

    fn check_plan(view: &View, now: i64, expected: Expect) {
        expected.assert_eq(&show(&PodGc::plan(view, at(now))));
    }

    #[test]
    fn a_terminating_pod_without_node_is_removed_until_it_is_gone() {
        let deleting = pod("a", json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}));
        check_plan(
            &View::Unscheduled(vec![deleting]),
            0,
            expect![[r#"
            patch Pod ns/a status {"metadata":{"uid":"uid-a"},"status":{"phase":"Failed"}}
            delete Pod ns/a
            again in 20s
        "#]],
        );
    }

    #[test]
    fn pods_of_a_missing_node_go_after_the_quarantine_and_a_second_look() {
        let missing = Arc::new(Missing::default());
        let orphan = pod("a", json!({"spec": {"nodeName": "n"}, "status": {"phase": "Running"}}));
        let view = View::Orphaned { node: "n".into(), pods: vec![orphan], missing: missing.clone() };
        check_plan(
            &view,
            0,
            expect![[r#"
            note that Node n is missing
        "#]],
        );
        missing.lock().insert("n".into(), (at(0), false));
        check_plan(
            &view,
            10,
            expect![[r#"
            again in 30s
        "#]],
        );
        check_plan(
            &view,
            40,
            expect![[r#"
            confirm that Node n is missing
        "#]],
        );
        missing.lock().insert("n".into(), (at(0), true));
        check_plan(
            &view,
            40,
            expect![[r#"
            patch Pod ns/a status {"metadata":{"uid":"uid-a"},"status":{"conditions":[{"lastTransitionTime":"2026-01-01T00:00:40Z","message":"PodGC: node no longer exists","reason":"DeletionByPodGC","status":"True","type":"DisruptionTarget"}],"phase":"Failed"}}
            delete Pod ns/a
        "#]],
        );
    }

    #[test]
    fn too_many_ended_pods_lose_the_evicted_ones_first() {
        let mut all: Vec<Arc<Pod>> =
            (0..MAX_ENDED).map(|i| pod(&format!("p{i:05}"), json!({"status": {"phase": "Succeeded"}}))).collect();
        all.push(pod("z", json!({"status": {"phase": "Failed", "reason": "Evicted"}})));
        check_plan(
            &View::Ended(all),
            0,
            expect![[r#"
            delete Pod ns/z
        "#]],
        );
    }
}
