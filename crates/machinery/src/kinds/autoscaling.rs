//! HorizontalPodAutoscaler v2 (`pkg/registry/autoscaling`, `pkg/apis/autoscaling`); v1 is a view of it (`autoscaling_v1.rs`).

use super::common::{age, age_column, column, name, name_column, set};
use super::workload::validate_counts;
use super::{Column, Strategy, autoscaling_v1, resources};
use crate::field::{Errors, FieldError, Path};
use crate::validation::{Messages, invalid_each, is_dns1123_label, is_dns1123_subdomain, is_path_segment_name, one_of};
use api::AnyObject;
use api::any::downcast_ref;
use api::k8s::api::autoscaling::v2::{
    CrossVersionObjectReference, HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscaler,
    HorizontalPodAutoscalerSpec, HorizontalPodAutoscalerStatus, MetricSpec, MetricStatus, MetricTarget,
    MetricValueStatus, ResourceMetricSource,
};
use api::k8s::apimachinery::pkg::api::resource::Quantity;
use serde_json::Value;

/// What is particular about an autoscaler.
pub(super) struct AutoscalerKind;

impl Strategy for AutoscalerKind {
    type Object = HorizontalPodAutoscaler;

    fn default(autoscaler: &mut HorizontalPodAutoscaler) {
        let spec = &mut autoscaler.spec;
        set(&mut spec.min_replicas, 1);
        if spec.metrics.as_ref().is_none_or(Vec::is_empty) {
            spec.metrics = Some(vec![cpu_metric(80)]);
        }
        if let Some(behavior) = &mut spec.behavior {
            fill_rules(behavior.scale_up.get_or_insert_default(), true);
            fill_rules(behavior.scale_down.get_or_insert_default(), false);
        }
    }

    fn prepare_create(autoscaler: &mut HorizontalPodAutoscaler) {
        autoscaler.status = Some(HorizontalPodAutoscalerStatus::default());
    }

    fn prepare_update(new: &mut HorizontalPodAutoscaler, old: &HorizontalPodAutoscaler) {
        new.status = old.status.clone();
    }

    fn prepare_status_update(new: &mut HorizontalPodAutoscaler, old: &HorizontalPodAutoscaler) {
        new.spec = old.spec.clone();
    }

    fn validate_name(name: &str) -> Messages {
        is_dns1123_subdomain(name)
    }

    fn validate(autoscaler: &HorizontalPodAutoscaler) -> Errors {
        validate_spec(&autoscaler.spec, &Path::new("spec"))
    }

    fn validate_create(autoscaler: &HorizontalPodAutoscaler) -> Errors {
        validate_group(&autoscaler.spec.scale_target_ref)
    }

    fn validate_update(new: &HorizontalPodAutoscaler, old: &HorizontalPodAutoscaler) -> Errors {
        let [now, before] = [new, old].map(|a| &a.spec.scale_target_ref);
        if now.kind == before.kind && now.api_version == before.api_version {
            return Vec::new();
        }
        validate_group(now)
    }

    fn validate_status_update(new: &HorizontalPodAutoscaler, _old: &HorizontalPodAutoscaler) -> Errors {
        let Some(status) = &new.status else { return Vec::new() };
        let counts = [("currentReplicas", status.current_replicas), ("desiredReplicas", Some(status.desired_replicas))];
        validate_counts(counts, &Path::new("status"))
    }

    fn columns() -> Vec<Column> {
        vec![
            name_column(),
            column("Reference"),
            column("Targets"),
            column("MinPods"),
            column("MaxPods"),
            column("Replicas"),
            age_column(),
        ]
    }

    fn cells(autoscaler: &HorizontalPodAutoscaler, now: jiff::Timestamp) -> Vec<Value> {
        let spec = &autoscaler.spec;
        let status = autoscaler.status.clone().unwrap_or_default();
        let target = &spec.scale_target_ref;
        let metrics = metrics_text(
            spec.metrics.as_deref().unwrap_or_default(),
            status.current_metrics.as_deref().unwrap_or_default(),
        );
        vec![
            name(autoscaler),
            format!("{}/{}", target.kind, target.name).into(),
            metrics.into(),
            spec.min_replicas.map_or_else(|| "<unset>".to_owned(), |m| m.to_string()).into(),
            spec.max_replicas.into(),
            status.current_replicas.unwrap_or(0).into(),
            age(autoscaler, now),
        ]
    }

