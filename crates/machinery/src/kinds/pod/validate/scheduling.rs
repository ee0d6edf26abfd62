//! Affinity, tolerations, spread constraints.

use crate::field::{Errors, FieldError, Path};
use crate::kinds::common::str_of;
use crate::validation::{
    invalid_each, is_dns1123_label, is_dns1123_subdomain, is_label_value, one_of, validate_label_key,
    validate_label_selector, validate_positive,
};
use api::LabelSelector;
use api::k8s::api::core::v1::{
    Affinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodAffinityTerm, Toleration,
    TopologySpreadConstraint, WeightedPodAffinityTerm,
};
use std::collections::BTreeSet;

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

pub(super) fn validate_affinity(affinity: Option<&Affinity>, path: &Path) -> Errors {
    let Some(affinity) = affinity else { return Vec::new() };
    let mut errors = Vec::new();
    if let Some(node) = &affinity.node_affinity {
        let path = path.child("nodeAffinity");
        if let Some(selector) = &node.required_during_scheduling_ignored_during_execution {
            errors.extend(validate_node_selector(selector, &path.child(REQUIRED)));
        }
        let preferred = node.preferred_during_scheduling_ignored_during_execution.iter().flatten();
        for (i, term) in preferred.enumerate() {
            let path = path.child(PREFERRED).index(i);
            validate_weight(&mut errors, term.weight, &path);
            // Upstream lets bad label values pass in preferences.
            errors.extend(validate_node_term(&term.preference, true, &path.child("preference")));
        }
    }
    let near = affinity.pod_affinity.as_ref().map(|a| {
        (
            "podAffinity",
            a.required_during_scheduling_ignored_during_execution.as_deref(),
            a.preferred_during_scheduling_ignored_during_execution.as_deref(),
        )
    });
    let far = affinity.pod_anti_affinity.as_ref().map(|a| {
        (
            "podAntiAffinity",
            a.required_during_scheduling_ignored_during_execution.as_deref(),
            a.preferred_during_scheduling_ignored_during_execution.as_deref(),
        )
    });
    for (field, required, preferred) in [near, far].into_iter().flatten() {
        errors.extend(validate_pod_terms(required, preferred, &path.child(field)));
    }
    errors
}

fn validate_weight(errors: &mut Errors, weight: i32, path: &Path) {
    if !(1..=100).contains(&weight) {
        errors.push(FieldError::invalid(&path.child("weight"), weight, "must be in the range 1-100"));
    }
}

fn validate_pod_terms(
    required: Option<&[PodAffinityTerm]>,
    preferred: Option<&[WeightedPodAffinityTerm]>,
    path: &Path,
) -> Errors {
    let mut errors = Vec::new();
    for (i, term) in required.unwrap_or_default().iter().enumerate() {
        errors.extend(validate_pod_term(term, &path.child(REQUIRED).index(i)));
    }
    for (i, weighted) in preferred.unwrap_or_default().iter().enumerate() {
        let path = path.child(PREFERRED).index(i);
        validate_weight(&mut errors, weighted.weight, &path);
        errors.extend(validate_pod_term(&weighted.pod_affinity_term, &path.child("podAffinityTerm")));
    }
    errors
}

fn validate_pod_term(term: &PodAffinityTerm, path: &Path) -> Errors {
    let mut errors = validate_label_selector(term.label_selector.as_ref(), &path.child("labelSelector"));
    errors.extend(validate_label_selector(term.namespace_selector.as_ref(), &path.child("namespaceSelector")));
    for namespace in term.namespaces.iter().flatten() {
        errors.extend(invalid_each(&path.child("namespace"), namespace, is_dns1123_label(namespace)));
    }
    let selector = term.label_selector.as_ref();
    let (matching, mismatching) = (term.match_label_keys.as_deref(), term.mismatch_label_keys.as_deref());
    errors.extend(validate_keys(matching, selector, "matchLabelKeys", path));
    errors.extend(validate_keys(mismatching, selector, "mismatchLabelKeys", path));
    errors.extend(validate_keys_once(matching.unwrap_or_default(), selector, path));
    for (i, key) in matching.into_iter().flatten().enumerate() {
        if mismatching.is_some_and(|keys| keys.contains(key)) {
            let path = path.child("matchLabelKeys").index(i);
            errors.push(FieldError::invalid(&path, key, "exists in both matchLabelKeys and mismatchLabelKeys"));
        }
    }
    if term.topology_key.is_empty() {
        errors.push(FieldError::required(&path.child("topologyKey"), "can not be empty"));
    }
    errors.extend(validate_label_key(&term.topology_key, &path.child("topologyKey")));
    errors
}

