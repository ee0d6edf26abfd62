//! HorizontalPodAutoscalers: as many pods as the load asks for (`pkg/controller/podautoscaler/horizontal.go`).
//!
//! Watches   HorizontalPodAutoscaler (self), Pod (read only).
//! Reads     the target's scale and `metrics.k8s.io`, through the API, every 15 seconds ([`look`]).
//! Writes    the target's scale, HorizontalPodAutoscaler/status.
//! Invariant what was seen once is acted on once.
//! Differs   from upstream: only Resource and ContainerResource metrics; others are refused by name, as metrics that cannot be
//!           had. Two autoscalers for the same pods are not detected.

mod behavior;
mod look;
mod usage;

use crate::plan::{Done, Key, Plan, PlannedEvent, Task, Write};
use crate::run::{Context, Controller, Watches};
use api::Time;
use api::k8s::api::autoscaling::v2::{
    HorizontalPodAutoscaler, HorizontalPodAutoscalerCondition, HorizontalPodAutoscalerStatus, MetricStatus,
};
use api::prelude::*;
use async_trait::async_trait;
use behavior::Memory;
use client::{Client, ClientError, EventKind};
use jiff::Timestamp;
use look::{Look, Scale, Seen};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// Between two looks (`--horizontal-pod-autoscaler-sync-period`).
const EVERY: Duration = Duration::from_secs(15);

pub(crate) struct HorizontalPodAutoscalers;

/// What was seen and done, per autoscaler.
#[derive(Default)]
pub(crate) struct Notes(Mutex<HashMap<Key, Note>>);

#[derive(Clone, Default)]
struct Note {
    seen: Option<Arc<Seen>>,
    /// What was seen has been acted on.
    used: bool,
    memory: Memory,
}

pub(crate) struct View {
    hpa: Arc<HorizontalPodAutoscaler>,
    pods: Vec<Arc<Pod>>,
    note: Note,
    notes: Arc<Notes>,
}

impl Controller for HorizontalPodAutoscalers {
    const NAME: &'static str = "horizontal-pod-autoscaler";
    type View = View;

    fn watches(watches: &mut Watches<'_>) {
        watches.map::<HorizontalPodAutoscaler>(|ctx, change| {
            let key = Key::of(change.latest().as_ref());
            if change.new.is_none() {
                ctx.shared::<Notes>().0.lock().remove(&key);
            }
            vec![key]
        });
        watches.reads::<Pod>();
    }

    fn view(key: &Key, ctx: &Context) -> Option<View> {
        let hpa = ctx.cache::<HorizontalPodAutoscaler>().get(&key.namespace, &key.name)?;
        let notes = ctx.shared::<Notes>();
        let note = notes.0.lock().get(key).cloned().unwrap_or_default();
        let selector = note.seen.as_ref().and_then(|seen| seen.scale.as_ref().ok()?.selector.clone());
        let selects = |pod: &Arc<Pod>| selector.as_ref().is_some_and(|s| s.matches(&pod.metadata.labels));
        let pods = ctx.cache::<Pod>().list_in(&key.namespace).into_iter().filter(selects).collect();
        Some(View { hpa, pods, note, notes })
    }

    fn plan(view: &View, now: Timestamp) -> Plan {
        let mut plan = Plan::done();
        let hpa = view.hpa.as_ref();
        let age = |seen: &Seen| Duration::try_from(now.duration_since(seen.at)).unwrap_or_default();
        match &view.note.seen {
            Some(seen) if !view.note.used => {
                act(view, seen, now, &mut plan);
                plan.again(EVERY);
            }
            Some(seen) if seen.generation == hpa.metadata.generation && age(seen) < EVERY => {
                plan.again(EVERY.saturating_sub(age(seen)));
            }
            _ => plan.writes.push(Write::run(Look { hpa: view.hpa.clone(), notes: view.notes.clone(), now })),
        }
        plan
    }
}

// === deciding ===

