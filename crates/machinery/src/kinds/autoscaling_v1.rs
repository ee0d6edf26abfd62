//! HorizontalPodAutoscaler v1, a view of v2 that knows CPU utilization only (`pkg/apis/autoscaling/v1/conversion.go`). What else there
//! is stands in annotations, whose JSON is of types that no other API has, so that nothing is lost when an object is written through v1.
//!
//! Differs: in these annotations label selectors have their fields in another order.

use super::autoscaling::{AutoscalerKind, cpu_metric};
use super::{Column, Strategy};
use crate::field::Errors;
use crate::json::escaped_for_html;
use crate::quantity::{self, QuantityError, canonical};
use crate::validation::{Messages, is_dns1123_subdomain};
use api::any::downcast_ref;
use api::k8s::api::autoscaling::v1::{
    CrossVersionObjectReference as OldReference, HorizontalPodAutoscaler as OldAutoscaler,
    HorizontalPodAutoscalerSpec as OldSpec, HorizontalPodAutoscalerStatus as OldStatus,
};
use api::k8s::api::autoscaling::v2::{
    ContainerResourceMetricSource, ContainerResourceMetricStatus, CrossVersionObjectReference, ExternalMetricSource,
    ExternalMetricStatus, HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscaler, HorizontalPodAutoscalerBehavior,
    HorizontalPodAutoscalerCondition, HorizontalPodAutoscalerSpec, HorizontalPodAutoscalerStatus, MetricIdentifier,
    MetricSpec, MetricStatus, MetricTarget, MetricValueStatus, ObjectMetricSource, ObjectMetricStatus,
    PodsMetricSource, PodsMetricStatus, ResourceMetricSource, ResourceMetricStatus,
};
use api::k8s::apimachinery::pkg::api::resource::Quantity;
use api::{AnyObject, LabelSelector, Time};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
/// All annotations that are no annotations in v2; the last two were only ever written by versions before 1.36.
const OURS: [&str; 6] = [
    METRICS,
    CURRENT_METRICS,
    BEHAVIOR,
    CONDITIONS,
    "autoscaling.alpha.kubernetes.io/scale-down-tolerance",
    "autoscaling.alpha.kubernetes.io/scale-up-tolerance",
];
/// `DefaultCPUUtilization`
const DEFAULT_UTILIZATION: i32 = 80;

/// The v1 view of an autoscaler.
pub(super) struct OldAutoscalerKind;

/// Does to an object what is done to its v2.
fn through(autoscaler: &mut OldAutoscaler, change: impl FnOnce(&mut HorizontalPodAutoscaler)) {
    let mut new = to_new(autoscaler);
    change(&mut new);
    *autoscaler = to_old(&new);
}

impl Strategy for OldAutoscalerKind {
    type Object = OldAutoscaler;

    fn default(autoscaler: &mut OldAutoscaler) {
        through(autoscaler, AutoscalerKind::default);
    }

    fn prepare_create(autoscaler: &mut OldAutoscaler) {
        through(autoscaler, AutoscalerKind::prepare_create);
    }

    fn prepare_update(new: &mut OldAutoscaler, old: &OldAutoscaler) {
        through(new, |new| AutoscalerKind::prepare_update(new, &to_new(old)));
    }

    fn prepare_status_update(new: &mut OldAutoscaler, old: &OldAutoscaler) {
        through(new, |new| AutoscalerKind::prepare_status_update(new, &to_new(old)));
    }

    fn validate_name(name: &str) -> Messages {
        is_dns1123_subdomain(name)
    }

    fn validate(autoscaler: &OldAutoscaler) -> Errors {
        AutoscalerKind::validate(&to_new(autoscaler))
    }

    fn validate_create(autoscaler: &OldAutoscaler) -> Errors {
        AutoscalerKind::validate_create(&to_new(autoscaler))
    }

    fn validate_update(new: &OldAutoscaler, old: &OldAutoscaler) -> Errors {
        AutoscalerKind::validate_update(&to_new(new), &to_new(old))
    }

    fn validate_status_update(new: &OldAutoscaler, old: &OldAutoscaler) -> Errors {
        AutoscalerKind::validate_status_update(&to_new(new), &to_new(old))
    }

    fn columns() -> Vec<Column> {
        AutoscalerKind::columns()
    }

