//! [`propose`]: how many replicas one metric asks for (`replica_calculator.go`, `metrics/utilization.go`). Pure.

use super::look::{PodUsage, Scale};
use crate::pods;
use api::k8s::api::autoscaling::v2::{
    ContainerResourceMetricStatus, HorizontalPodAutoscaler, MetricSpec, MetricStatus, MetricTarget, MetricValueStatus,
    ResourceMetricStatus,
};
use api::k8s::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use api::prelude::*;
use jiff::Timestamp;
use machinery::quantity::{Format, Quantity};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// `--horizontal-pod-autoscaler-tolerance`
const TOLERANCE: f64 = 0.1;
/// `--horizontal-pod-autoscaler-cpu-initialization-period`
const CPU_INITIALIZATION: Duration = Duration::from_secs(300);
/// `--horizontal-pod-autoscaler-initial-readiness-delay`
const READINESS_DELAY: Duration = Duration::from_secs(30);

pub(super) struct Proposal {
    pub(super) replicas: i32,
    /// For people.
    pub(super) name: String,
    pub(super) status: MetricStatus,
}

/// Reason of the condition and the error.
pub(super) type Invalid = (&'static str, String);

/// `computeReplicasForMetric`
pub(super) fn propose(
    metric: &MetricSpec,
    hpa: &HorizontalPodAutoscaler,
    scale: &Scale,
    seen: &Result<BTreeMap<String, PodUsage>, String>,
    pods: &[Arc<Pod>],
    now: Timestamp,
) -> Result<Proposal, Invalid> {
    let unbuilt = |reason, name: &str| {
        (reason, format!("unable to get metric {name}: {} metrics are not supported by dhow yet", metric.type_))
    };
    match metric.type_.as_str() {
        "Resource" => {
            let source = metric.resource.clone().unwrap_or_default();
            let asked = Asked { resource: &source.name, container: "", target: &source.target };
            let of = |e| ("FailedGetResourceMetric", format!("failed to get {} {e}", source.name));
            let (replicas, name, current) = of_resource(&asked, hpa, scale, seen, pods, now).map_err(of)?;
            let resource = Some(ResourceMetricStatus { name: source.name.clone(), current });
            let status = MetricStatus { type_: metric.type_.clone(), resource, ..MetricStatus::default() };
            Ok(Proposal { replicas, name, status })
        }
        "ContainerResource" => {
            let source = metric.container_resource.clone().unwrap_or_default();
            let asked = Asked { resource: &source.name, container: &source.container, target: &source.target };
            let of = |e| ("FailedGetContainerResourceMetric", format!("failed to get {} {e}", source.name));
            let (replicas, name, current) = of_resource(&asked, hpa, scale, seen, pods, now).map_err(of)?;
            let (name_of, container) = (source.name.clone(), source.container.clone());
            let status = ContainerResourceMetricStatus { name: name_of, container, current };
            let status = MetricStatus {
                type_: metric.type_.clone(),
                container_resource: Some(status),
                ..MetricStatus::default()
            };
            Ok(Proposal { replicas, name, status })
        }
        "Pods" => Err(unbuilt("FailedGetPodsMetric", &metric.pods.clone().unwrap_or_default().metric.name)),
        "Object" => Err(unbuilt("FailedGetObjectMetric", &metric.object.clone().unwrap_or_default().metric.name)),
        "External" => Err(unbuilt("FailedGetExternalMetric", &metric.external.clone().unwrap_or_default().metric.name)),
        other => Err(("InvalidMetricSourceType", format!("unknown metric source type {other:?}"))),
    }
}

struct Asked<'a> {
    resource: &'a str,
    /// `""`: the whole pod.
    container: &'a str,
    target: &'a MetricTarget,
}

