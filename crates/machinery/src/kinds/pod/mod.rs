//! Pod, and the pod spec that all workloads share. The pattern-setter of kinds: what a client may set, what the server
//! fills in, what may change and through which path (`pkg/registry/core/pod/strategy.go`).
//!
//! * create: status is `Pending` with the QoS class, generation 1;
//! * update: status as it was, generation bumped when the spec changes, and the spec may change only in a few fields;
//! * `status`: spec and owners as they were; `ephemeralcontainers` and `resize`: only their part of the spec;
//! * delete: with the grace period, unless the pod is on no node or done.

mod annotations;
mod columns;
pub(super) mod defaults;
pub(super) mod gated;
pub(super) mod qos;
mod update;
pub(super) mod validate;
pub(super) mod warnings;

use super::common::{bump_if_spec_changed, str_of};
use super::metadata::reset_for_status;
use super::{Column, GenerateName, Strategy};
use crate::field::Errors;
use crate::validation::{Messages, is_dns1123_subdomain};
use api::k8s::api::core::v1::{Affinity, Container, PodAffinityTerm, PodCondition, PodSpec, PodStatus};
use api::k8s::apimachinery::pkg::api::resource::Quantity;
use api::k8s::apimachinery::pkg::apis::meta::v1::LabelSelectorRequirement;
use api::prelude::Pod;
use serde_json::Value;
use std::collections::BTreeMap;

/// What is particular about a Pod.
pub(super) struct PodKind;

impl Strategy for PodKind {
    type Object = Pod;
    const GENERATE_NAME: GenerateName = GenerateName::Always;

    fn pod_spec(pod: &mut Pod) -> Option<&mut PodSpec> {
        pod.spec.as_mut()
    }

    fn default(pod: &mut Pod) {
        defaults::pod(pod);
    }

    fn prepare_create(pod: &mut Pod) {
        pod.metadata.generation = Some(1);
        pod.status = Some(PodStatus {
            phase: Some("Pending".to_owned()),
            qos_class: Some(qos::qos_class(pod).to_owned()),
            conditions: scheduling_gated(pod).map(|c| vec![c]),
            ..PodStatus::default()
        });
        annotations::copy_app_armor(pod);
        apply_label_keys(pod);
    }

    fn prepare_update(new: &mut Pod, old: &Pod) {
        new.status = old.status.clone();
        let same = new.spec == old.spec;
        bump_if_spec_changed(new, old, same);
    }

    fn prepare_status_update(new: &mut Pod, old: &Pod) {
        new.spec = old.spec.clone();
        new.metadata.deletion_timestamp = None;
        new.metadata.owner_references = old.metadata.owner_references.clone();
        update::keep_status_of(new, old);
    }

    fn prepare_subresource_update(name: &str, new: &mut Pod, old: &Pod) {
        match name {
            "ephemeralcontainers" => {
                let containers = new.spec.take().and_then(|s| s.ephemeral_containers);
                new.spec = old.spec.clone();
                new.spec.get_or_insert_default().ephemeral_containers = containers;
            }
            "resize" => update::keep_all_but_resources(new, old),
            _ => {}
        }
        if matches!(name, "ephemeralcontainers" | "resize") {
            new.status = old.status.clone();
            reset_for_status(&mut new.metadata, &old.metadata);
            let same = new.spec == old.spec;
            bump_if_spec_changed(new, old, same);
        }
    }

    fn validate_name(name: &str) -> Messages {
        is_dns1123_subdomain(name)
    }

    fn validate(pod: &Pod) -> Errors {
        validate::validate_pod(pod)
    }

    fn validate_create(pod: &Pod) -> Errors {
        validate::validate_pod_create(pod)
    }

    fn validate_update(new: &Pod, old: &Pod) -> Errors {
        let mut errors = annotations::validate_update(new, old);
        errors.extend(validate::validate_update(new, old));
        errors
    }

    fn validate_status_update(new: &Pod, old: &Pod) -> Errors {
        let mut errors = annotations::validate_update(new, old);
        errors.extend(validate::validate_status_update(new, old));
        errors
    }

    fn validate_subresource_update(name: &str, new: &Pod, old: &Pod) -> Errors {
        let mut errors = validate::validate_pod(new);
        match name {
            "ephemeralcontainers" => errors.extend(validate::validate_ephemeral_update(new, old)),
            "resize" => errors.extend(validate::validate_resize(new, old)),
            _ => {}
        }
        errors
    }

    fn warnings(pod: &Pod, old: Option<&Pod>) -> Vec<String> {
        if old.is_some() { Vec::new() } else { warnings::of_pod(pod) }
    }

    fn graceful_period(pod: &Pod, asked: Option<i64>) -> Option<i64> {
        let spec = pod.spec.as_ref();
        let phase = pod.status.as_ref().map(|s| str_of(&s.phase)).unwrap_or_default();
        let on_no_node = spec.is_none_or(|s| str_of(&s.node_name).is_empty());
        if on_no_node || matches!(phase, "Failed" | "Succeeded") {
            return Some(0);
        }
        let period = asked.or_else(|| spec.and_then(|s| s.termination_grace_period_seconds)).unwrap_or(0);
        Some(if period < 0 { 1 } else { period })
    }