fn validate_keys(keys: Option<&[String]>, selector: Option<&LabelSelector>, field: &str, path: &Path) -> Errors {
    let keys = keys.unwrap_or_default();
    if keys.is_empty() {
        return Vec::new();
    }
    let path = path.child(field);
    let mut errors = Vec::new();
    if selector.is_none() {
        errors.push(FieldError::forbidden(&path, "must not be specified when labelSelector is not set"));
    }
    for (i, key) in keys.iter().enumerate() {
        errors.extend(validate_label_key(key, &path.index(i)));
    }
    errors
}

/// Errors of keys that a selector, into which those keys were merged, had before (`ValidateMatchLabelKeysAndMismatchLabelKeys`;
/// the path without the field is upstream's).
fn validate_keys_once(keys: &[String], selector: Option<&LabelSelector>, path: &Path) -> Errors {
    let Some(selector) = selector.filter(|_| !keys.is_empty()) else { return Vec::new() };
    let mut errors = Vec::new();
    let mut seen: BTreeSet<&str> = selector.match_labels.iter().flatten().map(|(key, _)| key.as_str()).collect();
    for expression in selector.match_expressions.iter().flatten() {
        let key = expression.key.as_str();
        if let Some(i) = keys.iter().rposition(|k| k == key).filter(|_| seen.contains(key)) {
            let detail = "exists in both matchLabelKeys and labelSelector";
            errors.push(FieldError::invalid(&path.index(i), key, detail));
        }
        seen.insert(key);
    }
    errors
}

/// Errors of a node selector; also of a volume's node affinity.
pub(in crate::kinds) fn validate_node_selector(selector: &NodeSelector, path: &Path) -> Errors {
    let path = path.child("nodeSelectorTerms");
    if selector.node_selector_terms.is_empty() {
        return vec![FieldError::required(&path, "must have at least one node selector term")];
    }
    let terms = selector.node_selector_terms.iter().enumerate();
    terms.flat_map(|(i, term)| validate_node_term(term, false, &path.index(i))).collect()
}

fn validate_node_term(term: &NodeSelectorTerm, any_value: bool, path: &Path) -> Errors {
    let mut errors = Vec::new();
    for (i, requirement) in term.match_expressions.iter().flatten().enumerate() {
        errors.extend(validate_node_requirement(requirement, any_value, &path.child("matchExpressions").index(i)));
    }
    for (i, requirement) in term.match_fields.iter().flatten().enumerate() {
        errors.extend(validate_node_field(requirement, &path.child("matchFields").index(i)));
    }
    errors
}

