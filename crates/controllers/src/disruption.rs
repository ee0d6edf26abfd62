//! Disruption: how many pods of a PodDisruptionBudget may be evicted (`pkg/controller/disruption/disruption.go`).
//!
//! Watches   PodDisruptionBudget (self), Pod (by the budgets' selectors); reads the kinds that scale pods.
//! Writes    PodDisruptionBudget/status.
//! Invariant if the wanted number cannot be known, nothing may be disrupted.
//! Differs   from upstream: controllers of other kinds than Deployment, ReplicaSet, ReplicationController and StatefulSet are
//!           unsupported (upstream asks their `/scale`); stale DisruptionTarget conditions are not taken back.

use crate::deployment::scaled;
use crate::plan::{Key, Plan, PlannedEvent, Write};
use crate::pods;
use crate::run::{Context, Controller, Watches};
use api::Time;
use api::k8s::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use api::k8s::apimachinery::pkg::apis::meta::v1::Condition;
use api::k8s::apimachinery::pkg::util::intstr::IntOrString;
use api::prelude::*;
use client::EventKind;
use jiff::{SignedDuration, Timestamp};
use machinery::selector::LabelSelector;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How long an evicted pod may take to begin to go (`DeletionTimeout`).
const DELETION_TIMEOUT: SignedDuration = SignedDuration::from_mins(2);

pub(crate) struct Disruption;

pub(crate) struct View {
    pdb: Arc<PodDisruptionBudget>,
    pods: Vec<Arc<Pod>>,
    /// By the UID of what scales the pods: how many it wants; `None`, by the UID of the pods' controller: unknown.
    scales: BTreeMap<String, Option<i32>>,
}

impl Controller for Disruption {
    const NAME: &'static str = "disruption-controller";
    type View = View;

    fn watches(watches: &mut Watches<'_>) {
        watches.reads::<Deployment>();
        watches.reads::<ReplicaSet>();
        watches.reads::<ReplicationController>();
        watches.reads::<StatefulSet>();
        watches.own::<PodDisruptionBudget>();
        watches.map::<Pod>(|ctx, change| {
            let sides = [&change.old, &change.new];
            let all = ctx.cache::<PodDisruptionBudget>().list_in(change.latest().namespace());
            let concerns = |b: &Arc<PodDisruptionBudget>| {
                selector(b).is_some_and(|s| sides.into_iter().flatten().any(|p| matches(&s, p)))
            };
            all.iter().filter(|b| concerns(b)).map(|b| Key::of(b.as_ref())).collect()
        });
    }

    fn view(key: &Key, ctx: &Context) -> Option<View> {
        let pdb = ctx.cache::<PodDisruptionBudget>().get(&key.namespace, &key.name)?;
        let mut pods = match selector(&pdb) {
            Some(_) => ctx.cache::<Pod>().list_in(&key.namespace),
            None => Vec::new(),
        };
        pods.retain(|p| selector(&pdb).is_some_and(|s| matches(&s, p)));
        let mut scales = BTreeMap::new();
        for pod in &pods {
            if let Some((uid, scale)) = scale_of(ctx, pod) {
                scales.insert(uid, scale);
            }
        }
        Some(View { pdb, pods, scales })
    }

    fn plan(view: &View, now: Timestamp) -> Plan {
        let mut plan = Plan::done();
        let pdb = &view.pdb;
        let note = |kind, reason, message: &str| PlannedEvent::new(pdb.as_ref(), kind, reason, message);
        if view.pods.is_empty() {
            plan.events.push(note(EventKind::Normal, "NoPods", "No matching pods found"));
        }
        let (expected, desired) = match expected(view) {
            Ok(counts) => counts,
            Err(why) => {
                let message = format!("Failed to calculate the number of expected pods: {why}");
                plan.events.push(note(EventKind::Warning, "CalculateExpectedPodCountFailed", &message));
                fail_safe(pdb, &why, now, &mut plan);
                return plan;
            }
        };
        let disrupted = disrupted(view, now, &mut plan);
        let healthy =
            view.pods.iter().filter(|p| !p.is_deleting() && !disrupted.contains_key(p.name()) && pods::is_ready(p));
        let healthy = i32::try_from(healthy.count()).unwrap_or(i32::MAX);
        let allowed = if expected <= 0 { 0 } else { (healthy - desired).max(0) };
        let mut next = pdb.as_ref().clone();
        next.status = Some(PodDisruptionBudgetStatus {
            conditions: pdb.status.as_ref().and_then(|s| s.conditions.clone()),
            current_healthy: Some(healthy),
            desired_healthy: Some(desired),
            disrupted_pods: Some(disrupted).filter(|d| !d.is_empty()),
            disruptions_allowed: Some(allowed),
            expected_pods: Some(expected),
            observed_generation: pdb.metadata.generation,
        });
        let (status, reason) = if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
        set_condition(&mut next, status, reason, "", now);
        if next.status != pdb.status {
            plan.writes.push(Write::status(next));
        } else {
            // Nothing new to tell either.
            plan.events.clear();
        }
        plan
    }
}