    fn convert(other: &dyn AnyObject) -> Option<HorizontalPodAutoscaler> {
        let mut autoscaler = autoscaling_v1::to_new(downcast_ref(other)?);
        Self::default(&mut autoscaler);
        Some(autoscaler)
    }

    fn quantities(autoscaler: &mut HorizontalPodAutoscaler, visit: &mut dyn FnMut(&mut Quantity)) {
        for metric in autoscaler.spec.metrics.iter_mut().flatten() {
            for target in targets(metric) {
                target.value.iter_mut().chain(&mut target.average_value).for_each(&mut *visit);
            }
        }
        let rules = autoscaler.spec.behavior.iter_mut().flat_map(|b| b.scale_up.iter_mut().chain(&mut b.scale_down));
        rules.filter_map(|rules| rules.tolerance.as_mut()).for_each(&mut *visit);
        let metrics = autoscaler.status.iter_mut().flat_map(|s| s.current_metrics.iter_mut().flatten());
        for current in metrics.flat_map(currents) {
            current.value.iter_mut().chain(&mut current.average_value).for_each(&mut *visit);
        }
    }
}

fn targets(metric: &mut MetricSpec) -> impl Iterator<Item = &mut MetricTarget> {
    let resource = metric.resource.iter_mut().map(|m| &mut m.target);
    let container = metric.container_resource.iter_mut().map(|m| &mut m.target);
    let pods = metric.pods.iter_mut().map(|m| &mut m.target);
    let object = metric.object.iter_mut().map(|m| &mut m.target);
    let external = metric.external.iter_mut().map(|m| &mut m.target);
    resource.chain(container).chain(pods).chain(object).chain(external)
}

fn currents(metric: &mut MetricStatus) -> impl Iterator<Item = &mut MetricValueStatus> {
    let resource = metric.resource.iter_mut().map(|m| &mut m.current);
    let container = metric.container_resource.iter_mut().map(|m| &mut m.current);
    let pods = metric.pods.iter_mut().map(|m| &mut m.current);
    let object = metric.object.iter_mut().map(|m| &mut m.current);
    let external = metric.external.iter_mut().map(|m| &mut m.current);
    resource.chain(container).chain(pods).chain(object).chain(external)
}

pub(super) fn cpu_metric(utilization: i32) -> MetricSpec {
    MetricSpec {
        type_: "Resource".to_owned(),
        resource: Some(ResourceMetricSource {
            name: "cpu".to_owned(),
            target: MetricTarget {
                type_: "Utilization".to_owned(),
                average_utilization: Some(utilization),
                ..MetricTarget::default()
            },
        }),
        ..MetricSpec::default()
    }
}

/// Up: at once, by four pods or by doubling; down: by any number, when the controller's window allows.
fn fill_rules(rules: &mut HPAScalingRules, up: bool) {
    let policy = |ty: &str, value: i32| HPAScalingPolicy { type_: ty.to_owned(), value, period_seconds: 15 };
    set(&mut rules.select_policy, "Max".to_owned());
    if up {
        set(&mut rules.stabilization_window_seconds, 0);
        set(&mut rules.policies, vec![policy("Pods", 4), policy("Percent", 100)]);
    } else {
        set(&mut rules.policies, vec![policy("Percent", 100)]);
    }
}