/// `reconcileAutoscaler`, after everything was fetched.
fn act(view: &View, seen: &Seen, now: Timestamp, plan: &mut Plan) {
    let hpa = view.hpa.as_ref();
    let mut draft = Draft { hpa, status: hpa.status.clone().unwrap_or_default(), events: Vec::new(), now };
    let mut memory = view.note.memory.clone();
    let wanted = decide(&mut draft, seen, &view.pods, &mut memory);
    let key = Key::of(hpa);
    plan.events.append(&mut draft.events);
    plan.writes.push(Write::run(Remember { notes: view.notes.clone(), key: key.clone(), memory }));
    if let (Ok(scale), Some((replicas, reason))) = (&seen.scale, wanted) {
        let size = format!("New size: {replicas}; reason: {reason}");
        let rescale = Rescale {
            notes: view.notes.clone(),
            key,
            scale: scale.clone(),
            replicas,
            with_behavior: hpa.spec.behavior.is_some(),
            now,
        };
        let failed = HorizontalPodAutoscaler { status: Some(draft.status.clone()), ..hpa.clone() };
        let write = Write::run(rescale).telling(
            hpa,
            ("SuccessfulRescale", &size),
            ("FailedRescale", &format!("{size}; error: {{error}}")),
        );
        plan.writes.push(write.otherwise(move |error| {
            let text = format!("the HPA controller was unable to update the target scale: {error}");
            let mut next = failed.clone();
            set(next.status.get_or_insert_default(), now, "AbleToScale", false, "FailedUpdateScale", &text);
            Some(Write::status(next))
        }));
        let text = format!("the HPA controller was able to update the target scale to {replicas}");
        draft.condition("AbleToScale", true, "SucceededRescale", &text);
        draft.status.desired_replicas = replicas;
        draft.status.last_scale_time = Some(Time(now));
    }
    if hpa.status.as_ref() != Some(&draft.status) {
        plan.writes.push(Write::status(HorizontalPodAutoscaler { status: Some(draft.status), ..hpa.clone() }));
    }
}

/// A status as it becomes, and what is told.
struct Draft<'a> {
    hpa: &'a HorizontalPodAutoscaler,
    status: HorizontalPodAutoscalerStatus,
    events: Vec<PlannedEvent>,
    now: Timestamp,
}

impl Draft<'_> {
    fn condition(&mut self, kind: &str, holds: bool, reason: &str, text: &str) {
        set(&mut self.status, self.now, kind, holds, reason, text);
    }

    fn warn(&mut self, reason: &str, text: &str) {
        self.events.push(PlannedEvent::new(self.hpa, EventKind::Warning, reason, text));
    }

    fn counts(&mut self, current: i32, desired: i32, metrics: Vec<MetricStatus>) {
        self.status.current_replicas = Some(current);
        self.status.desired_replicas = desired;
        self.status.current_metrics = Some(metrics);
    }
}

/// `setConditionInList`
fn set(status: &mut HorizontalPodAutoscalerStatus, now: Timestamp, kind: &str, holds: bool, reason: &str, text: &str) {
    let conditions = status.conditions.get_or_insert_default();
    let at = match conditions.iter().position(|c| c.type_ == kind) {
        Some(at) => at,
        None => {
            conditions.push(HorizontalPodAutoscalerCondition { type_: kind.into(), ..Default::default() });
            conditions.len() - 1
        }
    };
    let condition = &mut conditions[at];
    let value = if holds { "True" } else { "False" };
    if condition.status != value {
        condition.last_transition_time = Some(Time(now));
    }
    condition.status = value.into();
    condition.reason = Some(reason.into());
    condition.message = Some(text.into());
}