fn validate_node_requirement(requirement: &NodeSelectorRequirement, any_value: bool, path: &Path) -> Errors {
    let values = requirement.values.as_deref().unwrap_or_default();
    let values_path = path.child("values");
    let mut errors = Vec::new();
    match requirement.operator.as_str() {
        "In" | "NotIn" if values.is_empty() => {
            let detail = "must be specified when `operator` is 'In' or 'NotIn'";
            errors.push(FieldError::required(&values_path, detail));
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            errors.push(FieldError::forbidden(&values_path, detail));
        }
        "Gt" | "Lt" if values.len() != 1 => {
            let detail = "must be specified single value when `operator` is 'Lt' or 'Gt'";
            errors.push(FieldError::required(&values_path, detail));
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        other => errors.push(FieldError::invalid(&path.child("operator"), other, "not a valid selector operator")),
    }
    errors.extend(validate_label_key(&requirement.key, &path.child("key")));
    if !any_value {
        for (i, value) in values.iter().enumerate() {
            errors.extend(invalid_each(&values_path.index(i), value, is_label_value(value)));
        }
    }
    errors
}

fn validate_node_field(requirement: &NodeSelectorRequirement, path: &Path) -> Errors {
    let values = requirement.values.as_deref().unwrap_or_default();
    let mut errors = Vec::new();
    match requirement.operator.as_str() {
        "In" | "NotIn" => {
            if values.len() != 1 {
                let detail = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
                errors.push(FieldError::required(&path.child("values"), detail));
            }
        }
        other => errors.push(FieldError::invalid(&path.child("operator"), other, "not a valid selector operator")),
    }
    if requirement.key == "metadata.name" {
        for (i, value) in values.iter().enumerate() {
            errors.extend(invalid_each(&path.child("values").index(i), value, is_dns1123_subdomain(value)));
        }
    } else {
        let detail = "not a valid field selector key";
        errors.push(FieldError::invalid(&path.child("key"), &requirement.key, detail));
    }
    errors
}

/// Errors of tolerations.
pub(in crate::kinds) fn validate_tolerations(tolerations: &[Toleration], path: &Path) -> Errors {
    let mut errors = Vec::new();
    for (i, toleration) in tolerations.iter().enumerate() {
        errors.extend(validate_toleration(toleration, &path.index(i)));
    }
    errors
}

fn validate_toleration(toleration: &Toleration, path: &Path) -> Errors {
    let (key, operator) = (str_of(&toleration.key), str_of(&toleration.operator));
    let (value, effect) = (str_of(&toleration.value), str_of(&toleration.effect));
    let mut errors = Vec::new();
    if !key.is_empty() {
        errors.extend(validate_label_key(key, &path.child("key")));
    } else if operator != "Exists" {
        let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
        errors.push(FieldError::invalid(&path.child("operator"), operator, detail));
    }
    if toleration.toleration_seconds.is_some() && effect != "NoExecute" {
        let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
        errors.push(FieldError::invalid(&path.child("effect"), effect, detail));
    }
    match operator {
        "" | "Equal" => {
            let messages = is_label_value(value);
            if !messages.is_empty() {
                errors.push(FieldError::invalid(&path.child("operator"), value, &messages.join(";")));
            }
        }
        "Exists" => {
            if !value.is_empty() {
                let detail = "value must be empty when `operator` is 'Exists'";
                errors.push(FieldError::invalid(&path.child("operator"), value, detail));
            }
        }
        // Lt and Gt need a gate that is off by default (TaintTolerationComparisonOperators).
        "Lt" | "Gt" => {
            let supported = ["Equal", "Exists", "Lt", "Gt"];
            errors.push(FieldError::not_supported(&path.child("operator"), operator, &supported));
        }
        other => errors.push(FieldError::not_supported(&path.child("operator"), other, &["Equal", "Exists"])),
    }
    if !effect.is_empty() {
        validate_taint_effect(&mut errors, effect, &path.child("effect"));
    }
    errors
}

/// An error if a taint's effect is unknown.
pub(in crate::kinds) fn validate_taint_effect(errors: &mut Errors, effect: &str, path: &Path) {
    one_of(errors, path, effect, &["NoSchedule", "PreferNoSchedule", "NoExecute"]);
}

pub(super) fn validate_spread(constraints: &[TopologySpreadConstraint], path: &Path) -> Errors {
    let mut errors = Vec::new();
    for (i, constraint) in constraints.iter().enumerate() {
        let path = path.index(i);
        errors.extend(validate_positive(i64::from(constraint.max_skew), &path.child("maxSkew")));
        if constraint.topology_key.is_empty() {
            errors.push(FieldError::required(&path.child("topologyKey"), "can not be empty"));
        }
        let when = constraint.when_unsatisfiable.as_str();
        one_of(&mut errors, &path.child("whenUnsatisfiable"), when, &["DoNotSchedule", "ScheduleAnyway"]);
        let same =
            |c: &TopologySpreadConstraint| c.topology_key == constraint.topology_key && c.when_unsatisfiable == when;
        if constraints[i + 1..].iter().any(same) {
            let value = format!("{{{}, {when}}}", constraint.topology_key);
            errors.push(FieldError::duplicate(&path.child("{topologyKey, whenUnsatisfiable}"), value));
        }
        if let Some(domains) = constraint.min_domains {
            let path = path.child("minDomains");
            errors.extend(validate_positive(i64::from(domains), &path));
            if when != "DoNotSchedule" {
                let detail = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {when}");
                errors.push(FieldError::invalid(&path, domains, &detail));
            }
        }
        let policies = [
            ("nodeAffinityPolicy", &constraint.node_affinity_policy),
            ("nodeTaintsPolicy", &constraint.node_taints_policy),
        ];
        for (field, policy) in policies {
            if let Some(policy) = policy {
                one_of(&mut errors, &path.child(field), policy, &["Honor", "Ignore"]);
            }
        }
        let selector = constraint.label_selector.as_ref();
        let keys = constraint.match_label_keys.as_deref();
        errors.extend(validate_keys(keys, selector, "matchLabelKeys", &path));
        errors.extend(validate_keys_once(keys.unwrap_or_default(), selector, &path));
        errors.extend(validate_label_selector(selector, &path.child("labelSelector")));
    }
    errors
}