fn validate_spec(spec: &HorizontalPodAutoscalerSpec, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let most = spec.max_replicas;
    if let Some(least) = spec.min_replicas.filter(|m| *m < 1) {
        errors.push(FieldError::invalid(&path.child("minReplicas"), least, "must be greater than or equal to 1"));
    }
    let path_of_most = path.child("maxReplicas");
    if most == 0 {
        errors.push(FieldError::required(&path_of_most, "must be set and greater than 0"));
    } else if most < 0 {
        errors.push(FieldError::invalid(&path_of_most, most, "must be greater than or equal to 1"));
    }
    if spec.min_replicas.is_some_and(|least| most < least) {
        let detail = "must be greater than or equal to `minReplicas`";
        errors.push(FieldError::invalid(&path_of_most, most, detail));
    }
    errors.extend(validate_reference(&spec.scale_target_ref, &path.child("scaleTargetRef")));
    let metrics = path.child("metrics");
    for (i, metric) in spec.metrics.iter().flatten().enumerate() {
        errors.extend(validate_metric(metric, &metrics.index(i)));
    }
    let wakes = |m: &MetricSpec| matches!(m.type_.as_str(), "Object" | "External");
    if spec.min_replicas == Some(0) && !spec.metrics.iter().flatten().any(wakes) {
        let detail = "must specify at least one Object or External metric to support scaling to zero replicas";
        errors.push(FieldError::forbidden(&metrics, detail));
    }
    if let Some(behavior) = &spec.behavior {
        let path = path.child("behavior");
        for (field, rules) in [("scaleUp", &behavior.scale_up), ("scaleDown", &behavior.scale_down)] {
            if let Some(rules) = rules {
                errors.extend(validate_rules(rules, &path.child(field)));
            }
        }
    }
    errors
}

fn validate_reference(reference: &CrossVersionObjectReference, path: &Path) -> Errors {
    let mut errors = Vec::new();
    for (field, value) in [("kind", &reference.kind), ("name", &reference.name)] {
        let path = path.child(field);
        if value.is_empty() {
            errors.push(FieldError::required(&path, ""));
        } else {
            errors.extend(invalid_each(&path, value, is_path_segment_name(value)));
        }
    }
    errors
}

/// An autoscaler names the group of what it scales (`ValidateAPIVersion`); replication controllers have none.
fn validate_group(reference: &CrossVersionObjectReference) -> Errors {
    let path = Path::new("spec").child("scaleTargetRef");
    let version = reference.api_version.as_deref().unwrap_or_default();
    let why = match version.split('/').collect::<Vec<_>>().as_slice() {
        [_] | ["", _] if reference.kind == "ReplicationController" => return Vec::new(),
        [_] | ["", _] => "apiVersion must specify API group".to_owned(),
        [_, _] => return Vec::new(),
        _ => format!("unexpected GroupVersion string: {version}"),
    };
    vec![FieldError::invalid(&path.child("apiVersion"), version, &why)]
}

/// `validateMetricSpec`: what is set must be what the type says, and nothing else.
fn validate_metric(metric: &MetricSpec, path: &Path) -> Errors {
    const TYPES: [&str; 5] = ["ContainerResource", "External", "Object", "Pods", "Resource"];
    let mut errors = Vec::new();
    let at = path.child("type");
    if metric.type_.is_empty() {
        errors.push(FieldError::required(&at, "must specify a metric source type"));
    }
    one_of(&mut errors, &at, &metric.type_, &TYPES);
    let sources = [
        ("object", metric.object.is_some()),
        ("external", metric.external.is_some()),
        ("pods", metric.pods.is_some()),
        ("resource", metric.resource.is_some()),
        ("containerResource", metric.container_resource.is_some()),
    ];
    let present: Vec<&str> = sources.iter().filter(|(_, there)| *there).map(|(name, _)| *name).collect();
    if let Some(first) = present.first() {
        errors.extend(validate_metric_source(first, metric, &path.child(first)));
    }
    let expected = match metric.type_.as_str() {
        "Object" => "object",
        "External" => "external",
        "Pods" => "pods",
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        // Upstream looks twice.
        other => {
            errors.push(FieldError::not_supported(&at, other, &TYPES));
            ""
        }
    };
    if !expected.is_empty() && !present.contains(&expected) {
        let detail = "must populate information for the given metric source";
        errors.push(FieldError::required(&path.child(expected), detail));
    }
    if present.len() != 1 {
        let detail = "must populate the given metric source only";
        let others = present.iter().filter(|name| **name != expected);
        errors.extend(others.map(|name| FieldError::forbidden(&path.child(name), detail)));
    }
    errors
}