/// How many replicas there are to be, and why; `None`: leave it.
fn decide(draft: &mut Draft<'_>, seen: &Seen, pods: &[Arc<Pod>], memory: &mut Memory) -> Option<(i32, String)> {
    let scale = match &seen.scale {
        Ok(scale) => scale,
        Err(error) => {
            draft.warn("FailedGetScale", error);
            let text = format!("the HPA controller was unable to get the target's current scale: {error}");
            draft.condition("AbleToScale", false, "FailedGetScale", &text);
            return None;
        }
    };
    let text = "the HPA controller was able to get the target's current scale";
    draft.condition("AbleToScale", true, "SucceededGetScale", text);
    let (current, now) = (scale.replicas, draft.now);
    memory.begin(current, now);
    let spec = draft.hpa.spec.clone();
    let least = spec.min_replicas.unwrap_or(1);
    if current == 0 {
        let text = "scaling is disabled since the replica count of the target is zero";
        draft.condition("ScalingActive", false, "ScalingDisabled", text);
        draft.counts(current, 0, Vec::new());
        return None;
    }
    if current > spec.max_replicas {
        draft.counts(current, spec.max_replicas, Vec::new());
        return Some((spec.max_replicas, "Current number of replicas above Spec.MaxReplicas".into()));
    }
    if current < least {
        draft.counts(current, least, Vec::new());
        return Some((least, "Current number of replicas below Spec.MinReplicas".into()));
    }
    let (proposed, metric, statuses) = match for_metrics(draft, scale, seen, pods) {
        Ok(found) => found,
        Err((statuses, error)) => {
            let desired = draft.status.desired_replicas;
            draft.counts(current, desired, statuses);
            draft.warn("FailedComputeMetricsReplicas", &error);
            return None;
        }
    };
    let reason = match proposed.cmp(&current) {
        std::cmp::Ordering::Greater => format!("{metric} above target"),
        std::cmp::Ordering::Less => "All metrics below target".into(),
        std::cmp::Ordering::Equal => String::new(),
    };
    let bounds = behavior::Bounds { current, proposed, least, most: spec.max_replicas };
    let outcome = behavior::normalize(&bounds, spec.behavior.as_ref(), memory, now);
    for (kind, holds, reason, text) in outcome.conditions {
        draft.condition(kind, holds, reason, text);
    }
    draft.counts(current, outcome.replicas, statuses);
    (outcome.replicas != current).then_some((outcome.replicas, reason))
}

type Found = (i32, String, Vec<MetricStatus>);