/// `computeStatusForResourceMetricGeneric`
fn of_resource(
    asked: &Asked<'_>,
    hpa: &HorizontalPodAutoscaler,
    scale: &Scale,
    seen: &Result<BTreeMap<String, PodUsage>, String>,
    pods: &[Arc<Pod>],
    now: Timestamp,
) -> Result<(i32, String, MetricValueStatus), String> {
    let what = if asked.target.average_value.is_some() { "usage" } else { "utilization" };
    let failed = |why: String| format!("{what}: {why}");
    let unable = |why: &String| failed(format!("unable to get metrics for resource {}: {why}", asked.resource));
    let samples = samples(seen.as_ref().map_err(unable)?, asked);
    let groups = Groups::of(pods, samples, seen.as_ref().ok(), asked.resource, now).map_err(failed)?;
    let band = Band::of(hpa);
    if let Some(value) = &asked.target.average_value {
        let target = Quantity::parse(&value.0).map_or(0, |q| q.milli_value());
        let average = |values: &BTreeMap<String, i64>| {
            let usage = values.values().sum::<i64>() / i64::try_from(values.len()).unwrap_or(1).max(1);
            (usage as f64 / target as f64, usage)
        };
        let fallback = |_: &String| target;
        let (replicas, usage) = groups.replicas(scale.replicas, &band, |v| Ok(average(v)), fallback)?;
        let current = MetricValueStatus { average_value: Some(quantity(asked.resource, usage)), ..Default::default() };
        return Ok((replicas, format!("{} resource", asked.resource), current));
    }
    let Some(target) = asked.target.average_utilization else {
        let text = "invalid resource metric source: neither an average utilization target nor an average value (usage) target was set";
        return Err(failed(text.into()));
    };
    let requests: BTreeMap<String, i64> =
        pods.iter().map(|p| Ok((p.name().to_owned(), request(p, asked)?))).collect::<Result<_, _>>().map_err(failed)?;
    let percent = std::cell::Cell::new(0);
    let ratio = |values: &BTreeMap<String, i64>| {
        let known = values.iter().filter_map(|(pod, used)| Some((*used, *requests.get(pod)?)));
        let (used, wanted, count) = known.fold((0i64, 0i64, 0i64), |(a, b, n), (u, w)| (a + u, b + w, n + 1));
        if wanted == 0 {
            return Err("no metrics returned matched known pods".to_owned());
        }
        percent.set(i32::try_from(used * 100 / wanted).unwrap_or(i32::MAX));
        Ok((f64::from(percent.get()) / f64::from(target), used / count))
    };
    // What is told is what was measured, not what was assumed of pods without measurement.
    let measured = ratio(&groups.samples).map(|_| percent.get()).map_err(failed)?;
    let full = i64::from(target.max(100));
    let fallback = |pod: &String| requests.get(pod).copied().unwrap_or(0) * full / 100;
    let (replicas, usage) = groups.replicas(scale.replicas, &band, ratio, fallback).map_err(failed)?;
    let kind = if asked.container.is_empty() { "resource" } else { "container resource" };
    let current = MetricValueStatus {
        average_utilization: Some(measured),
        average_value: Some(quantity(asked.resource, usage)),
        value: None,
    };
    Ok((replicas, format!("{} {kind} utilization (percentage of request)", asked.resource), current))
}

/// `buildQuantity`
fn quantity(resource: &str, milli: i64) -> ApiQuantity {
    let quantity = if resource == "memory" {
        Quantity::new(milli / 1000, Format::BinarySi)
    } else {
        Quantity::from_milli(milli, Format::DecimalSi)
    };
    ApiQuantity(quantity.to_string())
}

/// `getPodMetrics`, `getContainerMetrics`: pods whose containers all have the metric, or whose named container has it.
fn samples(seen: &BTreeMap<String, PodUsage>, asked: &Asked<'_>) -> BTreeMap<String, i64> {
    let value = |usage: &PodUsage| {
        if !asked.container.is_empty() {
            return usage.containers.get(asked.container)?.get(asked.resource).copied();
        }
        let values = usage.containers.values().map(|c| c.get(asked.resource).copied());
        values.collect::<Option<Vec<i64>>>().filter(|v| !v.is_empty()).map(|v| v.iter().sum())
    };
    seen.iter().filter_map(|(pod, usage)| Some((pod.clone(), value(usage)?))).collect()
}

/// `calculateRequests`
fn request(pod: &Pod, asked: &Asked<'_>) -> Result<i64, String> {
    let Some(spec) = &pod.spec else { return Ok(0) };
    let milli = |q: &ApiQuantity| Quantity::parse(&q.0).map_or(0, |q| q.milli_value());
    let of_pod = spec.resources.as_ref().and_then(|r| r.requests.as_ref());
    if let Some(of_pod) = of_pod.filter(|_| asked.container.is_empty()) {
        let missing = || format!("missing pod-level request for {} in Pod {}", asked.resource, pod.name());
        return of_pod.get(asked.resource).map(milli).ok_or_else(missing);
    }
    let sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let mut sum = 0i64;
    let mut found = asked.container.is_empty();
    for c in spec.containers.iter().chain(sidecars).filter(|c| asked.container.is_empty() || c.name == asked.container)
    {
        found = true;
        let missing =
            || format!("missing request for {} in container {} of Pod {}", asked.resource, c.name, pod.name());
        let requests = c.resources.as_ref().and_then(|r| r.requests.as_ref());
        sum += requests.and_then(|r| r.get(asked.resource)).map(milli).ok_or_else(missing)?;
    }
    if found { Ok(sum) } else { Err(format!("container {} not found in Pod {}", asked.container, pod.name())) }
}

/// Within which ratio nothing is done (`tolerancesForHpa`).
struct Band {
    up: f64,
    down: f64,
}

