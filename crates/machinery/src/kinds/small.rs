//! Small kinds with a few rules each: Lease, PodDisruptionBudget, PriorityClass, RuntimeClass, ComponentStatus.

use super::common::{
    age, age_column, bump_if_spec_changed, column, name, name_column, set, str_of, typed_column, visit_list,
};
use super::pod::validate::{validate_quantity_list, validate_tolerations};
use super::pod::warnings::deprecated_label;
use super::workload::{validate_at_most_100_percent, validate_counts, validate_int_or_percent};
use super::{Column, GenerateName, Strategy};
use crate::field::{Errors, FieldError, Path};
use crate::schema::go_shown;
use crate::validation::{
    IMMUTABLE, Messages, Raw, invalid_each, is_dns1123_label, is_dns1123_subdomain, is_path_segment_name, one_of,
    required_one_of, validate_conditions, validate_label_selector, validate_labels,
};
use api::k8s::api::core::v1::{ComponentStatus, Toleration};
use api::k8s::api::node::v1::RuntimeClass;
use api::k8s::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use api::k8s::api::scheduling::v1::PriorityClass;
use api::k8s::apimachinery::pkg::api::resource::Quantity;
use api::k8s::apimachinery::pkg::util::intstr::IntOrString;
use api::prelude::{Lease, MetaExt};
use serde_json::Value;

/// What is particular about a Lease (`pkg/apis/coordination/validation`).
pub(super) struct LeaseKind;

impl Strategy for LeaseKind {
    type Object = Lease;

    const CHECKS_FINALIZERS: bool = false;

    fn prepare_create(lease: &mut Lease) {
        drop_strategy(lease, None);
    }

    fn prepare_update(new: &mut Lease, old: &Lease) {
        drop_strategy(new, Some(old));
    }

    fn validate_name(name: &str) -> Messages {
        is_dns1123_subdomain(name)
    }

    fn validate(lease: &Lease) -> Errors {
        let Some(spec) = &lease.spec else { return Vec::new() };
        let path = Path::new("spec");
        let mut errors = Vec::new();
        if let Some(seconds) = spec.lease_duration_seconds.filter(|s| *s <= 0) {
            let path = path.child("leaseDurationSeconds");
            errors.push(FieldError::invalid(&path, seconds, "must be greater than 0"));
        }
        if let Some(count) = spec.lease_transitions.filter(|c| *c < 0) {
            let path = path.child("leaseTransitions");
            errors.push(FieldError::invalid(&path, count, "must be greater than or equal to 0"));
        }
        errors
    }

    const ALLOW_CREATE_ON_UPDATE: bool = true;
    const ALLOW_UNCONDITIONAL_UPDATE: bool = false;

    fn columns() -> Vec<Column> {
        vec![name_column(), column("Holder"), age_column()]
    }

    fn cells(lease: &Lease, now: jiff::Timestamp) -> Vec<Value> {
        let holder = lease.spec.as_ref().map(|s| str_of(&s.holder_identity)).unwrap_or_default();
        vec![name(lease), holder.into(), age(lease, now)]
    }
}

/// Coordinated leader election is a gate that is off: its fields are dropped, unless they were there.
fn drop_strategy(new: &mut Lease, old: Option<&Lease>) {
    let old = old.and_then(|l| l.spec.as_ref());
    if let Some(spec) = &mut new.spec {
        if old.is_none_or(|s| s.strategy.is_none()) {
            spec.strategy = None;
        }
        if old.is_none_or(|s| s.preferred_holder.is_none()) {
            spec.preferred_holder = None;
        }
    }
}

/// What is particular about a PodDisruptionBudget (`pkg/apis/policy/validation`).
pub(super) struct PodDisruptionBudgetKind;

impl Strategy for PodDisruptionBudgetKind {
    type Object = PodDisruptionBudget;

    const CHECKS_FINALIZERS: bool = false;