    fn cells(autoscaler: &OldAutoscaler, now: jiff::Timestamp) -> Vec<Value> {
        AutoscalerKind::cells(&to_new(autoscaler), now)
    }

    fn convert(other: &dyn AnyObject) -> Option<OldAutoscaler> {
        downcast_ref(other).map(to_old)
    }
}

// === the views ===

pub(super) fn to_new(old: &OldAutoscaler) -> HorizontalPodAutoscaler {
    let mut metadata = old.metadata.clone();
    let carried = take_annotations(&mut metadata.annotations);
    let target = &old.spec.scale_target_ref;
    HorizontalPodAutoscaler {
        metadata,
        spec: HorizontalPodAutoscalerSpec {
            behavior: read::<Behavior>(&carried, BEHAVIOR)
                .map(Into::into)
                .filter(|b| *b != HorizontalPodAutoscalerBehavior::default()),
            max_replicas: old.spec.max_replicas,
            metrics: Some(metrics_of(&old.spec, read(&carried, METRICS).unwrap_or_default())),
            min_replicas: old.spec.min_replicas,
            scale_target_ref: CrossVersionObjectReference {
                api_version: target.api_version.clone(),
                kind: target.kind.clone(),
                name: target.name.clone(),
            },
        },
        status: old.status.as_ref().map(|status| status_of(status, &carried)),
    }
}

/// Those of the annotation, then CPU. That of no metric at all is the default.
fn metrics_of(spec: &OldSpec, carried: Vec<Source>) -> Vec<MetricSpec> {
    let cpu = spec.target_cpu_utilization_percentage;
    let cpu = cpu.or_else(|| carried.is_empty().then_some(DEFAULT_UTILIZATION)).map(cpu_metric);
    carried.into_iter().map(Into::into).chain(cpu).collect()
}

fn status_of(old: &OldStatus, carried: &BTreeMap<String, String>) -> HorizontalPodAutoscalerStatus {
    let cpu = |utilization: i32| MetricStatus {
        type_: "Resource".to_owned(),
        resource: Some(ResourceMetricStatus {
            name: "cpu".to_owned(),
            current: MetricValueStatus { average_utilization: Some(utilization), ..MetricValueStatus::default() },
        }),
        ..MetricStatus::default()
    };
    let carried_metrics: Option<Vec<Current>> = read(carried, CURRENT_METRICS);
    HorizontalPodAutoscalerStatus {
        conditions: read::<Vec<Condition>>(carried, CONDITIONS).map(|all| all.into_iter().map(Into::into).collect()),
        current_metrics: match carried_metrics {
            Some(metrics) => Some(metrics.into_iter().map(Into::into).collect()),
            None => old.current_cpu_utilization_percentage.map(|u| vec![cpu(u)]),
        },
        current_replicas: Some(old.current_replicas),
        desired_replicas: old.desired_replicas,
        last_scale_time: old.last_scale_time.clone(),
        observed_generation: old.observed_generation,
    }
}

fn to_old(new: &HorizontalPodAutoscaler) -> OldAutoscaler {
    let spec = &new.spec;
    let status = new.status.as_ref();
    let metrics = spec.metrics.as_deref().unwrap_or_default();
    let current = status.and_then(|s| s.current_metrics.as_deref()).unwrap_or_default();
    let conditions = status.and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let mut metadata = new.metadata.clone();
    take_annotations(&mut metadata.annotations);
    let others: Vec<Source> = metrics.iter().filter(|m| utilization(m).is_none()).cloned().map(Into::into).collect();
    let current_shown: Vec<Current> = current.iter().cloned().map(Into::into).collect();
    let conditions: Vec<Condition> = conditions.iter().cloned().map(Into::into).collect();
    let carried = [
        (METRICS, (!others.is_empty()).then(|| written(&others))),
        (CURRENT_METRICS, (!current.is_empty()).then(|| written(&current_shown))),
        (BEHAVIOR, spec.behavior.clone().map(|behavior| written(&Behavior::from(behavior)))),
        (CONDITIONS, (!conditions.is_empty()).then(|| written(&conditions))),
    ];
    for (key, text) in carried {
        if let Some(text) = text {
            metadata.annotations.get_or_insert_default().insert(key.to_owned(), text);
        }
    }
    let current_cpu = current.iter().filter(|m| m.type_ == "Resource").filter_map(|m| m.resource.as_ref());
    OldAutoscaler {
        metadata,
        spec: OldSpec {
            max_replicas: spec.max_replicas,
            min_replicas: spec.min_replicas,
            scale_target_ref: OldReference {
                api_version: spec.scale_target_ref.api_version.clone(),
                kind: spec.scale_target_ref.kind.clone(),
                name: spec.scale_target_ref.name.clone(),
            },
            target_cpu_utilization_percentage: metrics.iter().find_map(utilization),
        },
        status: status.map(|s| OldStatus {
            current_cpu_utilization_percentage: current_cpu
                .filter(|m| m.name == "cpu")
                .filter_map(|m| m.current.average_utilization)
                .next_back(),
            current_replicas: s.current_replicas.unwrap_or(0),
            desired_replicas: s.desired_replicas,
            last_scale_time: s.last_scale_time.clone(),
            observed_generation: s.observed_generation,
        }),
    }
}