impl Band {
    fn of(hpa: &HorizontalPodAutoscaler) -> Self {
        let behavior = hpa.spec.behavior.as_ref();
        let read =
            |q: Option<&ApiQuantity>| q.and_then(|q| Quantity::parse(&q.0).ok()).map_or(TOLERANCE, |q| q.as_f64());
        let rules = |up: bool| behavior.and_then(|b| if up { b.scale_up.as_ref() } else { b.scale_down.as_ref() });
        Band {
            up: read(rules(true).and_then(|r| r.tolerance.as_ref())),
            down: read(rules(false).and_then(|r| r.tolerance.as_ref())),
        }
    }

    fn holds(&self, ratio: f64) -> bool {
        (1.0 - self.down) <= ratio && ratio <= (1.0 + self.up)
    }
}

/// Pods by what their measurements are worth (`groupPods`).
struct Groups {
    /// Measurements that count.
    samples: BTreeMap<String, i64>,
    ready: usize,
    unready: BTreeSet<String>,
    missing: BTreeSet<String>,
}

impl Groups {
    fn of(
        pods: &[Arc<Pod>],
        mut samples: BTreeMap<String, i64>,
        seen: Option<&BTreeMap<String, PodUsage>>,
        resource: &str,
        now: Timestamp,
    ) -> Result<Self, String> {
        if pods.is_empty() {
            return Err("no pods returned by selector while calculating replica count".into());
        }
        let (mut ready, mut unready, mut missing) = (0, BTreeSet::new(), BTreeSet::new());
        for pod in pods {
            let (name, phase) = (pod.name().to_owned(), pod.status.as_ref().and_then(|s| s.phase.as_deref()));
            if pod.is_deleting() || phase == Some("Failed") {
                samples.remove(&name);
            } else if phase == Some("Pending") {
                unready.insert(name);
            } else if !samples.contains_key(&name) {
                missing.insert(name);
            } else if resource == "cpu" && is_warming_up(pod, seen.and_then(|s| s.get(&name)), now) {
                unready.insert(name);
            } else {
                ready += 1;
            }
        }
        samples.retain(|name, _| !unready.contains(name));
        if samples.is_empty() {
            return Err("did not receive metrics for targeted pods (pods might be unready)".into());
        }
        Ok(Groups { samples, ready, unready, missing })
    }

    /// `GetResourceReplicas`, `calcPlainMetricReplicas`: what is not known is assumed to argue against the change.
    fn replicas(
        &self,
        current: i32,
        band: &Band,
        ratio: impl Fn(&BTreeMap<String, i64>) -> Result<(f64, i64), String>,
        fallback: impl Fn(&String) -> i64,
    ) -> Result<(i32, i64), String> {
        let count = |ratio: f64, pods: usize| (ratio * pods as f64).ceil().min(f64::from(i32::MAX)) as i32;
        let (first, usage) = ratio(&self.samples)?;
        let grows = !self.unready.is_empty() && first > 1.0;
        if !grows && self.missing.is_empty() {
            return Ok((if band.holds(first) { current } else { count(first, self.ready) }, usage));
        }
        let mut assumed = self.samples.clone();
        if first < 1.0 {
            assumed.extend(self.missing.iter().map(|pod| (pod.clone(), fallback(pod))));
        } else if first > 1.0 {
            assumed.extend(self.missing.iter().map(|pod| (pod.clone(), 0)));
        }
        if grows {
            assumed.extend(self.unready.iter().map(|pod| (pod.clone(), 0)));
        }
        let (second, _) = ratio(&assumed)?;
        let replicas = count(second, assumed.len());
        let turned = (first < 1.0 && second > 1.0) || (first > 1.0 && second < 1.0);
        let against = (second < 1.0 && replicas > current) || (second > 1.0 && replicas < current);
        Ok((if band.holds(second) || turned || against { current } else { replicas }, usage))
    }
}

/// A pod that starts uses more CPU than it will.
fn is_warming_up(pod: &Pod, usage: Option<&PodUsage>, now: Timestamp) -> bool {
    let start = pod.status.as_ref().and_then(|s| s.start_time.as_ref()).map(|t| t.0);
    let (Some(ready), Some(start)) = (pods::condition(pod, "Ready"), start) else { return true };
    let changed = ready.last_transition_time.as_ref().map_or(Timestamp::MIN, |t| t.0);
    let plus = |at: Timestamp, wait: Duration| at.saturating_add(wait).unwrap_or(Timestamp::MAX);
    if plus(start, CPU_INITIALIZATION) > now {
        return ready.status == "False" || usage.is_some_and(|u| u.at < plus(changed, u.window));
    }
    ready.status == "False" && plus(start, READINESS_DELAY) > changed
}