fn validate_metric_source(source: &str, metric: &MetricSpec, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let at = path.child("target");
    match (source, metric) {
        ("object", MetricSpec { object: Some(m), .. }) => {
            errors.extend(validate_reference(&m.described_object, &path.child("describedObject")));
            errors.extend(validate_metric_name(&m.metric.name, path));
            errors.extend(validate_target(&m.target, &at));
            if m.target.value.is_none() && m.target.average_value.is_none() {
                let detail = "must set either a target value or averageValue";
                errors.push(FieldError::required(&at.child("averageValue"), detail));
            }
        }
        ("external", MetricSpec { external: Some(m), .. }) => {
            errors.extend(validate_metric_name(&m.metric.name, path));
            errors.extend(validate_target(&m.target, &at));
            errors.extend(match (&m.target.value, &m.target.average_value) {
                (None, None) => Some(FieldError::required(
                    &at.child("averageValue"),
                    "must set either a target value for metric or a per-pod target",
                )),
                (Some(_), Some(_)) => Some(FieldError::forbidden(
                    &at.child("value"),
                    "may not set both a target value for metric and a per-pod target",
                )),
                _ => None,
            });
        }
        ("pods", MetricSpec { pods: Some(m), .. }) => {
            errors.extend(validate_metric_name(&m.metric.name, path));
            errors.extend(validate_target(&m.target, &at));
            if m.target.average_value.is_none() {
                let detail = "must specify a positive target averageValue";
                errors.push(FieldError::required(&at.child("averageValue"), detail));
            }
        }
        ("resource", MetricSpec { resource: Some(m), .. }) => {
            if m.name.is_empty() {
                errors.push(FieldError::required(&path.child("name"), "must specify a resource name"));
            }
            errors.extend(validate_target(&m.target, &at));
            errors.extend(validate_amount_or_share(&m.target, &at));
        }
        ("containerResource", MetricSpec { container_resource: Some(m), .. }) => {
            let name = path.child("name");
            if m.name.is_empty() {
                errors.push(FieldError::required(&name, "must specify a resource name"));
            } else {
                errors.extend(resources::validate_container_name(&m.name, &name));
            }
            let container = path.child("container");
            if m.container.is_empty() {
                errors.push(FieldError::required(&container, "must specify a container"));
            } else {
                errors.extend(invalid_each(&container, &m.container, is_dns1123_label(&m.container)));
            }
            errors.extend(validate_target(&m.target, &at));
            errors.extend(validate_amount_or_share(&m.target, &at));
        }
        _ => {}
    }
    errors
}

fn validate_metric_name(name: &str, path: &Path) -> Errors {
    let path = path.child("metric").child("name");
    if name.is_empty() {
        return vec![FieldError::required(&path, "must specify a metric name")];
    }
    invalid_each(&path, name, is_path_segment_name(name))
}

fn validate_target(target: &MetricTarget, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let at = path.child("type");
    if target.type_.is_empty() {
        errors.push(FieldError::required(&at, "must specify a metric target type"));
    }
    if !["Utilization", "Value", "AverageValue"].contains(&target.type_.as_str()) {
        errors.push(FieldError::invalid(&at, &target.type_, "must be either Utilization, Value, or AverageValue"));
    }
    for (field, amount) in [("value", &target.value), ("averageValue", &target.average_value)] {
        if let Some(amount) = amount
            && crate::quantity::Quantity::parse(&amount.0).is_ok_and(|q| q.sign() <= 0)
        {
            errors.push(FieldError::invalid(&path.child(field), &amount.0, "must be positive"));
        }
    }
    if let Some(share) = target.average_utilization.filter(|s| *s < 1) {
        errors.push(FieldError::invalid(&path.child("averageUtilization"), share, "must be greater than 0"));
    }
    errors
}