/// What v1 shows by itself.
fn utilization(metric: &MetricSpec) -> Option<i32> {
    let resource = metric.resource.as_ref().filter(|r| metric.type_ == "Resource" && r.name == "cpu")?;
    resource.target.average_utilization
}

fn take_annotations(annotations: &mut Option<BTreeMap<String, String>>) -> BTreeMap<String, String> {
    let Some(all) = annotations else { return BTreeMap::new() };
    let taken = OURS.iter().filter_map(|key| all.remove_entry(*key)).collect();
    if all.is_empty() {
        *annotations = None;
    }
    taken
}

/// What cannot be read is nothing.
fn read<T: DeserializeOwned>(carried: &BTreeMap<String, String>, key: &str) -> Option<T> {
    carried.get(key).and_then(|text| serde_json::from_str(text).ok())
}

fn written(value: &impl Serialize) -> String {
    escaped_for_html(serde_json::to_string(value).expect("plain data is written as JSON"))
}

// === what stands in the annotations, fields in the order of upstream's ===

/// A metric of a spec or a status: `O`bject, `P`ods, `R`esource, `E`xternal.
#[derive(Serialize, Deserialize)]
#[serde(
    rename_all = "camelCase",
    bound(deserialize = "O: DeserializeOwned, P: DeserializeOwned, R: DeserializeOwned, E: DeserializeOwned")
)]
struct Metric<O, P, R, E> {
    #[serde(rename = "type", default)]
    ty: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    object: Option<O>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pods: Option<P>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resource: Option<R>,
    #[serde(skip_serializing_if = "Option::is_none")]
    container_resource: Option<R>,
    #[serde(skip_serializing_if = "Option::is_none")]
    external: Option<E>,
}

type Source = Metric<ObjectSource, PodsSource, ResourceSource, ExternalSource>;
type Current = Metric<ObjectCurrent, PodsCurrent, ResourceCurrent, ExternalCurrent>;

/// A quantity in canonical form. What holds a malformed one cannot be read.
#[derive(Serialize, Deserialize, Clone)]
#[serde(try_from = "Quantity")]
struct Amount(Quantity);

impl TryFrom<Quantity> for Amount {
    type Error = QuantityError;

    fn try_from(written: Quantity) -> Result<Self, QuantityError> {
        canonical(&written.0).map(|text| Amount(Quantity(text)))
    }
}

impl Amount {
    fn is_zero(&self) -> bool {
        quantity::Quantity::parse(&self.0.0).is_ok_and(|quantity| quantity.is_zero())
    }
}

fn zero() -> Amount {
    Amount(Quantity("0".to_owned()))
}

fn some_or_zero(quantity: Option<Quantity>) -> Amount {
    quantity.map_or_else(zero, Amount)
}