/// `computeReplicasForMetrics`: the largest proposal. Scales down only if all metrics can be had.
fn for_metrics(
    draft: &mut Draft<'_>,
    scale: &Scale,
    seen: &Seen,
    pods: &[Arc<Pod>],
) -> Result<Found, (Vec<MetricStatus>, String)> {
    if scale.selector.is_none() {
        draft.warn("SelectorRequired", "selector is required");
        draft.condition("ScalingActive", false, "InvalidSelector", "the HPA target's scale is missing a selector");
        return Err((Vec::new(), "selector is required".into()));
    }
    let metrics = draft.hpa.spec.metrics.clone().unwrap_or_default();
    let (mut best, mut name, mut statuses) = (0, String::new(), Vec::new());
    let mut invalid: Vec<(&'static str, String)> = Vec::new();
    for metric in &metrics {
        match usage::propose(metric, draft.hpa, scale, &seen.metrics, pods, draft.now) {
            Ok(proposal) => {
                statuses.push(proposal.status);
                if best == 0 || proposal.replicas > best {
                    (best, name) = (proposal.replicas, proposal.name);
                }
            }
            Err((reason, error)) => {
                draft.warn(reason, &error);
                // Upstream leaves an empty status in the place of a metric that cannot be had.
                statuses.push(MetricStatus::default());
                invalid.push((reason, error));
            }
        }
    }
    if let Some((reason, error)) = invalid.first()
        && (invalid.len() >= metrics.len() || best < scale.replicas)
    {
        let text = format!("the HPA was unable to compute the replica count: {error}");
        draft.condition("ScalingActive", false, reason, &text);
        let count = (invalid.len(), metrics.len());
        let text = format!("invalid metrics ({} invalid out of {}), first error is: {error}", count.0, count.1);
        return Err((statuses, text));
    }
    let text = format!("the HPA was able to successfully calculate a replica count from {name}");
    draft.condition("ScalingActive", true, "ValidMetricFound", &text);
    Ok((best, name, statuses))
}

// === doing ===

/// Notes that what was seen has been acted on, and what was recommended.
struct Remember {
    notes: Arc<Notes>,
    key: Key,
    memory: Memory,
}

#[async_trait]
impl Task for Remember {
    fn title(&self) -> String {
        format!("remember HorizontalPodAutoscaler {}", self.key)
    }

    async fn run(&self, _: &Client) -> Result<Done, ClientError> {
        if let Some(note) = self.notes.0.lock().get_mut(&self.key) {
            note.used = true;
            note.memory = self.memory.clone();
        }
        Ok(Done::default())
    }
}

/// Writes the new size.
struct Rescale {
    notes: Arc<Notes>,
    key: Key,
    scale: Scale,
    replicas: i32,
    with_behavior: bool,
    now: Timestamp,
}

#[async_trait]
impl Task for Rescale {
    fn title(&self) -> String {
        format!("scale {} to {}", self.scale.path, self.replicas)
    }

    async fn run(&self, client: &Client) -> Result<Done, ClientError> {
        look::rescale(client, &self.scale, self.replicas).await?;
        if let Some(note) = self.notes.0.lock().get_mut(&self.key).filter(|_| self.with_behavior) {
            note.memory.scaled(self.replicas - self.scale.replicas, self.now);
        }
        Ok(Done::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, merge, object, pod, show};
    use expect_test::{Expect, expect};
    use look::PodUsage;
    use machinery::selector::LabelSelector;
    use serde_json::{Value, json};
    use std::collections::BTreeMap;

    fn seen(replicas: i32, usage: &[(&str, i64)]) -> Seen {
        let milli = |n: &i64| BTreeMap::from([("cpu".to_owned(), *n)]);
        let of = |(name, n): &(&str, i64)| {
            let containers = BTreeMap::from([("c".to_owned(), milli(n))]);
            ((*name).to_owned(), PodUsage { at: at(0), window: Duration::from_secs(30), containers })
        };
        let scale =
            Scale { path: "/x/scale".into(), replicas, selector: Some(LabelSelector::everything()), object: json!({}) };
        let metrics = Ok(usage.iter().map(of).collect());
        Seen { generation: None, at: at(0), scale: Ok(scale), metrics }
    }

    fn hpa(spec: Value) -> Arc<HorizontalPodAutoscaler> {
        let resource = json!({"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}});
        let mut all = json!({"scaleTargetRef": {"kind": "Deployment", "name": "d"}, "minReplicas": 1, "maxReplicas": 10,
            "metrics": [{"type": "Resource", "resource": resource}]});
        merge(&mut all, spec);
        object(json!({"metadata": {"name": "h", "namespace": "ns"}, "spec": all}))
    }

    fn pods(count: usize) -> Vec<Arc<Pod>> {
        let ready = json!([{"type": "Ready", "status": "True", "lastTransitionTime": at(-3600).to_string()}]);
        let request = json!([{"name": "c", "resources": {"requests": {"cpu": "1"}}}]);
        let status = json!({"phase": "Running", "startTime": at(-3600).to_string(), "conditions": ready});
        (0..count).map(|i| pod(&format!("p{i}"), json!({"spec": {"containers": request}, "status": status}))).collect()
    }

    fn check(hpa: Arc<HorizontalPodAutoscaler>, seen: Seen, pods: Vec<Arc<Pod>>, expected: Expect) {
        let note = Note { seen: Some(Arc::new(seen)), used: false, memory: Memory::default() };
        let plan = HorizontalPodAutoscalers::plan(&View { hpa, pods, note, notes: Arc::default() }, at(0));
        expected.assert_eq(&show(&plan));
    }

    #[test]
    fn load_above_the_target_adds_pods_and_below_takes_them_away() {
        check(
            hpa(json!({})),
            seen(2, &[("p0", 900), ("p1", 700)]),
            pods(2),
            expect![[r#"
            remember HorizontalPodAutoscaler ns/h
            scale /x/scale to 4 -> SuccessfulRescale New size: 4; reason: cpu resource utilization (percentage of request) above target
            status HorizontalPodAutoscaler ns/h {"conditions":[{"lastTransitionTime":"2026-01-01T00:00:00Z","message":"the HPA controller was able to update the target scale to 4","reason":"SucceededRescale","status":"True","type":"AbleToScale"},{"lastTransitionTime":"2026-01-01T00:00:00Z","message":"the HPA was able to successfully calculate a replica count from cpu resource utilization (percentage of request)","reason":"ValidMetricFound","status":"True","type":"ScalingActive"},{"lastTransitionTime":"2026-01-01T00:00:00Z","message":"the desired count is within the acceptable range","reason":"DesiredWithinRange","status":"False","type":"ScalingLimited"}],"currentMetrics":[{"resource":{"current":{"averageUtilization":80,"averageValue":"800m"},"name":"cpu"},"type":"Resource"}],"currentReplicas":2,"desiredReplicas":4,"lastScaleTime":"2026-01-01T00:00:00Z"}
            again in 15s
        "#]],
        );
        check(
            hpa(json!({})),
            seen(2, &[("p0", 540), ("p1", 480)]),
            pods(2),
            expect![[r#"
            remember HorizontalPodAutoscaler ns/h
            status HorizontalPodAutoscaler ns/h {"conditions":[{"lastTransitionTime":"2026-01-01T00:00:00Z","message":"recommended size matches current size","reason":"ReadyForNewScale","status":"True","type":"AbleToScale"},{"lastTransitionTime":"2026-01-01T00:00:00Z","message":"the HPA was able to successfully calculate a replica count from cpu resource utilization (percentage of request)","reason":"ValidMetricFound","status":"True","type":"ScalingActive"},{"lastTransitionTime":"2026-01-01T00:00:00Z","message":"the desired count is within the acceptable range","reason":"DesiredWithinRange","status":"False","type":"ScalingLimited"}],"currentMetrics":[{"resource":{"current":{"averageUtilization":51,"averageValue":"510m"},"name":"cpu"},"type":"Resource"}],"currentReplicas":2,"desiredReplicas":2}
            again in 15s
        "#]],
        );
        let now = json!({"behavior": {"scaleDown": {"stabilizationWindowSeconds": 0, "selectPolicy": "Max", "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}]},
            "scaleUp": {"stabilizationWindowSeconds": 0, "selectPolicy": "Max", "policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}]}}});
        check(
            hpa(now.clone()),
            seen(2, &[("p0", 100), ("p1", 100)]),
            pods(2),
            expect![[r#"
            remember HorizontalPodAutoscaler ns/h
            scale /x/scale to 1 -> SuccessfulRescale New size: 1; reason: All metrics below target
            status HorizontalPodAutoscaler ns/h {"conditions":[{"lastTransitionTime":"2026-01-01T00:00:00Z","message":"the HPA controller was able to update the target scale to 1","reason":"SucceededRescale","status":"True","type":"AbleToScale"},{"lastTransitionTime":"2026-01-01T00:00:00Z","message":"the HPA was able to successfully calculate a replica count from cpu resource utilization (percentage of request)","reason":"ValidMetricFound","status":"True","type":"ScalingActive"},{"lastTransitionTime":"2026-01-01T00:00:00Z","message":"the desired count is within the acceptable range","reason":"DesiredWithinRange","status":"False","type":"ScalingLimited"}],"currentMetrics":[{"resource":{"current":{"averageUtilization":10,"averageValue":"100m"},"name":"cpu"},"type":"Resource"}],"currentReplicas":2,"desiredReplicas":1,"lastScaleTime":"2026-01-01T00:00:00Z"}
            again in 15s
        "#]],
        );
        check(
            hpa(now),
            seen(2, &[("p0", 2000), ("p1", 2000)]),
            pods(2),
            expect![[r#"
            remember HorizontalPodAutoscaler ns/h
            scale /x/scale to 3 -> SuccessfulRescale New size: 3; reason: cpu resource utilization (percentage of request) above target
            status HorizontalPodAutoscaler ns/h {"conditions":[{"lastTransitionTime":"2026-01-01T00:00:00Z","message":"the HPA controller was able to update the target scale to 3","reason":"SucceededRescale","status":"True","type":"AbleToScale"},{"lastTransitionTime":"2026-01-01T00:00:00Z","message":"the HPA was able to successfully calculate a replica count from cpu resource utilization (percentage of request)","reason":"ValidMetricFound","status":"True","type":"ScalingActive"},{"lastTransitionTime":"2026-01-01T00:00:00Z","message":"the desired replica count is increasing faster than the maximum scale rate","reason":"ScaleUpLimit","status":"True","type":"ScalingLimited"}],"currentMetrics":[{"resource":{"current":{"averageUtilization":200,"averageValue":"2"},"name":"cpu"},"type":"Resource"}],"currentReplicas":2,"desiredReplicas":3,"lastScaleTime":"2026-01-01T00:00:00Z"}
            again in 15s
        "#]],
        );
    }

    #[test]
    fn bounds_hold_without_metrics() {
        check(
            hpa(json!({"maxReplicas": 3})),
            seen(5, &[]),
            pods(5),
            expect![[r#"
            remember HorizontalPodAutoscaler ns/h
            scale /x/scale to 3 -> SuccessfulRescale New size: 3; reason: Current number of replicas above Spec.MaxReplicas
            status HorizontalPodAutoscaler ns/h {"conditions":[{"lastTransitionTime":"2026-01-01T00:00:00Z","message":"the HPA controller was able to update the target scale to 3","reason":"SucceededRescale","status":"True","type":"AbleToScale"}],"currentMetrics":[],"currentReplicas":5,"desiredReplicas":3,"lastScaleTime":"2026-01-01T00:00:00Z"}
            again in 15s
        "#]],
        );
        check(
            hpa(json!({})),
            seen(0, &[]),
            Vec::new(),
            expect![[r#"
            remember HorizontalPodAutoscaler ns/h
            status HorizontalPodAutoscaler ns/h {"conditions":[{"lastTransitionTime":"2026-01-01T00:00:00Z","message":"the HPA controller was able to get the target's current scale","reason":"SucceededGetScale","status":"True","type":"AbleToScale"},{"lastTransitionTime":"2026-01-01T00:00:00Z","message":"scaling is disabled since the replica count of the target is zero","reason":"ScalingDisabled","status":"False","type":"ScalingActive"}],"currentMetrics":[],"currentReplicas":0,"desiredReplicas":0}
            again in 15s
        "#]],
        );
    }

    #[test]
    fn without_the_metrics_api_the_condition_says_so() {
        let mut blind = seen(1, &[]);
        let error =
            "unable to fetch metrics from resource metrics API: the server could not find the requested resource";
        blind.metrics = Err(error.into());
        check(
            hpa(json!({})),
            blind,
            pods(1),
            expect![[r#"
            event Warning FailedGetResourceMetric: failed to get cpu utilization: unable to get metrics for resource cpu: unable to fetch metrics from resource metrics API: the server could not find the requested resource
            event Warning FailedComputeMetricsReplicas: invalid metrics (1 invalid out of 1), first error is: failed to get cpu utilization: unable to get metrics for resource cpu: unable to fetch metrics from resource metrics API: the server could not find the requested resource
            remember HorizontalPodAutoscaler ns/h
            status HorizontalPodAutoscaler ns/h {"conditions":[{"lastTransitionTime":"2026-01-01T00:00:00Z","message":"the HPA controller was able to get the target's current scale","reason":"SucceededGetScale","status":"True","type":"AbleToScale"},{"lastTransitionTime":"2026-01-01T00:00:00Z","message":"the HPA was unable to compute the replica count: failed to get cpu utilization: unable to get metrics for resource cpu: unable to fetch metrics from resource metrics API: the server could not find the requested resource","reason":"FailedGetResourceMetric","status":"False","type":"ScalingActive"}],"currentMetrics":[{"type":""}],"currentReplicas":1,"desiredReplicas":0}
            again in 15s
        "#]],
        );
        let mut lost = seen(1, &[]);
        lost.scale = Err("deployments.apps \"d\" not found".into());
        check(
            hpa(json!({})),
            lost,
            pods(1),
            expect![[r#"
            event Warning FailedGetScale: deployments.apps "d" not found
            remember HorizontalPodAutoscaler ns/h
            status HorizontalPodAutoscaler ns/h {"conditions":[{"lastTransitionTime":"2026-01-01T00:00:00Z","message":"the HPA controller was unable to get the target's current scale: deployments.apps \"d\" not found","reason":"FailedGetScale","status":"False","type":"AbleToScale"}],"desiredReplicas":0}
            again in 15s
        "#]],
        );
    }
}