/// What a target of a resource has: an amount or a share of what is requested.
fn validate_amount_or_share(target: &MetricTarget, path: &Path) -> Option<FieldError> {
    match (&target.average_utilization, &target.average_value) {
        (None, None) => {
            let detail = "must set either a target raw value or a target utilization";
            Some(FieldError::required(&path.child("averageUtilization"), detail))
        }
        (Some(_), Some(_)) => {
            let detail = "may not set both a target raw value and a target utilization";
            Some(FieldError::forbidden(&path.child("averageValue"), detail))
        }
        _ => None,
    }
}

fn validate_rules(rules: &HPAScalingRules, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let tolerance_path = path.child("tolerance");
    if let Some(window) = rules.stabilization_window_seconds {
        let path = path.child("stabilizationWindowSeconds");
        if window < 0 {
            errors.push(FieldError::invalid(&path, window, "must be greater than or equal to zero"));
        }
        if window > 3600 {
            errors.push(FieldError::invalid(&path, window, "must be less than or equal to 3600"));
        }
    }
    if let Some(policy) = &rules.select_policy {
        one_of(&mut errors, &path.child("selectPolicy"), policy, &["Disabled", "Max", "Min"]);
    }
    let policies = rules.policies.as_deref().unwrap_or_default();
    let path = path.child("policies");
    if policies.is_empty() {
        errors.push(FieldError::required(&path, "must specify at least one Policy"));
    }
    for (i, policy) in policies.iter().enumerate() {
        let path = path.index(i);
        one_of(&mut errors, &path.child("type"), &policy.type_, &["Percent", "Pods"]);
        for (field, value) in [("value", policy.value), ("periodSeconds", policy.period_seconds)] {
            if value <= 0 {
                errors.push(FieldError::invalid(&path.child(field), value, "must be greater than zero"));
            }
        }
        if policy.period_seconds > 1800 {
            let detail = "must be less than or equal to 1800";
            errors.push(FieldError::invalid(&path.child("periodSeconds"), policy.period_seconds, detail));
        }
    }
    if let Some(tolerance) = &rules.tolerance {
        errors.extend(resources::validate_quantity("", tolerance, &tolerance_path));
    }
    errors
}

// === columns ===

fn metrics_text(specs: &[MetricSpec], statuses: &[MetricStatus]) -> String {
    const MOST: usize = 2;
    if specs.is_empty() {
        return "<none>".to_owned();
    }
    let all: Vec<String> = specs.iter().enumerate().map(|(i, spec)| metric_text(spec, statuses.get(i))).collect();
    let shown = all[..all.len().min(MOST)].join(", ");
    if all.len() > MOST { format!("{shown} + {} more...", all.len() - MOST) } else { shown }
}