    const SELECTABLE: &'static [&'static str] = &[
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "spec.hostNetwork",
        "status.phase",
        "status.podIP",
        "status.podIPs",
        "status.nominatedNodeName",
    ];

    fn selectable_fields(pod: &Pod) -> Vec<(&'static str, String)> {
        let spec = pod.spec.as_ref();
        let status = pod.status.as_ref();
        let of_spec = |get: fn(&api::prelude::PodSpec) -> &Option<String>| {
            spec.map(|s| str_of(get(s)).to_owned()).unwrap_or_default()
        };
        let of_status =
            |get: fn(&PodStatus) -> &Option<String>| status.map(|s| str_of(get(s)).to_owned()).unwrap_or_default();
        let pod_ip = status.and_then(|s| s.pod_ips.as_ref()?.first()).map(|ip| ip.ip.clone());
        vec![
            ("spec.nodeName", of_spec(|s| &s.node_name)),
            ("spec.restartPolicy", of_spec(|s| &s.restart_policy)),
            ("spec.schedulerName", of_spec(|s| &s.scheduler_name)),
            ("spec.serviceAccountName", of_spec(|s| &s.service_account_name)),
            ("spec.hostNetwork", spec.is_some_and(|s| s.host_network == Some(true)).to_string()),
            ("status.phase", of_status(|s| &s.phase)),
            ("status.podIP", pod_ip.unwrap_or_else(|| of_status(|s| &s.pod_ip))),
            ("status.nominatedNodeName", of_status(|s| &s.nominated_node_name)),
        ]
    }

    fn columns() -> Vec<Column> {
        columns::columns()
    }

    fn cells(pod: &Pod, now: jiff::Timestamp) -> Vec<Value> {
        columns::cells(pod, now)
    }

    fn quantities(pod: &mut Pod, visit: &mut dyn FnMut(&mut Quantity)) {
        if let Some(spec) = &mut pod.spec {
            defaults::quantities(spec, visit);
        }
        if let Some(status) = &mut pod.status {
            update::status_quantities(status, visit);
        }
    }
}

/// A pod with scheduling gates says so from the start.
fn scheduling_gated(pod: &Pod) -> Option<PodCondition> {
    let gates = pod.spec.as_ref()?.scheduling_gates.as_ref()?;
    (!gates.is_empty()).then(|| PodCondition {
        type_: "PodScheduled".to_owned(),
        status: "False".to_owned(),
        reason: Some("SchedulingGated".to_owned()),
        message: Some("Scheduling is blocked due to non-empty scheduling gates".to_owned()),
        last_transition_time: pod.metadata.creation_timestamp.clone(),
        ..PodCondition::default()
    })
}

/// Merges `matchLabelKeys` and `mismatchLabelKeys` into the selectors they belong to.
fn apply_label_keys(pod: &mut Pod) {
    let labels = pod.metadata.labels.clone().unwrap_or_default();
    let Some(spec) = &mut pod.spec else { return };
    if let Some(affinity) = &mut spec.affinity {
        for term in affinity_terms(affinity) {
            let Some(selector) = &mut term.label_selector else { continue };
            let expressions = selector.match_expressions.get_or_insert_default();
            merge_keys(expressions, term.match_label_keys.as_deref(), "In", &labels);
            merge_keys(expressions, term.mismatch_label_keys.as_deref(), "NotIn", &labels);
            if expressions.is_empty() {
                selector.match_expressions = None;
            }
        }
    }
    for constraint in spec.topology_spread_constraints.iter_mut().flatten() {
        let Some(selector) = &mut constraint.label_selector else { continue };
        let expressions = selector.match_expressions.get_or_insert_default();
        merge_keys(expressions, constraint.match_label_keys.as_deref(), "In", &labels);
        if expressions.is_empty() {
            selector.match_expressions = None;
        }
    }
}

fn affinity_terms(affinity: &mut Affinity) -> impl Iterator<Item = &mut PodAffinityTerm> {
    let near = affinity.pod_affinity.iter_mut().flat_map(|a| {
        let preferred = a.preferred_during_scheduling_ignored_during_execution.iter_mut().flatten();
        let required = a.required_during_scheduling_ignored_during_execution.iter_mut().flatten();
        preferred.map(|w| &mut w.pod_affinity_term).chain(required)
    });
    let far = affinity.pod_anti_affinity.iter_mut().flat_map(|a| {
        let preferred = a.preferred_during_scheduling_ignored_during_execution.iter_mut().flatten();
        let required = a.required_during_scheduling_ignored_during_execution.iter_mut().flatten();
        preferred.map(|w| &mut w.pod_affinity_term).chain(required)
    });
    near.chain(far)
}

fn merge_keys(
    expressions: &mut Vec<LabelSelectorRequirement>,
    keys: Option<&[String]>,
    operator: &str,
    labels: &BTreeMap<String, String>,
) {
    for key in keys.unwrap_or_default() {
        if let Some(value) = labels.get(key) {
            expressions.push(LabelSelectorRequirement {
                key: key.clone(),
                operator: operator.to_owned(),
                values: Some(vec![value.clone()]),
            });
        }
    }
}

/// Whether an init container keeps running beside the others (a sidecar).
pub(super) fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

#[cfg(test)]
mod tests;