#[derive(Serialize, Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Reference {
    kind: String,
    name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    api_version: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ObjectSource {
    #[serde(default)]
    target: Reference,
    #[serde(default)]
    metric_name: String,
    #[serde(default = "zero")]
    target_value: Amount,
    #[serde(skip_serializing_if = "Option::is_none")]
    selector: Option<LabelSelector>,
    #[serde(skip_serializing_if = "Option::is_none")]
    average_value: Option<Amount>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ObjectCurrent {
    #[serde(default)]
    target: Reference,
    #[serde(default)]
    metric_name: String,
    #[serde(default = "zero")]
    current_value: Amount,
    #[serde(skip_serializing_if = "Option::is_none")]
    selector: Option<LabelSelector>,
    #[serde(skip_serializing_if = "Option::is_none")]
    average_value: Option<Amount>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodsSource {
    #[serde(default)]
    metric_name: String,
    #[serde(default = "zero")]
    target_average_value: Amount,
    #[serde(skip_serializing_if = "Option::is_none")]
    selector: Option<LabelSelector>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodsCurrent {
    #[serde(default)]
    metric_name: String,
    #[serde(default = "zero")]
    current_average_value: Amount,
    #[serde(skip_serializing_if = "Option::is_none")]
    selector: Option<LabelSelector>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ResourceSource {
    #[serde(default)]
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    target_average_utilization: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target_average_value: Option<Amount>,
    /// Of one container only.
    #[serde(skip_serializing_if = "Option::is_none")]
    container: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ResourceCurrent {
    #[serde(default)]
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    current_average_utilization: Option<i32>,
    #[serde(default = "zero")]
    current_average_value: Amount,
    /// Of one container only.
    #[serde(skip_serializing_if = "Option::is_none")]
    container: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ExternalSource {
    #[serde(default)]
    metric_name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    metric_selector: Option<LabelSelector>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target_value: Option<Amount>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target_average_value: Option<Amount>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ExternalCurrent {
    #[serde(default)]
    metric_name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    metric_selector: Option<LabelSelector>,
    #[serde(default = "zero")]
    current_value: Amount,
    #[serde(skip_serializing_if = "Option::is_none")]
    current_average_value: Option<Amount>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Condition {
    #[serde(rename = "type", default)]
    ty: String,
    #[serde(default)]
    status: String,
    last_transition_time: Option<Time>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    reason: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    message: String,
}

/// Upstream writes its internal type, which has no names for JSON, and reads names in any case.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Behavior {
    #[serde(alias = "scaleUp")]
    scale_up: Option<ScalingRules>,
    #[serde(alias = "scaleDown")]
    scale_down: Option<ScalingRules>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ScalingRules {
    #[serde(alias = "stabilizationWindowSeconds")]
    stabilization_window_seconds: Option<i32>,
    #[serde(alias = "selectPolicy")]
    select_policy: Option<String>,
    #[serde(alias = "policies")]
    policies: Option<Vec<ScalingPolicy>>,
    #[serde(alias = "tolerance")]
    tolerance: Option<Amount>,
}

#[derive(Serialize, Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct ScalingPolicy {
    #[serde(rename = "Type", alias = "type")]
    ty: String,
    #[serde(alias = "value")]
    value: i32,
    #[serde(alias = "periodSeconds")]
    period_seconds: i32,
}

// === to v2 ===

impl From<Source> for MetricSpec {
    fn from(old: Source) -> Self {
        MetricSpec {
            type_: old.ty,
            object: old.object.map(Into::into),
            pods: old.pods.map(Into::into),
            resource: old.resource.map(|r| ResourceMetricSource { name: r.name.clone(), target: r.target() }),
            container_resource: old.container_resource.map(|r| ContainerResourceMetricSource {
                name: r.name.clone(),
                target: r.target(),
                container: r.container.unwrap_or_default(),
            }),
            external: old.external.map(Into::into),
        }
    }
}

fn identifier(name: String, selector: Option<LabelSelector>) -> MetricIdentifier {
    MetricIdentifier { name, selector }
}

fn target(ty: &str, value: Option<Amount>, average: Option<Amount>) -> MetricTarget {
    let quantity = |amount: Option<Amount>| amount.map(|a| a.0);
    MetricTarget {
        type_: ty.to_owned(),
        value: quantity(value),
        average_value: quantity(average),
        average_utilization: None,
    }
}

impl ResourceSource {
    fn target(&self) -> MetricTarget {
        let ty = if self.target_average_utilization.is_some() { "Utilization" } else { "AverageValue" };
        MetricTarget {
            average_utilization: self.target_average_utilization,
            ..target(ty, None, self.target_average_value.clone())
        }
    }
}

impl From<Reference> for CrossVersionObjectReference {
    fn from(Reference { kind, name, api_version }: Reference) -> Self {
        let api_version = (!api_version.is_empty()).then_some(api_version);
        CrossVersionObjectReference { api_version, kind, name }
    }
}

impl From<ObjectSource> for ObjectMetricSource {
    fn from(old: ObjectSource) -> Self {
        let target = match old.average_value {
            None => target("Value", Some(old.target_value), None),
            // v1 cannot leave the value out.
            Some(average) => target("AverageValue", Some(old.target_value).filter(|v| !v.is_zero()), Some(average)),
        };
        ObjectMetricSource {
            described_object: old.target.into(),
            metric: identifier(old.metric_name, old.selector),
            target,
        }
    }
}

impl From<PodsSource> for PodsMetricSource {
    fn from(old: PodsSource) -> Self {
        PodsMetricSource {
            metric: identifier(old.metric_name, old.selector),
            target: target("AverageValue", None, Some(old.target_average_value)),
        }
    }
}

impl From<ExternalSource> for ExternalMetricSource {
    fn from(old: ExternalSource) -> Self {
        let ty = if old.target_value.is_some() { "Value" } else { "AverageValue" };
        ExternalMetricSource {
            metric: identifier(old.metric_name, old.metric_selector),
            target: target(ty, old.target_value, old.target_average_value),
        }
    }
}

impl From<Current> for MetricStatus {
    fn from(old: Current) -> Self {
        let value = |r: &ResourceCurrent| MetricValueStatus {
            average_utilization: r.current_average_utilization,
            average_value: Some(r.current_average_value.0.clone()),
            value: None,
        };
        MetricStatus {
            type_: old.ty,
            object: old.object.map(|o| ObjectMetricStatus {
                current: MetricValueStatus {
                    value: Some(o.current_value.0),
                    average_value: o.average_value.map(|a| a.0),
                    average_utilization: None,
                },
                described_object: o.target.into(),
                metric: identifier(o.metric_name, o.selector),
            }),
            pods: old.pods.map(|p| PodsMetricStatus {
                current: MetricValueStatus {
                    average_value: Some(p.current_average_value.0),
                    ..MetricValueStatus::default()
                },
                metric: identifier(p.metric_name, p.selector),
            }),
            resource: old.resource.map(|r| ResourceMetricStatus { current: value(&r), name: r.name }),
            container_resource: old.container_resource.map(|r| ContainerResourceMetricStatus {
                current: value(&r),
                name: r.name,
                container: r.container.unwrap_or_default(),
            }),
            external: old.external.map(|e| ExternalMetricStatus {
                current: MetricValueStatus {
                    value: Some(e.current_value.0),
                    average_value: e.current_average_value.map(|a| a.0),
                    average_utilization: None,
                },
                metric: identifier(e.metric_name, e.metric_selector),
            }),
        }
    }
}

impl From<Condition> for HorizontalPodAutoscalerCondition {
    fn from(old: Condition) -> Self {
        HorizontalPodAutoscalerCondition {
            last_transition_time: old.last_transition_time,
            message: Some(old.message).filter(|m| !m.is_empty()),
            reason: Some(old.reason).filter(|r| !r.is_empty()),
            status: old.status,
            type_: old.ty,
        }
    }
}

impl From<Behavior> for HorizontalPodAutoscalerBehavior {
    fn from(old: Behavior) -> Self {
        let policy =
            |p: ScalingPolicy| HPAScalingPolicy { type_: p.ty, value: p.value, period_seconds: p.period_seconds };
        let rules = |r: ScalingRules| HPAScalingRules {
            policies: r.policies.map(|all| all.into_iter().map(policy).collect()),
            select_policy: r.select_policy,
            stabilization_window_seconds: r.stabilization_window_seconds,
            tolerance: r.tolerance.map(|a| a.0),
        };
        HorizontalPodAutoscalerBehavior { scale_down: old.scale_down.map(rules), scale_up: old.scale_up.map(rules) }
    }
}

// === to v1 ===

impl From<MetricSpec> for Source {
    fn from(new: MetricSpec) -> Self {
        let resource = |name: String, target: MetricTarget, container: Option<String>| ResourceSource {
            name,
            target_average_utilization: target.average_utilization,
            target_average_value: target.average_value.map(Amount),
            container,
        };
        Metric {
            ty: new.type_,
            object: new.object.map(|o| ObjectSource {
                target: o.described_object.into(),
                metric_name: o.metric.name,
                target_value: some_or_zero(o.target.value),
                selector: o.metric.selector,
                average_value: o.target.average_value.map(Amount),
            }),
            pods: new.pods.map(|p| PodsSource {
                metric_name: p.metric.name,
                target_average_value: some_or_zero(p.target.average_value),
                selector: p.metric.selector,
            }),
            resource: new.resource.map(|r| resource(r.name, r.target, None)),
            container_resource: new.container_resource.map(|r| resource(r.name, r.target, Some(r.container))),
            external: new.external.map(|e| ExternalSource {
                metric_name: e.metric.name,
                metric_selector: e.metric.selector,
                target_value: e.target.value.map(Amount),
                target_average_value: e.target.average_value.map(Amount),
            }),
        }
    }
}

impl From<CrossVersionObjectReference> for Reference {
    fn from(CrossVersionObjectReference { api_version, kind, name }: CrossVersionObjectReference) -> Self {
        Reference { kind, name, api_version: api_version.unwrap_or_default() }
    }
}

impl From<MetricStatus> for Current {
    fn from(new: MetricStatus) -> Self {
        let resource = |name: String, current: MetricValueStatus, container: Option<String>| ResourceCurrent {
            name,
            current_average_utilization: current.average_utilization,
            current_average_value: some_or_zero(current.average_value),
            container,
        };
        Metric {
            ty: new.type_,
            object: new.object.map(|o| ObjectCurrent {
                target: o.described_object.into(),
                metric_name: o.metric.name,
                current_value: some_or_zero(o.current.value),
                selector: o.metric.selector,
                average_value: o.current.average_value.map(Amount),
            }),
            pods: new.pods.map(|p| PodsCurrent {
                metric_name: p.metric.name,
                current_average_value: some_or_zero(p.current.average_value),
                selector: p.metric.selector,
            }),
            resource: new.resource.map(|r| resource(r.name, r.current, None)),
            container_resource: new.container_resource.map(|r| resource(r.name, r.current, Some(r.container))),
            external: new.external.map(|e| ExternalCurrent {
                metric_name: e.metric.name,
                metric_selector: e.metric.selector,
                current_value: some_or_zero(e.current.value),
                current_average_value: e.current.average_value.map(Amount),
            }),
        }
    }
}

impl From<HorizontalPodAutoscalerCondition> for Condition {
    fn from(new: HorizontalPodAutoscalerCondition) -> Self {
        Condition {
            ty: new.type_,
            status: new.status,
            last_transition_time: new.last_transition_time,
            reason: new.reason.unwrap_or_default(),
            message: new.message.unwrap_or_default(),
        }
    }
}

impl From<HorizontalPodAutoscalerBehavior> for Behavior {
    fn from(new: HorizontalPodAutoscalerBehavior) -> Self {
        let policy =
            |p: HPAScalingPolicy| ScalingPolicy { ty: p.type_, value: p.value, period_seconds: p.period_seconds };
        let rules = |r: HPAScalingRules| ScalingRules {
            stabilization_window_seconds: r.stabilization_window_seconds,
            select_policy: r.select_policy,
            policies: r.policies.map(|all| all.into_iter().map(policy).collect()),
            tolerance: r.tolerance.map(Amount),
        };
        Behavior { scale_up: new.scale_up.map(rules), scale_down: new.scale_down.map(rules) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing::{check_create, check_defaults, read};
    use expect_test::expect;

    const NEW: &str = "
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: web, annotations: {mine: mine}}
spec:
  maxReplicas: 3
  scaleTargetRef: {kind: Deployment, name: web, apiVersion: apps/v1}
  behavior: {scaleDown: {stabilizationWindowSeconds: 5}}
  metrics:
  - {type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 50}}}
  - {type: Resource, resource: {name: memory, target: {type: AverageValue, averageValue: 1000m}}}
  - {type: ContainerResource, containerResource: {name: cpu, container: c, target: {type: Utilization, averageUtilization: 5}}}
  - {type: Pods, pods: {metric: {name: p<q}, target: {type: AverageValue, averageValue: 1}}}
  - {type: Object, object: {metric: {name: o}, describedObject: {kind: A, name: a, apiVersion: a/v1}, target: {type: AverageValue, averageValue: 2}}}
  - {type: External, external: {metric: {name: e, selector: {matchLabels: {a: b}}}, target: {type: Value, value: 3}}}
status:
  desiredReplicas: 2
  conditions: [{type: AbleToScale, status: 'True', reason: R, lastTransitionTime: '2024-01-01T00:00:00Z'}]
  currentMetrics: [{type: Resource, resource: {name: cpu, current: {averageUtilization: 7}}}]";

    #[test]
    fn what_v1_has_no_fields_for_stands_in_annotations() {
        let (new_kind, mut new) = read(NEW);
        new_kind.default(&mut *new);
        let kind = crate::kinds::find("autoscaling", "v1", "horizontalpodautoscalers").expect("a kind");
        let old = kind.convert(&*new).expect("an autoscaler");
        let annotations: Vec<String> =
            old.meta().annotations.iter().flatten().map(|(key, text)| format!("{key} {text}")).collect();
        expect![[r#"
            autoscaling.alpha.kubernetes.io/behavior {"ScaleUp":{"StabilizationWindowSeconds":0,"SelectPolicy":"Max","Policies":[{"Type":"Pods","Value":4,"PeriodSeconds":15},{"Type":"Percent","Value":100,"PeriodSeconds":15}],"Tolerance":null},"ScaleDown":{"StabilizationWindowSeconds":5,"SelectPolicy":"Max","Policies":[{"Type":"Percent","Value":100,"PeriodSeconds":15}],"Tolerance":null}}
            autoscaling.alpha.kubernetes.io/conditions [{"type":"AbleToScale","status":"True","lastTransitionTime":"2024-01-01T00:00:00Z","reason":"R"}]
            autoscaling.alpha.kubernetes.io/current-metrics [{"type":"Resource","resource":{"name":"cpu","currentAverageUtilization":7,"currentAverageValue":"0"}}]
            autoscaling.alpha.kubernetes.io/metrics [{"type":"Resource","resource":{"name":"memory","targetAverageValue":"1"}},{"type":"ContainerResource","containerResource":{"name":"cpu","targetAverageUtilization":5,"container":"c"}},{"type":"Pods","pods":{"metricName":"p\u003cq","targetAverageValue":"1"}},{"type":"Object","object":{"target":{"kind":"A","name":"a","apiVersion":"a/v1"},"metricName":"o","targetValue":"0","averageValue":"2"}},{"type":"External","external":{"metricName":"e","metricSelector":{"matchLabels":{"a":"b"}},"targetValue":"3"}}]
            mine mine"#]].assert_eq(&annotations.join("\n"));
        let back = new_kind.convert(&*old).expect("an autoscaler");
        let [back, new] = [back, new].map(|o| serde_json::from_slice::<Value>(&o.encode()).expect("JSON"));
        assert_eq!(back["metadata"], new["metadata"]);
        assert_eq!(back["spec"]["behavior"], new["spec"]["behavior"]);
        assert_eq!(back["status"]["conditions"], new["status"]["conditions"]);
        let metrics = |of: &Value| {
            let mut all: Vec<String> =
                of["spec"]["metrics"].as_array().expect("a list").iter().map(Value::to_string).collect();
            all.sort();
            all
        };
        assert_eq!(metrics(&back), metrics(&new));
    }

    #[test]
    fn annotations_of_v1_are_fields_of_v2() {
        let old = |annotations: &str| {
            format!(
                "{{apiVersion: autoscaling/v1, kind: HorizontalPodAutoscaler, metadata: {{name: web, annotations: {{{annotations}}}}}, spec: {{maxReplicas: 3, scaleTargetRef: {{kind: Deployment, name: web, apiVersion: apps/v1}}}}}}"
            )
        };
        check_defaults(
            &old(""),
            expect![[r#"
            spec.minReplicas: 1
            spec.targetCPUUtilizationPercentage: 80"#]],
        );
        let pods = r#"autoscaling.alpha.kubernetes.io/metrics: '[{"type":"Pods","pods":{"metricName":"m","targetAverageValue":"1000m"}}]'"#;
        check_defaults(
            &old(pods),
            expect![[r#"
            metadata.annotations.autoscaling.alpha.kubernetes.io/metrics: "[{\"type\":\"Pods\",\"pods\":{\"metricName\":\"m\",\"targetAverageValue\":\"1\"}}]"
            spec.minReplicas: 1"#]],
        );
        for unreadable in ["autoscaling.alpha.kubernetes.io/metrics: '{'".to_owned(), pods.replace("1000m", "much")] {
            check_defaults(
                &old(&unreadable),
                expect![[r#"
                    spec.minReplicas: 1
                    spec.targetCPUUtilizationPercentage: 80"#]],
            );
        }
        check_create(
            &old(&pods.replace("\"m\"", "\"\"")),
            expect!["spec.metrics[0].pods.metric.name: Required value: must specify a metric name"],
        );
    }
}