fn metric_text(spec: &MetricSpec, status: Option<&MetricStatus>) -> String {
    let amount = |quantity: Option<&Quantity>| quantity.map_or_else(|| "<unknown>".to_owned(), |q| q.0.clone());
    let percent = |value: Option<i32>, none: &str| value.map_or_else(|| none.to_owned(), |v| format!("{v}%"));
    let utilization =
        |name: &str, target: &MetricTarget, current: Option<&MetricValueStatus>| match &target.average_value {
            Some(wanted) => format!("{name}: {}/{}", amount(current.and_then(|c| c.average_value.as_ref())), wanted.0),
            None => format!(
                "{name}: {}/{}",
                percent(current.and_then(|c| c.average_utilization), "<unknown>"),
                percent(target.average_utilization, "<auto>")
            ),
        };
    let value = |target: &MetricTarget, current: Option<&MetricValueStatus>| match &target.average_value {
        Some(wanted) => format!("{}/{} (avg)", amount(current.and_then(|c| c.average_value.as_ref())), wanted.0),
        None => format!("{}/{}", amount(current.and_then(|c| c.value.as_ref())), amount(target.value.as_ref())),
    };
    match spec {
        MetricSpec { resource: Some(m), .. } => {
            utilization(&m.name, &m.target, status.and_then(|s| s.resource.as_ref()).map(|s| &s.current))
        }
        MetricSpec { container_resource: Some(m), .. } => {
            utilization(&m.name, &m.target, status.and_then(|s| s.container_resource.as_ref()).map(|s| &s.current))
        }
        MetricSpec { pods: Some(m), .. } => {
            let current = status.and_then(|s| s.pods.as_ref()).and_then(|s| s.current.average_value.as_ref());
            format!("{}/{}", amount(current), amount(m.target.average_value.as_ref()))
        }
        MetricSpec { object: Some(m), .. } => {
            value(&m.target, status.and_then(|s| s.object.as_ref()).map(|s| &s.current))
        }
        MetricSpec { external: Some(m), .. } => {
            value(&m.target, status.and_then(|s| s.external.as_ref()).map(|s| &s.current))
        }
        _ => "<unknown type>".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use crate::kinds::find;
    use crate::kinds::testing::{check_create, check_row, check_update, read};
    use expect_test::expect;

    const OLD: &str = "
apiVersion: autoscaling/v1
kind: HorizontalPodAutoscaler
metadata: {name: web}
spec: {maxReplicas: 3, targetCPUUtilizationPercentage: 50, scaleTargetRef: {kind: Deployment, name: web, apiVersion: apps/v1}}";

    #[test]
    fn v1_is_a_view_of_v2() {
        check_create(OLD, expect![""]);
        check_row(
            OLD,
            expect![[r#"
            Name | Reference | Targets | MinPods | MaxPods | Replicas | Age
            web | Deployment/web | cpu: <unknown>/50% | <unset> | 3 | 0 | <unknown>"#]],
        );
        let (kind, mut object) = read(OLD);
        kind.default(&mut *object);
        let v2 = find("autoscaling", "v2", "horizontalpodautoscalers").expect("a kind");
        let new = v2.convert(&*object).expect("an autoscaler");
        let back = kind.convert(&*new).expect("an autoscaler");
        assert_eq!(back.encode(), object.encode());
        check_create(
            "{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {name: a}, spec: {minReplicas: 0, behavior: {scaleUp: {policies: [{type: X, value: 0, periodSeconds: 9999}]}}}}",
            expect![[r#"
            spec.minReplicas: Invalid value: 0: must be greater than or equal to 1
            spec.maxReplicas: Required value: must be set and greater than 0
            spec.scaleTargetRef.kind: Required value
            spec.scaleTargetRef.name: Required value
            spec.metrics: Forbidden: must specify at least one Object or External metric to support scaling to zero replicas
            spec.behavior.scaleUp.policies[0].type: Unsupported value: "X": supported values: "Percent", "Pods"
            spec.behavior.scaleUp.policies[0].value: Invalid value: 0: must be greater than zero
            spec.behavior.scaleUp.policies[0].periodSeconds: Invalid value: 9999: must be less than or equal to 1800
            spec.scaleTargetRef.apiVersion: Invalid value: "": apiVersion must specify API group"#]],
        );
    }

    #[test]
    fn what_is_scaled_is_named_with_its_group() {
        let of = |kind: &str, version: &str| OLD.replace("kind: Deployment", kind).replace("apps/v1", version);
        check_create(&of("kind: ReplicationController", "v1"), expect![""]);
        check_create(
            &of("kind: Deployment", "v1"),
            expect![[r#"spec.scaleTargetRef.apiVersion: Invalid value: "v1": apiVersion must specify API group"#]],
        );
        check_update(
            OLD,
            &of("kind: Other", "v1"),
            None,
            expect![[r#"spec.scaleTargetRef.apiVersion: Invalid value: "v1": apiVersion must specify API group"#]],
        );
        check_create(
            "{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {name: a}, spec: {maxReplicas: 2, scaleTargetRef: {kind: A, name: a, apiVersion: a/v1}, metrics: [{type: ContainerResource, containerResource: {name: a.b, container: c, target: {type: Utilization, averageUtilization: 5}}}], behavior: {scaleUp: {tolerance: '-1'}}}}",
            expect![[r#"
                spec.metrics[0].containerResource.name: Invalid value: "a.b": must be a standard resource type or fully qualified
                spec.metrics[0].containerResource.name: Invalid value: "a.b": must be a standard resource for containers
                spec.behavior.scaleUp.tolerance: Invalid value: "-1": must be greater than or equal to 0"#]],
        );
    }
}