    fn prepare_create(budget: &mut PodDisruptionBudget) {
        budget.status = Some(PodDisruptionBudgetStatus {
            current_healthy: Some(0),
            desired_healthy: Some(0),
            disruptions_allowed: Some(0),
            expected_pods: Some(0),
            ..PodDisruptionBudgetStatus::default()
        });
        budget.metadata.generation = Some(1);
    }

    fn prepare_update(new: &mut PodDisruptionBudget, old: &PodDisruptionBudget) {
        new.status = old.status.clone();
        let same = new.spec == old.spec;
        bump_if_spec_changed(new, old, same);
    }

    fn prepare_status_update(new: &mut PodDisruptionBudget, old: &PodDisruptionBudget) {
        new.spec = old.spec.clone();
    }

    fn validate_name(name: &str) -> Messages {
        is_path_segment_name(name)
    }

    fn validate(budget: &PodDisruptionBudget) -> Errors {
        let spec = budget.spec.clone().unwrap_or_default();
        let path = Path::new("spec");
        let mut errors = Vec::new();
        if spec.min_available.is_some() && spec.max_unavailable.is_some() {
            let detail = "minAvailable and maxUnavailable cannot be both set";
            let shown = go_shown("io.k8s.api.policy.v1.PodDisruptionBudgetSpec", &spec);
            errors.push(FieldError::invalid(&path, shown, detail));
        }
        for (field, value) in [("minAvailable", &spec.min_available), ("maxUnavailable", &spec.max_unavailable)] {
            if let Some(value) = value {
                errors.extend(validate_int_or_percent(value, &path.child(field)));
                errors.extend(validate_at_most_100_percent(value, &path.child(field)));
            }
        }
        errors.extend(validate_label_selector(spec.selector.as_ref(), &path.child("selector")));
        if let Some(policy) = &spec.unhealthy_pod_eviction_policy {
            let path = path.child("unhealthyPodEvictionPolicy");
            one_of(&mut errors, &path, policy, &["AlwaysAllow", "IfHealthyBudget"]);
        }
        errors
    }

    fn validate_status_update(new: &PodDisruptionBudget, _old: &PodDisruptionBudget) -> Errors {
        let Some(status) = &new.status else { return Vec::new() };
        let counts = [
            ("disruptionsAllowed", status.disruptions_allowed),
            ("currentHealthy", status.current_healthy),
            ("desiredHealthy", status.desired_healthy),
            ("expectedPods", status.expected_pods),
        ];
        let path = Path::new("status");
        let mut errors =
            validate_conditions(status.conditions.as_deref().unwrap_or_default(), &path.child("conditions"));
        errors.extend(validate_counts(counts, &path));
        errors
    }

    const ALLOW_UNCONDITIONAL_UPDATE: bool = false;

    fn columns() -> Vec<Column> {
        vec![
            name_column(),
            column("Min Available"),
            column("Max Unavailable"),
            typed_column("Allowed Disruptions", "integer"),
            age_column(),
        ]
    }

    fn cells(budget: &PodDisruptionBudget, now: jiff::Timestamp) -> Vec<Value> {
        let shown = |value: Option<&IntOrString>| match value {
            None => "N/A".to_owned(),
            Some(IntOrString::Int(number)) => number.to_string(),
            Some(IntOrString::String(text)) => text.clone(),
        };
        let spec = budget.spec.as_ref();
        vec![
            name(budget),
            shown(spec.and_then(|s| s.min_available.as_ref())).into(),
            shown(spec.and_then(|s| s.max_unavailable.as_ref())).into(),
            budget.status.as_ref().and_then(|s| s.disruptions_allowed).unwrap_or(0).into(),
            age(budget, now),
        ]
    }
}

/// What is particular about a PriorityClass (`pkg/apis/scheduling/validation`): its value stays.
pub(super) struct PriorityClassKind;