// === deciding ===

/// How many pods there should be, and how many of them healthy (`getExpectedPodCount`).
fn expected(view: &View) -> Result<(i32, i32), String> {
    let spec = view.pdb.spec.clone().unwrap_or_default();
    if let Some(max) = &spec.max_unavailable {
        let expected = expected_scale(view)?;
        return Ok((expected, (expected - scaled(Some(max), expected, true)).max(0)));
    }
    match &spec.min_available {
        Some(IntOrString::Int(min)) => Ok((i32::try_from(view.pods.len()).unwrap_or(i32::MAX), *min)),
        Some(percent) => {
            let expected = expected_scale(view)?;
            Ok((expected, scaled(Some(percent), expected, true)))
        }
        None => Ok((0, 0)),
    }
}

/// The sum of what the pods' controllers want; pods without controller count for nothing.
fn expected_scale(view: &View) -> Result<i32, String> {
    let unknown = |p: &&Arc<Pod>| p.controller().is_some_and(|c| view.scales.get(&c.uid) == Some(&None));
    match view.pods.iter().find(unknown) {
        Some(pod) => Err(format!("found no controllers for pod {:?}", pod.name())),
        None => Ok(view.scales.values().flatten().sum()),
    }
}

/// Evicted pods that have not begun to go (`buildDisruptedPodMap`).
fn disrupted(view: &View, now: Timestamp, plan: &mut Plan) -> BTreeMap<String, Time> {
    let mut still = BTreeMap::new();
    let known = view.pdb.status.as_ref().and_then(|s| s.disrupted_pods.clone()).unwrap_or_default();
    for pod in view.pods.iter().filter(|p| !p.is_deleting()) {
        let Some(at) = known.get(pod.name()) else { continue };
        match Duration::try_from((at.0 + DELETION_TIMEOUT).duration_since(now)) {
            Ok(left) => {
                plan.again(left.max(Duration::from_millis(1)));
                still.insert(pod.name().to_owned(), at.clone());
            }
            Err(_) => {
                let by = format!("{}/{}", view.pdb.namespace(), view.pdb.name());
                let message = format!("Pod was expected by PDB {by} to be deleted but it wasn't");
                plan.events.push(PlannedEvent::new(pod.as_ref(), EventKind::Warning, "NotDeleted", &message));
            }
        }
    }
    still
}

fn fail_safe(pdb: &PodDisruptionBudget, why: &str, now: Timestamp, plan: &mut Plan) {
    let mut next = pdb.clone();
    next.status.get_or_insert_default().disruptions_allowed = Some(0);
    set_condition(&mut next, "False", "SyncFailed", why, now);
    if next.status != pdb.status {
        plan.writes.push(Write::status(next));
    } else {
        plan.events.clear();
    }
}

fn set_condition(pdb: &mut PodDisruptionBudget, status: &str, reason: &str, message: &str, now: Timestamp) {
    const KIND: &str = "DisruptionAllowed";
    let current = pdb.status.get_or_insert_default();
    let generation = current.observed_generation;
    let conditions = current.conditions.get_or_insert_default();
    let since =
        conditions.iter().find(|c| c.type_ == KIND && c.status == status).map(|c| c.last_transition_time.clone());
    let new = Condition {
        last_transition_time: since.unwrap_or(Time(now)),
        message: message.to_owned(),
        observed_generation: generation,
        reason: reason.to_owned(),
        status: status.to_owned(),
        type_: KIND.to_owned(),
    };
    match conditions.iter_mut().find(|c| c.type_ == KIND) {
        Some(old) => *old = new,
        None => conditions.push(new),
    }
}

// === gathering ===

/// The UID of what scales a pod, and how many it wants (`finders`).
fn scale_of(ctx: &Context, pod: &Pod) -> Option<(String, Option<i32>)> {
    let owner = pod.controller()?;
    let (namespace, name) = (pod.namespace(), owner.name.as_str());
    let found = match owner.kind.as_str() {
        "ReplicaSet" => {
            let rs = ctx.cache::<ReplicaSet>().get(namespace, name);
            let deployment = rs.as_ref().and_then(|rs| rs.controller()).filter(|c| c.kind == "Deployment");
            match deployment {
                Some(d) => {
                    let found = ctx.cache::<Deployment>().get(namespace, &d.name).filter(|x| x.uid() == d.uid);
                    found.map(|d| (d.uid().to_owned(), d.spec.as_ref().and_then(|s| s.replicas)))
                }
                None => rs.map(|rs| (rs.uid().to_owned(), rs.spec.as_ref().and_then(|s| s.replicas))),
            }
        }
        "ReplicationController" => ctx
            .cache::<ReplicationController>()
            .get(namespace, name)
            .map(|rc| (rc.uid().to_owned(), rc.spec.as_ref().and_then(|s| s.replicas))),
        "StatefulSet" => ctx
            .cache::<StatefulSet>()
            .get(namespace, name)
            .map(|set| (set.uid().to_owned(), set.spec.as_ref().and_then(|s| s.replicas))),
        _ => None,
    };
    Some(match found {
        Some((uid, scale)) => (uid, Some(scale.unwrap_or(1))),
        None => (owner.uid.clone(), None),
    })
}