/// The classes that Kubernetes itself makes: name and value.
const SYSTEM_CLASSES: [(&str, i32); 2] =
    [("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];

impl Strategy for PriorityClassKind {
    type Object = PriorityClass;

    fn default(class: &mut PriorityClass) {
        set(&mut class.value, 0);
        set(&mut class.preemption_policy, "PreemptLowerPriority".to_owned());
    }

    fn prepare_create(class: &mut PriorityClass) {
        class.metadata.generation = Some(1);
    }

    fn validate_name(name: &str) -> Messages {
        is_dns1123_subdomain(name)
    }

    fn validate(_class: &PriorityClass) -> Errors {
        Vec::new()
    }

    fn validate_create(class: &PriorityClass) -> Errors {
        let mut errors = Vec::new();
        let (name, value) = (class.name(), class.value.unwrap_or(0));
        if name.starts_with("system-") {
            if let Some(why) = why_not_system(class, name, value) {
                let detail = format!(
                    "priority class names with 'system-' prefix are reserved for system use only. error: {why}"
                );
                errors.push(FieldError::forbidden(&Path::new("metadata").child("name"), &detail));
            }
        } else if value > 1_000_000_000 {
            let detail = "maximum allowed value of a user defined priority is 1000000000";
            errors.push(FieldError::forbidden(&Path::new("value"), detail));
        }
        if let Some(policy) = &class.preemption_policy {
            let supported = ["PreemptLowerPriority", "Never"];
            required_one_of(&mut errors, &Path::new("preemptionPolicy"), policy, &supported);
        }
        errors
    }

    fn validate_update(new: &PriorityClass, old: &PriorityClass) -> Errors {
        let mut errors = Vec::new();
        if new.value.unwrap_or(0) != old.value.unwrap_or(0) {
            errors.push(FieldError::forbidden(&Path::new("value"), "may not be changed in an update."));
        }
        if new.preemption_policy != old.preemption_policy {
            let policy = str_of(&new.preemption_policy);
            errors.push(FieldError::invalid(&Path::new("preemptionPolicy"), policy, IMMUTABLE));
        }
        errors
    }

    fn columns() -> Vec<Column> {
        vec![
            name_column(),
            typed_column("Value", "integer"),
            typed_column("Global-Default", "boolean"),
            age_column(),
            column("PreemptionPolicy"),
        ]
    }

    fn cells(class: &PriorityClass, now: jiff::Timestamp) -> Vec<Value> {
        vec![
            name(class),
            class.value.unwrap_or(0).into(),
            class.global_default.unwrap_or(false).into(),
            age(class, now),
            str_of(&class.preemption_policy).into(),
        ]
    }
}

fn why_not_system(class: &PriorityClass, name: &str, value: i32) -> Option<String> {
    let Some((_, expected)) = SYSTEM_CLASSES.iter().find(|(known, _)| *known == name) else {
        return Some(format!("{name} is not a known system priority class"));
    };
    if value != *expected {
        return Some(format!("value of {name} PriorityClass must be {expected}"));
    }
    (class.global_default == Some(true)).then(|| format!("globalDefault of {name} PriorityClass must be false"))
}

/// What is particular about a RuntimeClass (`pkg/apis/node/validation`): its handler stays.
pub(super) struct RuntimeClassKind;

impl Strategy for RuntimeClassKind {
    type Object = RuntimeClass;
    const GENERATE_NAME: GenerateName = GenerateName::Always;

    const CHECKS_FINALIZERS: bool = false;

    fn validate_name(name: &str) -> Messages {
        is_dns1123_subdomain(name)
    }

    fn warnings(class: &RuntimeClass, _old: Option<&RuntimeClass>) -> Vec<String> {
        let path = Path::new("scheduling").child("nodeSelector");
        let labels = class.scheduling.iter().flat_map(|s| s.node_selector.iter().flatten());
        labels.filter_map(|(key, _)| Some(format!("{path}: {}", deprecated_label(key)?))).collect()
    }

    fn validate(class: &RuntimeClass) -> Errors {
        let mut errors = Vec::new();
        if class.handler.is_empty() {
            errors.push(FieldError::required(&Path::new("handler"), ""));
        } else {
            errors.extend(invalid_each(&Path::new("handler"), &class.handler, is_dns1123_label(&class.handler)));
        }
        if let Some(overhead) = &class.overhead {
            let path = Path::new("overhead").child("limits");
            errors.extend(validate_quantity_list(overhead.pod_fixed.as_ref(), &path));
        }
        if let Some(scheduling) = &class.scheduling {
            let path = Path::new("scheduling");
            errors.extend(validate_labels(scheduling.node_selector.as_ref(), &path.child("nodeSelector")));
            let tolerations = scheduling.tolerations.as_deref().unwrap_or_default();
            let path = path.child("tolerations");
            errors.extend(validate_tolerations(tolerations, &path));
            for (i, toleration) in tolerations.iter().enumerate() {
                let is_same = |t: &Toleration| {
                    Toleration { toleration_seconds: toleration.toleration_seconds, ..t.clone() } == *toleration
                };
                if tolerations[..i].iter().any(is_same) {
                    errors.push(FieldError::duplicate(&path.index(i), go_toleration(toleration)));
                }
            }
        }
        errors
    }

    fn validate_update(new: &RuntimeClass, old: &RuntimeClass) -> Errors {
        if new.handler == old.handler {
            return Vec::new();
        }
        vec![FieldError::invalid(&Path::new("handler"), &new.handler, IMMUTABLE)]
    }

    const ALLOW_CREATE_ON_UPDATE: bool = true;
    const ALLOW_UNCONDITIONAL_UPDATE: bool = false;

    fn columns() -> Vec<Column> {
        vec![name_column(), column("Handler"), age_column()]
    }

    fn cells(class: &RuntimeClass, now: jiff::Timestamp) -> Vec<Value> {
        vec![name(class), class.handler.as_str().into(), age(class, now)]
    }

    fn quantities(class: &mut RuntimeClass, visit: &mut dyn FnMut(&mut Quantity)) {
        if let Some(overhead) = &mut class.overhead {
            visit_list(&mut overhead.pod_fixed, visit);
        }
    }
}

/// As upstream prints its internal struct.
fn go_toleration(toleration: &Toleration) -> Raw {
    let text = |field: &Option<String>| crate::field::quote(str_of(field));
    let (key, operator) = (text(&toleration.key), text(&toleration.operator));
    let (value, effect) = (text(&toleration.value), text(&toleration.effect));
    let seconds = toleration.toleration_seconds.map_or("null".to_owned(), |s| s.to_string());
    Raw(format!(
        r#"{{"Key":{key},"Operator":{operator},"Value":{value},"Effect":{effect},"TolerationSeconds":{seconds}}}"#
    ))
}

/// What is particular about a ComponentStatus: nothing but its columns.
pub(super) struct ComponentStatusKind;

impl Strategy for ComponentStatusKind {
    type Object = ComponentStatus;

    fn validate_name(name: &str) -> Messages {
        is_dns1123_subdomain(name)
    }

    fn validate(_status: &ComponentStatus) -> Errors {
        Vec::new()
    }

    fn columns() -> Vec<Column> {
        vec![name_column(), column("Status"), column("Message"), column("Error")]
    }

    fn cells(status: &ComponentStatus, _now: jiff::Timestamp) -> Vec<Value> {
        let healthy = status.conditions.iter().flatten().find(|c| c.type_ == "Healthy");
        let state = match healthy.map(|c| c.status.as_str()) {
            None => "Unknown",
            Some("True") => "Healthy",
            Some(_) => "Unhealthy",
        };
        let shown = |field: Option<&Option<String>>| Value::from(field.map(str_of).unwrap_or_default());
        vec![name(status), state.into(), shown(healthy.map(|c| &c.message)), shown(healthy.map(|c| &c.error))]
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check_create, check_defaults, check_row, check_update, check_warnings};
    use expect_test::expect;

    #[test]
    fn what_is_wrong_with_leases_and_budgets() {
        check_create(
            "{apiVersion: coordination.k8s.io/v1, kind: Lease, metadata: {name: a}, spec: {leaseDurationSeconds: 0, leaseTransitions: -1}}",
            expect![[r#"
                spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0
                spec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0"#]],
        );
        check_create(
            "{apiVersion: policy/v1, kind: PodDisruptionBudget, metadata: {name: a}, spec: {minAvailable: 1, maxUnavailable: 120%}}",
            expect![[r#"
                spec: Invalid value: {"MinAvailable":1,"Selector":null,"MaxUnavailable":"120%","UnhealthyPodEvictionPolicy":null}: minAvailable and maxUnavailable cannot be both set
                spec.maxUnavailable: Invalid value: "120%": must not be greater than 100%"#]],
        );
        check_create(
            "{apiVersion: node.k8s.io/v1, kind: RuntimeClass, metadata: {name: a}, handler: A_b}",
            expect![[
                r#"handler: Invalid value: "A_b": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"#
            ]],
        );
    }

    #[test]
    fn tolerations_of_a_runtime_class_differ() {
        check_create(
            "{apiVersion: node.k8s.io/v1, kind: RuntimeClass, metadata: {name: a}, handler: a, scheduling: {tolerations: [{key: k, operator: Exists, effect: NoExecute, tolerationSeconds: 3}, {key: k, operator: Exists, effect: NoExecute}]}}",
            expect![[
                r#"scheduling.tolerations[1]: Duplicate value: {"Key":"k","Operator":"Exists","Value":"","Effect":"NoExecute","TolerationSeconds":null}"#
            ]],
        );
    }

    #[test]
    fn priorities_stay() {
        const CLASS: &str =
            "{apiVersion: scheduling.k8s.io/v1, kind: PriorityClass, metadata: {name: a}, value: 5, description: b}";
        check_defaults(CLASS, expect![[r#"preemptionPolicy: "PreemptLowerPriority""#]]);
        check_update(
            CLASS,
            &CLASS.replace('5', "6"),
            None,
            expect!["value: Forbidden: may not be changed in an update."],
        );
        check_create(
            &CLASS.replace("name: a", "name: system-a").replace('5', "2000000001"),
            expect![
                "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: system-a is not a known system priority class"
            ],
        );
    }

    #[test]
    fn rows() {
        check_row(
            "
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: a, creationTimestamp: 2024-01-01T00:00:00Z}
spec: {minAvailable: 50%}
status: {disruptionsAllowed: 2, currentHealthy: 3, desiredHealthy: 1, expectedPods: 3}
",
            expect![[r#"
                Name | Min Available | Max Unavailable | Allowed Disruptions | Age
                a | 50% | N/A | 2 | 60m"#]],
        );
        check_row(
            "{apiVersion: coordination.k8s.io/v1, kind: Lease, metadata: {name: a, creationTimestamp: 2024-01-01T00:00:00Z}, spec: {holderIdentity: me}}",
            expect![[r#"
                Name | Holder | Age
                a | me | 60m"#]],
        );
    }

    #[test]
    fn conditions_of_a_budget_are_sound() {
        let budget = "{apiVersion: policy/v1, kind: PodDisruptionBudget, metadata: {name: a, uid: '1', resourceVersion: '1'}, spec: {minAvailable: 1}";
        let status = ", status: {expectedPods: -1, conditions: [{type: A, status: Maybe, reason: ''}, {type: A, status: 'True', reason: R, lastTransitionTime: '2020-01-01T00:00:00Z'}]}}";
        check_update(
            &format!("{budget}}}"),
            &format!("{budget}{status}"),
            Some("status"),
            expect![[r#"
            status.conditions[0].status: Unsupported value: "Maybe": supported values: "False", "True", "Unknown"
            status.conditions[0].lastTransitionTime: Required value
            status.conditions[0].reason: Required value
            status.conditions[1].type: Duplicate value: "A"
            status.expectedPods: Invalid value: -1: must be greater than or equal to 0"#]],
        );
    }

    #[test]
    fn selectors_of_runtime_classes_are_warned_of() {
        check_warnings(
            "{apiVersion: node.k8s.io/v1, kind: RuntimeClass, metadata: {name: a}, handler: b, scheduling: {nodeSelector: {beta.kubernetes.io/arch: c}}}",
            None,
            expect![[r#"scheduling.nodeSelector: deprecated since v1.14; use "kubernetes.io/arch" instead"#]],
        );
    }
}