fn selector(pdb: &PodDisruptionBudget) -> Option<LabelSelector> {
    LabelSelector::from_api(Some(pdb.spec.as_ref()?.selector.as_ref()?)).ok()
}

fn matches(selector: &LabelSelector, pod: &Pod) -> bool {
    let empty = BTreeMap::new();
    selector.matches(pod.metadata.labels.as_ref().unwrap_or(&empty))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, object, pod, show};
    use expect_test::{Expect, expect};
    use serde_json::{Value, json};

    fn owned(name: &str, ready: &str, owner: &str) -> Arc<Pod> {
        let owner = json!({"apiVersion": "apps/v1", "kind": "X", "name": owner, "uid": owner, "controller": true});
        pod(
            name,
            json!({"metadata": {"ownerReferences": [owner]}, "status": {"conditions": [{"type": "Ready", "status": ready}]}}),
        )
    }

    fn check_status(spec: Value, status: Value, pods: Vec<Arc<Pod>>, scales: &[(&str, Option<i32>)], expected: Expect) {
        let pdb = object(json!({
            "metadata": {"name": "b", "namespace": "ns", "uid": "u", "generation": 1}, "spec": spec, "status": status,
        }));
        let scales = scales.iter().map(|(uid, n)| ((*uid).to_owned(), *n)).collect();
        expected.assert_eq(&show(&Disruption::plan(&View { pdb, pods, scales }, at(0))));
    }

    #[test]
    fn numbers_and_percentages() {
        let pods = || vec![owned("a", "True", "x"), owned("b", "True", "x"), owned("c", "False", "x")];
        check_status(
            json!({"minAvailable": 1}),
            json!({}),
            pods(),
            &[],
            expect![[r#"
            status PodDisruptionBudget ns/b {"conditions":[{"lastTransitionTime":"2026-01-01T00:00:00Z","message":"","observedGeneration":1,"reason":"SufficientPods","status":"True","type":"DisruptionAllowed"}],"currentHealthy":2,"desiredHealthy":1,"disruptionsAllowed":1,"expectedPods":3,"observedGeneration":1}
        "#]],
        );
        check_status(
            json!({"maxUnavailable": "34%"}),
            json!({}),
            pods(),
            &[("x", Some(3))],
            expect![[r#"
            status PodDisruptionBudget ns/b {"conditions":[{"lastTransitionTime":"2026-01-01T00:00:00Z","message":"","observedGeneration":1,"reason":"SufficientPods","status":"True","type":"DisruptionAllowed"}],"currentHealthy":2,"desiredHealthy":1,"disruptionsAllowed":1,"expectedPods":3,"observedGeneration":1}
        "#]],
        );
    }

    #[test]
    fn what_cannot_be_known_allows_nothing() {
        check_status(
            json!({"maxUnavailable": 1}),
            json!({}),
            vec![owned("a", "True", "x")],
            &[("x", None)],
            expect![[r#"
            event Warning CalculateExpectedPodCountFailed: Failed to calculate the number of expected pods: found no controllers for pod "a"
            status PodDisruptionBudget ns/b {"conditions":[{"lastTransitionTime":"2026-01-01T00:00:00Z","message":"found no controllers for pod \"a\"","reason":"SyncFailed","status":"False","type":"DisruptionAllowed"}],"disruptionsAllowed":0}
        "#]],
        );
    }

    #[test]
    fn an_evicted_pod_is_not_healthy_until_its_time_is_over() {
        let status = |seconds| json!({"disruptedPods": {"a": at(seconds).to_string()}});
        check_status(
            json!({"minAvailable": 0}),
            status(-60),
            vec![owned("a", "True", "x")],
            &[],
            expect![[r#"
            status PodDisruptionBudget ns/b {"conditions":[{"lastTransitionTime":"2026-01-01T00:00:00Z","message":"","observedGeneration":1,"reason":"InsufficientPods","status":"False","type":"DisruptionAllowed"}],"currentHealthy":0,"desiredHealthy":0,"disruptedPods":{"a":"2025-12-31T23:59:00Z"},"disruptionsAllowed":0,"expectedPods":1,"observedGeneration":1}
            again in 60s
        "#]],
        );
        check_status(
            json!({"minAvailable": 0}),
            status(-121),
            vec![owned("a", "True", "x")],
            &[],
            expect![[r#"
            event Warning NotDeleted: Pod was expected by PDB ns/b to be deleted but it wasn't
            status PodDisruptionBudget ns/b {"conditions":[{"lastTransitionTime":"2026-01-01T00:00:00Z","message":"","observedGeneration":1,"reason":"SufficientPods","status":"True","type":"DisruptionAllowed"}],"currentHealthy":1,"desiredHealthy":0,"disruptionsAllowed":1,"expectedPods":1,"observedGeneration":1}
        "#]],
        );
    }
}
